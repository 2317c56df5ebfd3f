// Event streams and polls whose server the test plays: every request is seen, and answered as the test wants.

import assert from "node:assert/strict";
import { test } from "node:test";
import { encode } from "@msgpack/msgpack";
import { connect } from "../dist/index.js";
import { active, inState, Kept, next, played, QUICK, within } from "./support.js";

/** `fetch`, and the requests that it was given. */
function web() {
  const requests = [];
  const wanted = [];
  const fetch = (url, { signal, headers }) => new Promise((resolve, reject) => {
    const request = { url: new URL(url), headers, signal, fail: () => reject(new TypeError("fetch failed")) };
    request.answer = (status, body, headers = {}) => resolve(new Response(body, { status, headers }));
    request.events = (...events) => request.answer(200, JSON.stringify(events));
    request.stream = () => {
      let controller;
      const body = new ReadableStream({ start: (given) => void (controller = given) });
      const fail = () => controller.error(new DOMException("aborted", "AbortError"));
      signal.addEventListener("abort", fail);
      request.answer(200, body, { "Content-Type": "text/event-stream" });
      const write = (text) => controller.enqueue(new TextEncoder().encode(text));
      const end = () => controller.close();
      const say = (...events) => write(events.map((event) => `${event.type === "notification" ? "" : `event: ${event.type}\n`}data: ${JSON.stringify(event)}\n\n`).join(""));
      return { write, say, end };
    };
    signal.addEventListener("abort", () => reject(signal.reason));
    const taker = wanted.shift();
    if (taker) taker(request);
    else requests.push(request);
  });
  const nextRequest = () => (requests.length > 0 ? Promise.resolve(requests.shift()) : within(new Promise((resolve) => wanted.push(resolve)), "a request"));
  return { fetch, next: nextRequest, count: () => requests.length };
}

function open(t, options) {
  const server = web();
  const client = connect("http://played.test", { fetch: server.fetch, ...options, timing: { ...QUICK, ...options.timing } });
  t.after(() => client.close());
  return { client, server };
}

const connected = { type: "connected", client_id: "5f", heartbeat: 30, timestamp: 1 };
const subscribed = (channel, seq, recovered = false) => ({ type: "subscribed", channel, epoch: 7, seq, recovered, timestamp: 1 });
const notification = (channel, seq) => ({ type: "notification", channel, seq, data: seq, timestamp: 1 });
const farewell = (code, reason, retry) => `retry: ${retry}\n\nevent: close\ndata: ${JSON.stringify({ type: "close", code, reason })}\n\n`;
const asked = ({ url }) => url.searchParams.getAll("channel").map((channel, at) => [channel, url.searchParams.getAll("since")[at]]);

test("an event stream begins, is cut, and goes on from where it was", async (t) => {
  const { client, server } = open(t, { transports: ["sse"], token: "a.b.c" });
  const news = client.subscribe("news");
  const [messages, stale] = [new Kept(news), new Kept(client, "stale")];
  const first = await server.next();
  assert.deepEqual([first.url.pathname, asked(first), first.headers.Authorization], ["/sse", [["news", undefined]], "Bearer a.b.c"]);
  const stream = first.stream();
  stream.write("retry: 3000\n\n");
  stream.say(connected, subscribed("news", 41), notification("news", 42));
  stream.write(":\n");
  await messages.is(42);
  assert.deepEqual([client.state, client.transport, client.clientId], ["connected", "sse", "5f"]);
  stream.write('data: {"type":"notification","channel":"news","seq":43,"da');
  stream.end();
  const second = await server.next();
  assert.deepEqual(asked(second), [["news", "7:42"]]);
  second.stream().say(connected, subscribed("news", 42, true), notification("news", 43));
  await messages.is(42, 43);
  assert.deepEqual(stale.values, []);
});

test("channels that come later are asked for together with the others", async (t) => {
  const { client, server } = open(t, { transports: ["sse"] });
  const first = await server.next();
  assert.deepEqual(asked(first), []);
  first.stream().say(connected);
  await inState(client, "connected");
  const [a, b] = [client.subscribe("a", { latest: true }), client.subscribe("b", { maxRate: 5 })];
  const second = await server.next();
  assert(first.signal.aborted);
  assert.equal(second.url.search, "?format=json&channel=a&latest=true&channel=b&max_rate=5");
  const stream = second.stream();
  stream.say(connected, subscribed("a", 1), { type: "error", command: "subscribe", channel: "b", code: "not_allowed", message: "no" });
  await active(a);
  // What is refused is not asked for with every request.
  client.subscribe("c");
  const third = await server.next();
  assert.deepEqual(asked(third).map(([channel]) => channel), ["a", "c"]);
  third.stream().say(connected, subscribed("a", 1, true), subscribed("c", 1));
  b.unsubscribe();
  a.unsubscribe();
  assert.deepEqual(asked(await server.next()), [["c", "7:1"]]);
});

