// What a server may say and do, played: every event in any order, ends of every kind, silence.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { connect } from "../dist/index.js";
import { inState, Kept, next, played, QUICK, Storage, token, within } from "./support.js";

/** A client and the server's end of its first connection. `answers`: what HTTP requests are answered with, one after the other, the last one for ever. */
async function open(t, options = {}, answers = [{ status: 404 }]) {
  const Played = options.WebSocket ?? played();
  const asked = [];
  const fetch = async (url) => {
    asked.push(url);
    const { status, headers, body } = answers.length > 1 ? answers.shift() : answers[0];
    if (status === 0) throw new TypeError("fetch failed");
    return new Response(body ?? "", { status, headers });
  };
  const client = connect("http://played.test/", { WebSocket: Played, fetch, ...options, timing: { ...QUICK, ...options.timing } });
  t.after(() => client.close());
  return { client, Played, asked, socket: await Played.next() };
}

const subscribed = (channel, seq, more = {}) => ({ type: "subscribed", channel, epoch: 7, seq, recovered: false, timestamp: 1, ...more });
const notification = (channel, seq) => ({ type: "notification", channel, seq, data: seq, timestamp: 1 });

/** Subscribes, and answers. */
async function subscribe(client, socket, channel, seq, options) {
  const subscription = client.subscribe(channel, options);
  const { id } = await socket.command();
  socket.say(subscribed(channel, seq, { id }));
  return subscription;
}

test("what is asked for first", async (t) => {
  const { client, socket } = await open(t, { token: "e30.e30.e30", user: "bob & co" });
  assert.equal(socket.url, "ws://played.test/ws?user=bob%20%26%20co");
  assert.deepEqual(socket.protocols, ["campanile.v1.json", "bearer.e30.e30.e30"]);
  client.subscribe("news", { since: { epoch: 7, seq: 41 }, latest: true, maxRate: 5, unread: true });
  client.subscribe("sport");
  socket.connected();
  assert.deepEqual(await socket.command(), {
    type: "subscribe",
    channels: [{ channel: "news", since: { epoch: 7, seq: 41 }, latest: true, max_rate: 5, unread: true }, { channel: "sport" }],
    id: 1,
  });
  assert.equal(client.clientId, "5f");
});

test("positions follow messages and gaps, and a reconnect begins there", async (t) => {
  const { client, Played, socket } = await open(t);
  socket.connected();
  const news = await subscribe(client, socket, "news", 41);
  const [messages, stale] = [new Kept(news), new Kept(client, "stale", (value) => value)];
  socket.say(notification("news", 42), notification("news", 42), { type: "notification", channel: "news", data: "unnumbered", timestamp: 1 });
  socket.say({ type: "gap", channel: "news", from: 43, to: 50, reason: "overrun" }, notification("news", 51));
  await messages.is(42, "unnumbered", 51);
  await stale.is({ channel: "news", reason: "gap", from: 43, to: 50, gap: "overrun", position: { epoch: 7, seq: 50 } });
  socket.end(1006);
  const again = (await Played.next()).connected();
  assert.deepEqual(await again.command(), { type: "subscribe", channel: "news", since: { epoch: 7, seq: 51 }, id: 2 });
  again.say(subscribed("news", 51, { id: 2, recovered: true }), notification("news", 52));
  await messages.is(42, "unnumbered", 51, 52);
  assert.equal(stale.values.length, 1);
});

test("whatever cannot be recovered is stale", async (t) => {
  const cases = [
    [[subscribed("news", 3, { epoch: 8 })], { reason: "epoch", position: { epoch: 8, seq: 3 } }],
    [[subscribed("news", 30)], { reason: "lost", position: { epoch: 7, seq: 30 } }],
    [[subscribed("news", 45)], { reason: "lost", from: 42, to: 45, position: { epoch: 7, seq: 45 } }],
    [[notification("news", 44)], { reason: "lost", from: 42, to: 43, position: { epoch: 7, seq: 43 } }],
    [[{ type: "gap", channel: "news", from: 42, to: 57, reason: "expired" }], { reason: "gap", from: 42, to: 57, gap: "expired", position: { epoch: 7, seq: 57 } }],
    [[{ type: "unsubscribed", channel: "news", reason: "not_allowed" }], { reason: "unsubscribed" }],
    [["{", notification("news", 43)], { reason: "lost", from: 42, to: 42, position: { epoch: 7, seq: 42 } }],
  ];
  for (const [events, expected] of cases) {
    const { client, socket } = await open(t);
    socket.connected();
    await subscribe(client, socket, "news", 41);
    const stale = next(client, "stale");
    socket.say(...events);
    assert.deepEqual(await stale, { channel: "news", ...expected });
    client.close();
  }
});

