// Against a real server, in Node: over WebSocket, event streams and polling.

import assert from "node:assert/strict";
import { createServer, connect as dial } from "node:net";
import { test } from "node:test";
import { connect } from "../dist/index.js";
import { active, inState, Kept, next, QUICK, SECRET, Server, Storage, token, within } from "./support.js";

function open(t, server, options = {}) {
  const client = connect(server.url ?? server, { ...options, timing: { ...QUICK, ...options.timing } });
  t.after(() => client.close());
  return client;
}

/** One way of connecting, and all formats that it has. */
const WAYS = [
  { transports: ["websocket"], format: "json" },
  { transports: ["websocket"], format: "msgpack" },
  { transports: ["sse"] },
  { transports: ["polling"], format: "json" },
  { transports: ["polling"], format: "msgpack" },
];
const named = (way) => `${way.transports[0]}${way.format ? ` ${way.format}` : ""}`;

for (const way of WAYS) {
  test(`messages of every kind, in order, over ${named(way)}`, async (t) => {
    const server = await Server.start(t);
    const client = open(t, server, way);
    const news = client.subscribe("kept:news");
    const [messages, other] = [new Kept(news), new Kept(client.subscribe("plain"))];
    await Promise.all([active(news), inState(client, "connected", way.transports[0])]);
    const payloads = [{ title: "Ding", n: [1, -2, 0.5, null] }, "line\nafter line ✓", 7, [], ""];
    await server.publish("kept:news", ...payloads);
    const bytes = new Uint8Array([0, 255, 16]);
    await open(t, server, { format: "msgpack" }).publish("kept:news", bytes);
    await server.publish("plain", "other");
    await messages.count(6);
    assert.deepEqual(messages.values.map((value) => (value instanceof Uint8Array ? new Uint8Array(value) : value)), [...payloads, bytes]);
    await other.is("other");
    assert.equal(news.position.seq, 6);
  });

  test(`a server that is killed and started anew costs nothing over ${named(way)}`, async (t) => {
    const server = await Server.start(t);
    const client = open(t, server, way);
    const [stale, late] = [new Kept(client, "stale"), client.subscribe("kept:b")];
    const messages = new Kept(client.subscribe("kept:a"));
    await active(late);
    await server.publish("kept:a", 1, 2);
    await messages.is(1, 2);
    const gone = next(client, "state", ({ state }) => state !== "connected");
    await server.stop();
    await gone;
    await server.restart();
    // Before it is back, or after; whichever comes first.
    await server.publish("kept:a", 3, 4);
    await inState(client, "connected");
    await server.publish("kept:a", 5);
    await messages.is(1, 2, 3, 4, 5);
    assert.deepEqual(stale.values, []);
  });

  test(`what is gone is stale over ${named(way)}`, async (t) => {
    const server = await Server.start(t);
    const client = open(t, server, way);
    const plain = client.subscribe("plain");
    await active(plain);
    const before = new Kept(plain);
    await server.publish("plain", 1);
    await before.is(1);
    const stale = next(client, "stale");
    await server.restart();
    assert.deepEqual((({ channel, reason }) => [channel, reason])(await stale), ["plain", "epoch"]);
    const messages = new Kept(plain);
    await server.publish("plain", 2);
    await messages.is(2);

    await server.publish("short:a", ...Array(400).fill("x".repeat(1000)), "last");
    const { epoch } = await open(t, server).history("short:a", { limit: 1 });
    const rest = client.subscribe("short:a", { since: { epoch, seq: 1 } });
    const [expired, last] = [next(client, "stale"), next(rest, "message", ({ data }) => data === "last")];
    const { reason, gap, from, to } = await expired;
    assert.deepEqual([reason, gap, from, to > 100], ["gap", "expired", 2, true]);
    await last;
  });
}

test("positions outlive the client that had them", async (t) => {
  const server = await Server.start(t);
  const storage = new Storage();
  const first = open(t, server, { storage });
  const messages = new Kept(first.subscribe("kept:a"));
  await active(first.subscribe("kept:a"));
  await server.publish("kept:a", 1, 2);
  await messages.is(1, 2);
  first.close();
  await server.publish("kept:a", 3);
  const second = open(t, server, { storage });
  const rest = new Kept(second.subscribe("kept:a"));
  await server.publish("kept:a", 4);
  await rest.is(3, 4);
});

test("the newest message first, and a rate", async (t) => {
  const server = await Server.start(t);
  await server.publish("kept:price", 1, 2, 3);
  const client = open(t, server);
  await new Kept(client.subscribe("kept:price", { latest: true })).is(3);
  const slow = client.subscribe("kept:other", { maxRate: 7 });
  assert.equal((await next(slow, "subscribed")).maxRate, 6);
});