test("a stream says goodbye, and when to come back", async (t) => {
  const end = async (text, options) => {
    const { client, server } = open(t, { transports: ["sse"], ...options });
    const request = await server.next();
    const change = next(client, "state", ({ state }) => state === "waiting" || state === "closed");
    request.stream().write(text);
    const { state, retryInMs, error } = await change;
    client.close();
    return [state, error.status, error.message, retryInMs];
  };
  assert.deepEqual(await end(farewell(1012, "reconnect in 50 ms", 50)), ["waiting", 1012, "reconnect in 50 ms", 50]);
  const [state, status, , wait] = await end(farewell(503, "The server is full.", 4000));
  assert.deepEqual([state, status, wait >= 4_000 && wait <= 4_200], ["waiting", 503, true]);
  assert.deepEqual((await end('id: never\nevent: close\ndata: {"type":"close","code":4002,"reason":"by an operator"}\n\n')).slice(0, 3), ["closed", 4002, "by an operator"]);
  assert.deepEqual((await end(farewell(4001, "expired", 500), { token: "a.b.c" })).slice(0, 2), ["closed", 4001]);
  const greeting = `event: connected\ndata: ${JSON.stringify(connected)}\n\n`;
  assert.deepEqual((await end(`${greeting}event: close\ndata: {\n\n`)).slice(0, 2), ["waiting", undefined]);
});

test("what is no event stream leads to polling", async (t) => {
  const answers = [
    (request) => request.answer(404, "no"),
    (request) => request.answer(200, "<html>", { "Content-Type": "text/html" }),
  ];
  for (const answer of answers) {
    const { client, server } = open(t, { transports: ["sse", "polling"] });
    answer(await server.next());
    const poll = await server.next();
    assert.equal(poll.url.pathname, "/poll");
    client.close();
  }
  // A network that fails says nothing, unless another request gets through, twice.
  const { server } = open(t, { transports: ["sse", "polling"] });
  for (const probed of [503, 200, 200]) {
    const stream = await server.next();
    assert.equal(stream.url.pathname, "/sse");
    stream.fail();
    (await server.next()).answer(probed, "");
  }
  assert.equal((await server.next()).url.search, "?format=json&wait=0");
});

test("a stream on which nothing comes, not even a heartbeat, is given up", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { client, server } = open(t, { transports: ["sse"] });
  const stream = (await server.next()).stream();
  stream.say(connected);
  await inState(client, "connected");
  t.mock.timers.tick(39_000);
  stream.write(":\n");
  // The reader takes it in a turn of its own.
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  t.mock.timers.tick(39_000);
  assert.equal(client.state, "connected");
  const given = next(client, "state", ({ error }) => /nothing came/.test(error?.message));
  t.mock.timers.tick(2_000);
  await given;
});

test("polls follow each other from where the last one ended", async (t) => {
  const { client, server } = open(t, { transports: ["polling"] });
  const news = client.subscribe("news");
  const [messages, begins, stale] = [new Kept(news), new Kept(news, "subscribed", ({ position }) => position.seq), new Kept(client, "stale", ({ reason, from, to }) => [reason, from, to])];
  const position = (seq) => ({ type: "position", channels: [{ channel: "news", epoch: 7, seq }] });
  (await server.next()).events(subscribed("news", 41), position(41));
  const second = await server.next();
  assert.deepEqual([asked(second), second.url.searchParams.get("wait")], [[["news", "7:41"]], "25"]);
  second.events(subscribed("news", 41, true), notification("news", 42), notification("news", 43), position(43));
  await messages.is(42, 43);
  // A message that is no message is passed over, and said so.
  (await server.next()).events(subscribed("news", 43, true), 7, position(44));
  assert.deepEqual(asked(await server.next()), [["news", "7:44"]]);
  assert.deepEqual([begins.values, stale.values], [[41], [["lost", 44, 44]]]);
});

test("a channel that comes later is polled for shortly until it is there", async (t) => {
  const { client, server } = open(t, { transports: ["polling"] });
  const waits = async (...events) => {
    const request = await server.next();
    request.events(...events);
    return request.url.searchParams.get("wait");
  };
  client.subscribe("a");
  // The bus is slow to let it flow.
  assert.deepEqual([await waits({ type: "position", channels: [] }), await waits(subscribed("a", 1), notification("a", 2))], ["0", "1"]);
  const request = await server.next();
  assert.equal(request.url.searchParams.get("wait"), "25");
  const b = client.subscribe("b");
  assert.equal(await waits(subscribed("a", 2, true), subscribed("b", 1), notification("b", 2)), "1");
  assert(request.signal.aborted);
  await active(b);
  assert.equal((await server.next()).url.searchParams.get("wait"), "25");
});