test("a gap that was asked for is not stale", async (t) => {
  const { client, socket } = await open(t);
  socket.connected();
  const prices = await subscribe(client, socket, "prices", 41, { maxRate: 5 });
  const [stale, gaps] = [new Kept(client, "stale"), new Kept(client, "gap", ({ to }) => to)];
  const messages = new Kept(prices);
  socket.say({ type: "gap", channel: "prices", from: 42, to: 60, reason: "max_rate" }, notification("prices", 61));
  await messages.is(61);
  assert.deepEqual([stale.values, gaps.values], [[], [60]]);
});

test("the user's own channel, which the server subscribes by itself, is resumed as well", async (t) => {
  const { client, Played, socket } = await open(t);
  const messages = new Kept(client);
  socket.connected().say(subscribed("user:alice", 10), notification("user:alice", 11));
  await messages.is(11);
  socket.end(1006);
  const again = (await Played.next()).connected();
  // From now on, says the server; what came meanwhile is wanted, too.
  again.say(subscribed("user:alice", 14), notification("user:alice", 15));
  assert.equal((await again.command()).type, "subscribe");
  again.say({ type: "error", id: 1, command: "subscribe", channel: "user:alice", code: "already_subscribed", message: "" });
  assert.equal((await again.command()).type, "unsubscribe");
  const { id, since } = await again.command();
  assert.deepEqual(since, { epoch: 7, seq: 11 });
  again.say(subscribed("user:alice", 11, { id, recovered: true }), ...[12, 13, 14, 15].map((seq) => notification("user:alice", seq)));
  await messages.is(11, 12, 13, 14, 15);
});

test("what the server tells late of its own subscription does not pass for the answer to ours", async (t) => {
  const { client, Played, socket } = await open(t);
  const [messages, stale] = [new Kept(client), new Kept(client, "stale")];
  socket.connected().say(subscribed("user:alice", 10), notification("user:alice", 11));
  await messages.is(11);
  socket.end(1006);
  const again = (await Played.next()).connected();
  const { id: first } = await again.command();
  // It is there already, and where it begins is not known yet.
  again.say({ type: "error", id: first, command: "subscribe", channel: "user:alice", code: "already_subscribed", message: "" });
  assert.equal((await again.command()).type, "unsubscribe");
  const { id } = await again.command();
  again.say(subscribed("user:alice", 14));
  again.say(subscribed("user:alice", 11, { id, recovered: true }), ...[12, 13, 14, 15].map((seq) => notification("user:alice", seq)));
  await messages.is(11, 12, 13, 14, 15);
  assert.deepEqual(stale.values, []);
});

test("several handles share a subscription, which ends with the last of them", async (t) => {
  const { client, socket } = await open(t);
  socket.connected();
  const first = await subscribe(client, socket, "news", 41);
  const second = client.subscribe("news");
  const [ofFirst, ofSecond, ofClient] = [new Kept(first), new Kept(second), new Kept(client)];
  socket.say(notification("news", 42));
  first.unsubscribe();
  first.unsubscribe();
  socket.say(notification("news", 43));
  assert.deepEqual([ofFirst.values, ofSecond.values, ofClient.values], [[42], [42, 43], [42, 43]]);
  assert.equal(socket.sent.length, 0);
  second.unsubscribe();
  assert.equal((await socket.command()).type, "unsubscribe");
  // What is still on its way is nobody's, and the next one begins anew.
  socket.say(notification("news", 44));
  const third = client.subscribe("news");
  const ofThird = new Kept(third);
  const { id, since } = await socket.command();
  assert.equal(since, undefined);
  socket.say({ type: "unsubscribed", id: 2, channel: "news" }, subscribed("news", 50, { id }), notification("news", 51));
  assert.deepEqual([ofThird.values, ofClient.values], [[51], [42, 43, 51]]);
});