test("a client that publishes, asks and looks back", async (t) => {
  const server = await Server.start(t);
  const client = open(t, server);
  const room = client.subscribe("kept:room");
  await active(room);
  assert.deepEqual(await room.publish({ n: 1 }), { channel: "kept:room", seq: 1, repeated: false });
  const once = () => room.publish(2, { idempotencyKey: "once" });
  assert.deepEqual([await once(), await once()], [{ channel: "kept:room", seq: 2, repeated: false }, { channel: "kept:room", seq: 2, repeated: true }]);
  await server.publish("kept:room", 3, 4);
  const newest = await room.history({ limit: 2 });
  assert.deepEqual([newest.messages.map(({ data }) => data), newest.more, newest.messages[0].channel], [[3, 4], true, "kept:room"]);
  const before = await room.history({ before: newest.messages[0] });
  assert.deepEqual([before.messages.map(({ data }) => data), before.more], [[{ n: 1 }, 2], false]);
  const after = await client.history("kept:room", { since: before.messages[0] });
  assert.deepEqual([after.messages.map(({ seq }) => seq), after.recovered], [[2, 3, 4], true]);
  assert.equal((await room.presence()).subscribers, 1);
  await assert.rejects(client.markRead("kept:room", 1), { code: "no_user", command: "mark_read" });
  await assert.rejects(client.publish("kept:room", "x".repeat(2_000_000)), { code: "disconnected" });
});

test("unread counts agree between two connections of a user", async (t) => {
  const server = await Server.start(t, "--auth", "query");
  const [one, other] = [open(t, server, { user: "alice" }), open(t, server, { user: "alice" })];
  const [ofOne, ofOther] = [one, other].map((client) => client.subscribe("user:alice", { unread: true }));
  await Promise.all([active(ofOne), active(ofOther)]);
  const counts = [ofOne, ofOther].map((inbox) => new Kept(inbox, "unread", (count) => count));
  await server.publish("user:alice", "a", "b", "c");
  for (const kept of counts) await kept.is(1, 2, 3);
  const twoLeft = [ofOne, ofOther].map((inbox) => next(inbox, "unread", (count) => count === 1));
  assert.equal((await ofOne.markRead(2)).seq, 2);
  await Promise.all(twoLeft);
  const noneLeft = next(ofOther, "unread", (count) => count === 0);
  await ofOne.markRead();
  await noneLeft;
  assert.deepEqual(await one.unread(["user:alice"]).then(([{ last, read, unread }]) => [last, read, unread]), [3, 3, 0]);
  assert.deepEqual([ofOne.unread, ofOther.unread], [0, 0]);
});

const JWT = ["--auth", "jwt", "--token-secret", SECRET, "--user-channel", "--token-leeway", "0", "--token-warning", "3600"];

for (const way of WAYS) {
  test(`a token that expires is replaced without a loss over ${named(way)}, and so is one that is revoked`, async (t) => {
    const server = await Server.start(t, ...JWT);
    const reasons = [];
    const provider = async (reason) => {
      reasons.push(reason);
      const now = Math.floor(Date.now() / 1000);
      // The first one is warned of at once.
      return token({ iat: ["expired", "refused"].includes(reason) ? now : now - 60, exp: now + (reason === "connect" ? 600 : 7200) });
    };
    const client = open(t, server, { ...way, token: provider });
    const messages = new Kept(client);
    const stale = new Kept(client, "stale", (event) => event);
    const renewed = new Kept({ on: (_, listener) => client.on("event", listener) }, "event", ({ type }) => type);
    await active(client.subscribe("kept:a"));
    if (way.transports[0] !== "polling") {
      const isNext = way.transports[0] === "websocket" ? "refreshed" : "connected";
      const isRenewed = () => renewed.values.includes("expiring") && renewed.values.lastIndexOf(isNext) > renewed.values.indexOf("expiring");
      while (!isRenewed()) await renewed.count(renewed.values.length + 1);
      assert.deepEqual(reasons, ["connect", "expiring"]);
    }
    await server.publish("user:alice", 1);
    await messages.is(1);
    const count = reasons.length;
    const back = next(client, "state", ({ state }) => state === "waiting").then(() => inState(client, "connected"));
    await server.post("/revoke", { user: "alice", issued_before: Math.floor(Date.now() / 1000) - 30 });
    // The channel that the server subscribes by itself is resumed like any other.
    await server.publish("user:alice", 2);
    await back;
    assert(["expired", "refused"].includes(reasons[count]), reasons);
    await server.publish("user:alice", 3);
    await messages.is(1, 2, 3).catch((error) => {
      throw new Error(`${error.message}; stale: ${JSON.stringify(stale.values)}; events: ${renewed.values}; the server:\n${server.log}`);
    });
  });
}

test("a token that is not taken is asked for again, or ends the client", async (t) => {
  const server = await Server.start(t, ...JWT);
  const reasons = [];
  const provider = (reason) => {
    reasons.push(reason);
    return reason === "refused" ? token({}) : "a.b.c";
  };
  await inState(open(t, server, { token: provider }), "connected");
  assert.deepEqual(reasons.slice(0, 2), ["connect", "refused"]);
  for (const way of WAYS) {
    const hopeless = open(t, server, { ...way, token: "a.b.c" });
    const { error } = await next(hopeless, "state", ({ state }) => state === "closed");
    assert.deepEqual([error.code, error.status], ["refused", 401]);
  }
});