test("polls in MessagePack", async (t) => {
  const { client, server } = open(t, { transports: ["polling"], format: "msgpack" });
  const messages = new Kept(client.subscribe("news"));
  const first = await server.next();
  assert.deepEqual([first.url.searchParams.get("format"), first.headers.Accept], ["msgpack", "application/msgpack"]);
  const odd = new Map([[1, "one"], [true, "yes"]]);
  first.answer(200, encode([subscribed("news", 1), { ...notification("news", 2), data: odd }, { ...notification("news", 3), data: new Uint8Array([255]) }]));
  await messages.count(2);
  assert.deepEqual([{ ...messages.values[0] }, [...messages.values[1]]], [{}, [255]]);
});

test("answers that bring nothing are not asked for as fast as they come", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { client, server } = open(t, { transports: ["polling"] });
  client.subscribe("news");
  (await server.next()).events(subscribed("news", 1));
  (await server.next()).events(subscribed("news", 1, true));
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(server.count(), 0);
  t.mock.timers.tick(1_000);
  assert.equal((await server.next()).url.pathname, "/poll");
});

test("polls are refused for a time, or for good", async (t) => {
  const { client, server } = open(t, { transports: ["polling"] });
  const change = next(client, "state", ({ state }) => state === "waiting");
  (await server.next()).answer(429, "too many", { "Retry-After": "6" });
  assert((await change).retryInMs >= 6_000);
  client.connect();
  (await server.next()).answer(403, "not this origin");
  await inState(client, "closed");
});

test("a better transport is tried again, and taken over without a loss", async (t) => {
  const Played = played();
  const { client, server } = open(t, { WebSocket: Played, timing: { upgradeAfter: 30 } });
  const messages = new Kept(client.subscribe("news"));
  for (let tries = 0; tries < 2; tries++) {
    (await Played.next()).end(1006);
    (await server.next()).events();
  }
  const stream = (await server.next()).stream();
  stream.say(connected, subscribed("news", 1), notification("news", 2));
  await messages.is(2);
  assert.equal(client.transport, "sse");
  // Not yet.
  (await Played.next()).end(1006);
  stream.say(notification("news", 3));
  const socket = (await Played.next()).connected();
  const command = await socket.command();
  assert.deepEqual(command.since, { epoch: 7, seq: 3 });
  socket.say(subscribed("news", 3, true), { ...subscribed("news", 3, true), id: command.id }, notification("news", 4));
  await messages.is(2, 3, 4);
  assert.equal(client.transport, "websocket");
});

for (const transport of ["sse", "polling"]) {
  test(`channels that do not fit into a URL are told so once over ${transport}, and let in where others go`, async (t) => {
    const { client, server } = open(t, { transports: [transport] });
    const told = new Kept(client, "error", ({ code, channel }) => `${code} ${channel}`);
    const names = Array.from({ length: 128 }, (_, at) => `channel-of-25-letters-${at + 100}`);
    const subscriptions = names.map((name) => client.subscribe(name));
    const LAST = Number.MAX_SAFE_INTEGER;
    const answer = (request) => {
      const events = asked(request).map(([channel]) => ({ ...subscribed(channel, LAST), epoch: LAST }));
      return transport === "sse" ? request.stream().say(connected, ...events) : request.events(...events);
    };
    const first = await server.next();
    const fits = asked(first).length;
    const tooMany = names.slice(fits).map((name) => `too_many_subscriptions ${name}`);
    assert.deepEqual(told.values, tooMany);
    answer(first);
    // The longest positions throw nobody out.
    const second = await server.next();
    assert.deepEqual(asked(second), names.slice(0, fits).map((name) => [name, `${LAST}:${LAST}`]));
    assert(second.url.href.length <= 7_000, second.url.href);
    answer(second);
    await active(subscriptions[fits - 1]);
    subscriptions[0].unsubscribe();
    let request = second;
    while (request.url.href.includes(names[0])) request = await server.next();
    assert.deepEqual(asked(request).map(([channel]) => channel), names.slice(1, fits + 1));
    answer(request);
    await active(subscriptions[fits]);
    // Another connection is no news.
    client.close();
    client.connect();
    do request = await server.next();
    while (request.signal.aborted);
    answer(request);
    await inState(client, "connected");
    await server.next();
    assert.deepEqual(told.values, tooMany);
  });
}