test("a listener that throws or leaves disturbs nobody", async (t) => {
  const { client, socket } = await open(t);
  const reported = t.mock.method(console, "error", () => {});
  socket.connected();
  const news = await subscribe(client, socket, "news", 41);
  const seen = [];
  news.on("message", () => {
    throw new Error("a listener's own");
  });
  const unlisten = news.on("message", ({ data }) => {
    seen.push(data);
    unlisten();
  });
  const messages = new Kept(news);
  socket.say(notification("news", 42), notification("news", 43));
  assert.deepEqual([seen, messages.values, reported.mock.callCount()], [[42], [42, 43], 2]);
});

test("a channel that is refused for now is asked for again, and others are not touched", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { client, socket } = await open(t);
  socket.connected();
  const busy = client.subscribe("busy");
  const news = client.subscribe("news");
  const { id } = await socket.command();
  const [refused, messages] = [new Kept(busy, "error", ({ code }) => code), new Kept(news)];
  socket.say({ type: "error", id, command: "subscribe", channel: "busy", code: "rate_limited", message: "" }, subscribed("news", 1, { id }));
  socket.say(notification("news", 2));
  assert.deepEqual([refused.values, messages.values, busy.active, news.active], [["rate_limited"], [2], false, true]);
  t.mock.timers.tick(4_001);
  assert.equal((await socket.command()).channel, "busy");
});

test("too many channels are told so once, and tried again when there is one less", async (t) => {
  const { client, Played, socket } = await open(t);
  socket.connected();
  const [first, ...others] = ["a", "b", "c"].map((name) => client.subscribe(name));
  const refused = new Kept(client, "error", ({ code, channel }) => [code, channel]);
  const tooMany = (id, channel) => ({ type: "error", id, command: "subscribe", channel, code: "too_many_subscriptions", message: "" });
  const { id } = await socket.command();
  socket.say(subscribed("a", 1, { id }), tooMany(id, "b"), tooMany(id, "c"));
  socket.end(1006);
  const again = (await Played.next()).connected();
  const { id: second } = await again.command();
  again.say(subscribed("a", 1, { id: second, recovered: true }), tooMany(second, "b"), tooMany(second, "c"));
  first.unsubscribe();
  assert.deepEqual(await again.command(), { type: "unsubscribe", channel: "a", id: 3 });
  assert.deepEqual(await again.command(), { type: "subscribe", channel: "b", id: 4 });
  again.say(subscribed("b", 1, { id: 4 }));
  assert.deepEqual([others.map(({ active }) => active), refused.values], [[true, false], [["too_many_subscriptions", "b"], ["too_many_subscriptions", "c"]]]);
  // Whoever was let in, and then was not, is told anew.
  again.end(1006);
  const last = (await Played.next()).connected();
  const { id: third } = await last.command();
  last.say(tooMany(third, "b"), tooMany(third, "c"));
  assert.deepEqual(refused.values.slice(2), [["too_many_subscriptions", "b"]]);
});

test("a count that cannot be had does not cost the channel", async (t) => {
  const { client, socket } = await open(t);
  socket.connected();
  const news = client.subscribe("news", { unread: true });
  const refused = new Kept(news, "error", ({ code }) => code);
  const { id } = await socket.command();
  socket.say({ type: "error", id, command: "subscribe", channel: "news", code: "no_user", message: "" });
  const second = await socket.command();
  assert.deepEqual([second.unread, refused.values], [undefined, ["no_user"]]);
  socket.say(subscribed("news", 1, { id: second.id }));
  assert(news.active);
});