/** A proxy that refuses the paths in `blocks`, and of the answers to those in `buffers` hands on "nothing", or "the head alone". */
async function proxy(t, server, blocks, buffers = new Map()) {
  const sockets = new Set();
  let hold;
  const held = new Promise((resolve) => void (hold = resolve));
  const listener = createServer((client) => {
    const upstream = dial(Number(server.address.split(":")[1]), "127.0.0.1");
    sockets.add(client).add(upstream);
    for (const socket of [client, upstream]) socket.on("error", () => {}).on("close", () => sockets.delete(socket));
    upstream.pipe(client);
    // One request after another may come on a connection.
    client.on("data", (data) => {
      const path = /^GET (\/\w+)/.exec(data)?.[1];
      if (blocks.has(path)) return client.end("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
      if (buffers.has(path)) {
        const taken = (answer) => {
          if (buffers.get(path) === "the head alone") client.write(answer.subarray(0, answer.indexOf("\r\n\r\n") + 4));
          hold();
        };
        upstream.unpipe(client).once("data", taken).resume();
      }
      upstream.write(data);
    });
    upstream.on("close", () => client.destroy());
    client.on("close", () => upstream.destroy());
  });
  listener.listen(0, "127.0.0.1");
  await new Promise((resolve) => listener.once("listening", resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    listener.close();
  });
  const cut = () => sockets.forEach((socket) => socket.destroy());
  return { url: `http://127.0.0.1:${listener.address().port}`, held, cut };
}

test("where WebSocket does not come through it is an event stream, then polling, and back, without a loss", async (t) => {
  const server = await Server.start(t);
  const blocks = new Set(["/ws"]);
  const between = await proxy(t, server, blocks);
  const client = open(t, between, { timing: { upgradeAfter: 100 } });
  const messages = new Kept(client.subscribe("kept:a"));
  const stale = new Kept(client, "stale");
  await inState(client, "connected", "sse");
  await server.publish("kept:a", 1);
  await messages.is(1);
  await assert.rejects(client.publish("kept:a", 0), { code: "no_commands" });
  blocks.add("/sse");
  between.cut();
  await server.publish("kept:a", 2);
  await inState(client, "connected", "polling");
  await server.publish("kept:a", 3);
  await messages.is(1, 2, 3);
  blocks.clear();
  await inState(client, "connected", "websocket");
  await server.publish("kept:a", 4);
  await messages.is(1, 2, 3, 4);
  assert.deepEqual(stale.values, []);
  await client.publish("kept:a", 5);
  await messages.is(1, 2, 3, 4, 5);
});

for (const passes of ["nothing", "the head alone"]) {
  test(`a proxy that buffers, and lets through of an event stream ${passes}, leads to polling without a loss`, async (t) => {
    const server = await Server.start(t);
    await server.publish("kept:a", 1);
    const { epoch } = await open(t, server).history("kept:a");
    const between = await proxy(t, server, new Set(["/ws"]), new Map([["/sse", passes]]));
    // What is held back is given up then; a poll that takes longer is made again.
    const client = open(t, between, { timing: { connectTimeout: 500 } });
    const messages = new Kept(client.subscribe("kept:a", { since: { epoch, seq: 1 } }));
    const [stale, used] = [new Kept(client, "stale"), new Kept(client, "state", ({ state, transport }) => state === "connected" && transport)];
    await within(between.held, "an event stream that is held back");
    await server.publish("kept:a", 2);
    await inState(client, "connected", "polling");
    await server.publish("kept:a", 3);
    await messages.is(2, 3);
    assert.deepEqual([stale.values, used.values.filter(Boolean)], [[], ["polling"]]);
  });
}

test("a full server says when to come back, and is believed", async (t) => {
  const server = await Server.start(t, "--connections-max", "1");
  await inState(open(t, server), "connected");
  const { error, retryInMs } = await next(open(t, server), "state", ({ state, error }) => state === "waiting" && error.status);
  assert.deepEqual([error.status, retryInMs >= 5_000], [503, true]);
});

test("a channel that a client may not have is its own matter", async (t) => {
  const server = await Server.start(t, "--auth", "query");
  for (const way of WAYS) {
    const client = open(t, server, { ...way, user: "alice" });
    const [forbidden, allowed] = [client.subscribe("user:bob"), client.subscribe("plain")];
    const refused = next(forbidden, "error");
    await active(allowed);
    assert.equal((await refused).code, "not_allowed");
    const messages = new Kept(allowed);
    await server.publish("plain", 1);
    await messages.is(1);
    assert.deepEqual([forbidden.active, allowed.active], [false, true]);
    client.close();
  }
});