test("unread counts follow messages and marks, wherever they are set", async (t) => {
  const { client, socket } = await open(t);
  socket.connected();
  const inbox = client.subscribe("user:alice", { unread: true });
  const counts = new Kept(inbox, "unread", (count) => count);
  const { id } = await socket.command();
  socket.say(subscribed("user:alice", 41, { id, unread: 3 }), notification("user:alice", 42));
  // Another tab has read a part: how much is for the server to say, and a message comes meanwhile.
  socket.say({ type: "read", channel: "user:alice", epoch: 7, seq: 40 });
  const question = await socket.command();
  assert.deepEqual(question.channels, ["user:alice"]);
  socket.say(notification("user:alice", 43));
  socket.say({ type: "unread", id: question.id, channels: [{ channel: "user:alice", epoch: 7, last: 42, read: 40, unread: 2 }] });
  await counts.count(4);
  const marked = inbox.markRead();
  const command = await socket.command();
  assert.deepEqual(command, { type: "mark_read", channel: "user:alice", epoch: 7, seq: 43, id: command.id });
  socket.say({ type: "read", id: command.id, channel: "user:alice", epoch: 7, seq: 43 });
  assert.deepEqual(await marked, { channel: "user:alice", epoch: 7, seq: 43 });
  await counts.is(3, 4, 5, 3, 0);
});

test("commands outlive a connection if that does no harm", async (t) => {
  const { client, Played, socket } = await open(t);
  const early = client.presence("room");
  socket.connected();
  const { id } = await socket.command();
  socket.say({ type: "presence", id, channel: "room", subscribers: 3 });
  assert.deepEqual(await early, { channel: "room", subscribers: 3 });
  const [plain, keyed] = [client.publish("news", 1), client.publish("news", 2, { idempotencyKey: "k" })];
  await socket.command();
  await socket.command();
  socket.end(1006);
  await assert.rejects(plain, { code: "disconnected", command: "publish", channel: "news" });
  const again = (await Played.next()).connected();
  const repeated = await again.command();
  assert.equal(repeated.idempotency_key, "k");
  again.say({ type: "published", id: repeated.id, channel: "news", seq: 9, repeated: true });
  assert.deepEqual(await keyed, { channel: "news", seq: 9, repeated: true });
  const refused = client.history("news");
  const history = await again.command();
  again.say({ type: "error", id: history.id, command: "history", channel: "news", code: "not_allowed", message: "no" });
  await assert.rejects(refused, { code: "not_allowed", message: "no" });
  const last = client.history("news");
  client.close();
  await assert.rejects(last, { code: "closed" });
  await assert.rejects(client.unread(["news"]), { code: "closed" });
});

test("a command that is not answered does not wait for ever, and few may wait", async (t) => {
  const { client, socket } = await open(t, { timing: { commandTimeout: 30 } });
  socket.connected();
  const all = Array.from({ length: 1_001 }, () => client.presence("room").catch(({ code }) => code));
  const codes = await Promise.all(all);
  assert.deepEqual([codes.filter((code) => code === "timeout").length, codes.at(-1)], [1_000, "busy"]);
});

test("close codes say whether to come back", async (t) => {
  for (const code of [1002, 1007, 1008, 1009, 4002]) {
    const { client, Played, socket } = await open(t);
    socket.connected().end(code, "for a reason");
    await inState(client, "closed");
    assert.equal(Played.count(), 0);
    client.connect();
    await Played.next();
    client.close();
  }
  for (const code of [1000, 1001, 1006, 1013, 4008, 4029, 4999]) {
    const { client, Played, socket } = await open(t);
    const waiting = next(client, "state", ({ state }) => state === "waiting");
    socket.connected().end(code, "for a reason");
    const { error, retryInMs } = await waiting;
    assert.deepEqual([error.status, error.message, retryInMs <= QUICK.backoffMin], [code === 1006 ? undefined : code, "for a reason", true]);
    await Played.next();
    client.close();
  }
});

test("a restarting server says when to come back, and is believed", async (t) => {
  const { client, Played, socket } = await open(t);
  const waiting = next(client, "state", ({ state }) => state === "waiting");
  socket.connected().end(1012, "reconnect in 37 ms");
  assert.equal((await waiting).retryInMs, 37);
  await Played.next();
});

test("failures wait longer and longer, by chance, and a connection that holds ends that", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  t.mock.method(Math, "random", () => 0.5);
  const { client, Played, socket } = await open(t, { timing: { backoffMin: 1_000, backoffMax: 60_000 } });
  const delays = new Kept(client, "state", ({ retryInMs }) => retryInMs);
  let current = socket;
  const fail = async () => {
    const waiting = next(client, "state", ({ state }) => state === "waiting");
    current.end(1006);
    t.mock.timers.tick((await waiting).retryInMs);
    current = await Played.next();
  };
  for (let tries = 0; tries < 8; tries++) await fail();
  assert.deepEqual(delays.values.filter(Boolean), [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
  current.connected();
  t.mock.timers.tick(10_000);
  await fail();
  assert.equal(delays.values.filter(Boolean).at(-1), 500);
});

test("why an upgrade was refused is asked over HTTP", async (t) => {
  const refused = async (answer, options) => {
    const { client, socket, asked } = await open(t, options, [answer]);
    const change = next(client, "state", ({ state }) => state !== "connecting");
    socket.onerror({});
    socket.end(1006);
    const told = await change;
    assert.match(asked[0], /^http:\/\/played\.test\/poll\?/);
    client.close();
    return told;
  };
  const later = await refused({ status: 503, headers: { "Retry-After": "7" }, body: "The server is full.\n" });
  assert.deepEqual([later.state, later.error.status, later.error.message], ["waiting", 503, "The server is full."]);
  assert(later.retryInMs >= 7_000 && later.retryInMs <= 7_000 + QUICK.backoffMax, `${later.retryInMs}`);
  assert((await refused({ status: 429, headers: { "Retry-After": "5" } })).retryInMs >= 5_000);
  assert.deepEqual((({ state, error }) => [state, error.status])(await refused({ status: 403, body: "not this origin" })), ["closed", 403]);
  assert.deepEqual((({ state, error }) => [state, error.code])(await refused({ status: 0 })), ["waiting", "unreachable"]);
  assert.equal((await refused({ status: 401 }, { token: "a.b.c" })).state, "closed");
});

test("a token that is refused is replaced, but not for ever", async (t) => {
  const reasons = [];
  const provider = (reason) => {
    reasons.push(reason);
    return token({});
  };
  const { client, Played, socket } = await open(t, { token: provider }, [{ status: 401, body: "(expired)" }]);
  socket.end(1006);
  for (let tries = 0; tries < 5; tries++) (await Played.next()).end(1006);
  await inState(client, "closed");
  assert.deepEqual(reasons, ["connect", ...Array(5).fill("refused")]);
});

test("the provider is asked when a token expires, on the connection and after it", async (t) => {
  const reasons = [];
  const provider = async (reason) => {
    reasons.push(reason);
    return `${reason}.e30.e30`;
  };
  const { client, Played, socket } = await open(t, { token: provider });
  socket.connected().say({ type: "expiring", expires: 1 });
  const refresh = await socket.command();
  assert.deepEqual([refresh.type, refresh.token], ["refresh", "expiring.e30.e30"]);
  socket.say({ type: "refreshed", id: refresh.id, expires: 2 });
  socket.end(1006);
  // Cut, but the token is good.
  const second = await Played.next();
  assert.deepEqual(second.protocols[1], "bearer.expiring.e30.e30");
  second.connected().end(4001, "the token has expired");
  assert.equal((await Played.next()).protocols[1], "bearer.expired.e30.e30");
  assert.deepEqual(reasons, ["connect", "expiring", "expired"]);
  client.close();
});

test("a provider that throws, or never answers, is asked again", async (t) => {
  const answers = [() => Promise.reject(new Error("no session")), () => new Promise(() => {}), () => "a.b.c"];
  const Played = played();
  const client = connect("http://played.test", { WebSocket: Played, token: () => answers.shift()(), timing: { ...QUICK, tokenTimeout: 30 } });
  t.after(() => client.close());
  const errors = new Kept(client, "error", ({ code, message }) => [code, message]);
  assert.equal((await Played.next()).protocols[1], "bearer.a.b.c");
  assert.deepEqual(errors.values, [
    ["token_failed", "The token provider failed: no session"],
    ["token_failed", "The token provider failed: no token within 30 ms"],
  ]);
});

test("a connection that never comes, or fails without a close, is given up", async (t) => {
  const { client, Played, socket } = await open(t, { timing: { connectTimeout: 40 } }, [{ status: 0 }]);
  const late = await Played.next();
  assert.equal(socket.readyState, 3);
  // A page's Content-Security-Policy: error, closed, and no more.
  late.readyState = 3;
  late.onerror({});
  (await Played.next()).connected();
  assert.equal(client.state, "connected");
});

test("a silent connection is asked, and given up when it does not answer", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const { client, Played, socket } = await open(t, { timing: { pongTimeout: 10_000 } });
  socket.connected(30);
  t.mock.timers.tick(29_999);
  assert.equal(socket.sent.length, 0);
  t.mock.timers.tick(1);
  assert.deepEqual(await socket.command(), { type: "ping" });
  socket.say({ type: "pong" });
  t.mock.timers.tick(10_000);
  assert.equal(client.state, "connected");
  t.mock.timers.tick(30_000);
  assert.deepEqual(await socket.command(), { type: "ping" });
  const given = next(client, "state", ({ error }) => /no answer to a ping/.test(error?.message));
  t.mock.timers.tick(10_000);
  await given;
  t.mock.timers.tick(1_000);
  await Played.next();
});

test("positions outlive the page, and a storage that fails is told once", async (t) => {
  const storage = new Storage();
  const first = await open(t, { storage });
  first.socket.connected();
  await subscribe(first.client, first.socket, "news", 41);
  first.socket.say(notification("news", 42));
  first.client.close();
  const second = await open(t, { storage });
  second.socket.connected();
  second.client.subscribe("news");
  assert.deepEqual((await second.socket.command()).since, { epoch: 7, seq: 42 });
  second.client.subscribe("other", { since: { epoch: 1, seq: 2 } }).unsubscribe();
  second.client.close();
  assert.deepEqual(JSON.parse(storage.getItem("campanile:http://played.test")), [["news", { epoch: 7, seq: 42 }]]);

  for (const text of ["{", "[1]", '[["news"]]', '[["news",{"epoch":-1,"seq":"x"}]]', "null", '{"a":1}']) {
    storage.setItem("campanile:http://played.test", text);
    const { client, socket } = await open(t, { storage });
    socket.connected();
    client.subscribe("news");
    assert.equal((await socket.command()).since, undefined);
    client.close();
  }
  const broken = { getItem: () => null, setItem: () => { throw new Error("quota"); } };
  const { client, socket } = await open(t, { storage: broken });
  const errors = new Kept(client, "error", ({ code }) => code);
  socket.connected();
  await subscribe(client, socket, "news", 41);
  client.close();
  assert.deepEqual(errors.values, ["storage_failed"]);
});

test("what the protocol does not allow is told where it is written", async (t) => {
  const { client } = await open(t);
  const bad = { code: "bad_request" };
  for (const name of ["", "x".repeat(256), "é".repeat(128), "a\nb", "__campanile__:x", undefined]) assert.throws(() => client.subscribe(name), bad);
  assert.throws(() => client.subscribe("news", { maxRate: 0 }), bad);
  assert.throws(() => client.subscribe("news", { since: { epoch: 1 } }), bad);
  for (const address of ["no address", "ftp://host"]) assert.throws(() => connect(address), bad);
  assert.throws(() => connect("http://host", { transports: ["carrier pigeon"] }), bad);
  assert.throws(() => connect("http://host", { format: "xml" }), bad);
  await assert.rejects(client.publish("news", undefined), bad);
  await assert.rejects(client.publish("news", new Uint8Array(1)), bad);
  await assert.rejects(client.unread([]), bad);
  await assert.rejects(client.subscribe("news").markRead(), bad);
});

/** The events of the protocol's vectors, in JSON. */
function vectors() {
  const document = readFileSync(process.env.CAMPANILE_PROTOCOL ?? new URL("../../../docs/protocol.md", import.meta.url), "utf8");
  const found = document.matchAll(/^vector: (?:event|notification)\/(\S+)\n(?:.*\n)*?json: (.*)$/gm);
  return [...found].map(([, , json]) => json);
}

/** Numbers by chance that come again with their seed. */
function seeded(seed) {
  return () => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return seed / 2 ** 32;
  };
}

test("every event of the protocol's vectors, in any order, leaves a client that works", async (t) => {
  const events = vectors();
  assert(events.length >= 25, `${events.length} vectors`);
  for (const name of ["connected", "subscribed", "unsubscribed", "published", "pong", "notification", "gap", "error", "refreshed", "expiring", "history", "read", "unread", "presence"]) {
    assert(events.some((json) => JSON.parse(json).type === name), `no vector of ${name}`);
  }
  const mutilated = ["", "null", "[]", "{}", "7", '{"type":7}', '{"type":"later"}', '{"type":"gap"}', '{"type":"subscribed","channel":7}', '{"type":"read"}', '{"type":"unread","channels":[null]}', '{"type":"position","channels":7}'];
  const first = Number(process.env.SEED ?? 1);
  for (let seed = first; seed < first + (process.env.SEED ? 1 : 30); seed++) {
    const random = seeded(seed);
    const pick = (list) => list[Math.floor(random() * list.length)];
    const { client, Played, socket } = await open(t, { token: () => "a.b.c", timing: { backoffMin: 1, backoffMax: 2 } });
    let current = socket;
    const staleBefore = new Map();
    client.on("message", ({ channel, seq, epoch }) => {
      if (seq === undefined || epoch === undefined) return;
      const before = staleBefore.get(channel);
      assert(!before || before.epoch !== epoch || seq > before.seq, `seed ${seed}: ${channel} ${seq} after ${before?.seq}`);
      staleBefore.set(channel, { epoch, seq });
    });
    // A new beginning may go back.
    client.on("stale", ({ channel }) => staleBefore.delete(channel));
    current.connected();
    for (const channel of ["news", "user:123", "prices:eur"]) client.subscribe(channel, { unread: true });
    void client.history("news").catch(() => {});
    for (let step = 0; step < 60; step++) {
      current.say(random() < 0.9 ? pick(events) : pick(mutilated));
      if (random() < 0.1) await Promise.resolve();
      if (random() < 0.05) {
        current.end(1006);
        current = await Played.next();
        current.connected();
      }
    }
    current.end(1006);
    current = (await Played.next()).connected();
    const last = client.subscribe(`last ${seed}`);
    let command;
    const isLast = ({ channel, channels }) => channel === last.channel || channels?.some((one) => one.channel === last.channel);
    while (!command || command.type !== "subscribe" || !isLast(command)) command = await current.command();
    const messages = new Kept(last);
    current.say(subscribed(last.channel, 1, { id: command.id }), notification(last.channel, 2));
    assert.deepEqual(messages.values, [2], `seed ${seed}`);
    client.close();
  }
});

test("what is closed stays closed", async (t) => {
  // Whatever is put off for later is done when it is said.
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const { client, Played, socket } = await open(t);
  socket.connected();
  const muchLater = async () => {
    await new Promise(setImmediate);
    t.mock.timers.tick(60_000);
    await new Promise(setImmediate);
  };
  client.close();
  client.close();
  socket.end(1006);
  socket.say(notification("news", 1));
  await muchLater();
  assert.deepEqual([client.state, Played.count()], ["closed", 0]);
  // Closed while it is on its way.
  client.connect();
  client.close();
  await muchLater();
  assert.deepEqual([client.state, Played.count()], ["closed", 0]);
});

test("both forms of the module can be loaded", async () => {
  const { createRequire } = await import("node:module");
  const required = createRequire(import.meta.url)("../dist/index.cjs");
  assert.deepEqual([typeof required.connect, typeof required.CampanileError], ["function", "function"]);
  const Played = played();
  const client = required.connect("https://played.test/push/ws", { WebSocket: Played });
  assert.equal((await within(Played.next(), "a socket")).url, "wss://played.test/push/ws?");
  client.close();
});
