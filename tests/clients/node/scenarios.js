// One scenario with the `ws` library: scenarios.js NAME FORMAT HOST:PORT REDIS_PORT. Called by tests/whole/clients.rs.
//
// Exit code 0: the server did all that docs/protocol.md promises. Messages are published by redis-cli. python/scenarios.py is its twin.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { isDeepStrictEqual } from "node:util";
import { decode, encode } from "@msgpack/msgpack";
import WebSocket from "ws";

const PATIENCE = 60_000;
const [name, FORMAT, ADDRESS, REDIS_PORT] = process.argv.slice(2);
const PREFIX = "notifications:";

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${PATIENCE} ms: ${what}`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// A connection whose events must all come in `format`.
class Client {
  constructor(path = "/ws", format = FORMAT, { negotiate = "subprotocol", offer } = {}) {
    this.format = format;
    if (negotiate === "subprotocol") offer = [`campanile.v1.${format}`];
    if (negotiate === "query") path += `${path.includes("?") ? "&" : "?"}format=${format}`;
    this.ws = new WebSocket(`ws://${ADDRESS}${path}`, offer ?? []);
    this.arrived = [];
    this.wanted = [];
    this.pings = 0;
    this.onPing = () => {};
    this.ws.on("message", (data, isBinary) => {
      const message = { data, isBinary };
      const taker = this.wanted.shift();
      if (taker) taker(message);
      else this.arrived.push(message);
    });
    this.ws.on("ping", () => {
      this.pings += 1;
      this.onPing();
    });
    this.closed = new Promise((resolve) => this.ws.on("close", (code, reason) => resolve([code, reason.toString()])));
    this.opened = new Promise((resolve, reject) => this.ws.on("open", resolve).on("error", reject));
  }

  static async open(...parameters) {
    const client = new Client(...parameters);
    await within(client.opened, "open");
    if (client.format !== "raw") await client.connected();
    return client;
  }

  encoded(command) {
    return this.format === "msgpack" ? Buffer.from(encode(command)) : JSON.stringify(command);
  }

  send(command) {
    this.ws.send(this.encoded(command));
  }

  message() {
    const message = this.arrived.shift();
    return message ?? within(new Promise((resolve) => this.wanted.push(resolve)), "a message");
  }

  async event(type) {
    const { data, isBinary } = await this.message();
    assert.equal(isBinary, this.format === "msgpack");
    const event = isBinary ? decode(new Uint8Array(data)) : JSON.parse(data.toString());
    if (type) assert.equal(event.type, type, JSON.stringify(event));
    return event;
  }

  async connected() {
    const event = await this.event("connected");
    checkFields(event, "type client_id heartbeat timestamp");
    assert.ok(typeof event.client_id === "string" && event.client_id !== "" && event.heartbeat >= 1);
    checkTimestamp(event);
  }

  async subscribed(channel, { id, recovered = false } = {}) {
    const event = await this.event("subscribed");
    checkFields(event, "type channel epoch seq recovered timestamp", id);
    assert.equal(event.channel, channel);
    assert.equal(event.recovered, recovered);
    assert.ok(Number.isSafeInteger(event.epoch) && Number.isSafeInteger(event.seq));
    checkTimestamp(event);
    return event;
  }

  async notification(channel, seq, data, encoding) {
    const event = await this.event("notification");
    checkFields(event, `type channel seq data timestamp${encoding ? " encoding" : ""}`);
    assert.deepEqual([event.channel, event.seq, event.encoding], [channel, seq, encoding]);
    assert.deepEqual(event.data, data);
    checkTimestamp(event);
  }

  subscribe(channel, more = {}) {
    this.send({ type: "subscribe", channel, ...more });
    return this.subscribed(channel, { id: more.id });
  }

  pong(payload) {
    const pong = within(new Promise((resolve) => this.ws.once("pong", resolve)), "a pong");
    this.ws.ping(payload);
    return pong;
  }
}

function checkFields(event, names, id) {
  const expected = names.split(" ").concat(id === undefined ? [] : ["id"]);
  assert.deepEqual(Object.keys(event).sort(), expected.sort(), JSON.stringify(event));
  if (id !== undefined) assert.equal(event.id, id);
}

function checkTimestamp({ timestamp }) {
  assert.ok(Number.isSafeInteger(timestamp) && Math.abs(timestamp - Date.now()) < 60_000, `${timestamp}`);
}

function redisCli(parameters, input = "") {
  const run = spawnSync("redis-cli", ["-p", REDIS_PORT, ...parameters], { input, timeout: PATIENCE, maxBuffer: 1 << 26 });
  assert.equal(run.status, 0, `redis-cli: ${run.error ?? run.stderr}`);
  return run.stdout.toString();
}

function publish(channel, payload, receivers = 1) {
  assert.equal(redisCli(["-x", "PUBLISH", PREFIX + channel], payload).trim(), String(receivers), `receivers of ${channel}`);
}

function range(from, to) {
  return Array.from({ length: to - from + 1 }, (_, at) => from + at);
}

function publishRange(channel, from, to, pad = "") {
  redisCli([], range(from, to).map((n) => `PUBLISH ${PREFIX}${channel} ${pad}${n}\n`).join(""));
}

async function unread(client) {
  client.send({ type: "unread", channels: ["feed:news"], id: "u" });
  const event = await client.event("unread");
  checkFields(event, "type channels", "u");
  const [{ channel, last, read, unread }, ...more] = event.channels;
  assert.deepEqual(more, []);
  return [channel, last, read, unread];
}

// The number that counts then.
async function markRead(client, seq, more = {}) {
  client.send({ type: "mark_read", channel: "feed:news", seq, id: seq, ...more });
  const event = await client.event("read");
  checkFields(event, "type channel epoch seq", seq);
  return event.seq;
}

// Asks until it is so: nobody is told who comes and goes.
async function comesToBeThere(client, subscribers, members) {
  const begin = Date.now();
  for (;;) {
    client.send({ type: "presence", channel: "room:7", members: true, id: "p" });
    const event = await client.event("presence");
    checkFields(event, "type channel subscribers members more", "p");
    if (isDeepStrictEqual([event.subscribers, event.members], [subscribers, members])) return;
    assert.ok(Date.now() - begin < PATIENCE, JSON.stringify(event));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const scenarios = {
  async three_ways_to_subscribe() {
    const byPath = await Client.open("/ws/news%2Fof/t%20day", FORMAT, { negotiate: "query" });
    await byPath.subscribed("news/of/t day");
    const byQuery = await Client.open("/ws?channel=one&channel=two+words&channel=one", FORMAT, { negotiate: "query" });
    const names = [(await byQuery.event("subscribed")).channel, (await byQuery.event("subscribed")).channel];
    assert.deepEqual(names.sort(), ["one", "two words"]);
    const byCommand = await Client.open();
    await byCommand.subscribe("one", { id: 1 });
    await byCommand.subscribe("user:ünï:✓", { id: "second" });
    publish("news/of/t day", '{"a": [1, 2.5, null, "é"]}');
    publish("one", '{"n": 1}');
    publish("two words", '"text"');
    publish("user:ünï:✓", "[true]");
    await byPath.notification("news/of/t day", 1, { a: [1, 2.5, null, "é"] });
    await byQuery.notification("one", 1, { n: 1 });
    await byQuery.notification("two words", 1, "text");
    await byCommand.notification("one", 1, { n: 1 });
    await byCommand.notification("user:ünï:✓", 1, [true]);
  },

  async payloads_of_every_kind() {
    const client = await Client.open();
    await client.subscribe("kinds");
    publish("kinds", '{"float": 1.5, "deep": [[{}]]}');
    await client.notification("kinds", 1, { float: 1.5, deep: [[{}]] });
    publish("kinds", encode({ title: "Ding", n: 300 }));
    await client.notification("kinds", 2, { title: "Ding", n: 300 });
    publish("kinds", 'Ding "dong" é');
    await client.notification("kinds", 3, 'Ding "dong" é');
    publish("kinds", Buffer.from([0xff, 0, 0xfe, 1]));
    if (FORMAT === "msgpack") await client.notification("kinds", 4, new Uint8Array([0xff, 0, 0xfe, 1]));
    else await client.notification("kinds", 4, "/wD+AQ==", "base64");
    publish("kinds", encode({ bin: new Uint8Array([1, 2]) }));
    await client.notification("kinds", 5, { bin: FORMAT === "msgpack" ? new Uint8Array([1, 2]) : "AQI=" });
    const long = ["x".repeat(70_000)];
    publish("kinds", JSON.stringify(long));
    await client.notification("kinds", 6, long);
    assert.equal(redisCli(["PUBLISH", "notifications", "outside"]).trim(), "0");
    await client.subscribe("notifications");
    assert.equal(redisCli(["PUBLISH", "notifications", "outside"]).trim(), "1");
    await client.notification("notifications", 1, "outside");
  },

  async many_messages_in_order() {
    const clients = [await Client.open(), await Client.open(), await Client.open()];
    for (const client of clients) await client.subscribe("burst");
    publishRange("burst", 1, 1000);
    for (const client of clients) for (const n of range(1, 1000)) await client.notification("burst", n, n);
  },

  async ids_and_unsubscribe() {
    const [client, witness] = [await Client.open(), await Client.open()];
    await client.subscribe("room", { id: 0 });
    await client.subscribe("hall", { id: Number.MAX_SAFE_INTEGER });
    await witness.subscribe("room", { id: "x".repeat(64) });
    publish("room", "1");
    await client.notification("room", 1, 1);
    await witness.notification("room", 1, 1);
    client.send({ type: "unsubscribe", channel: "room", id: "bye" });
    let event = await client.event("unsubscribed");
    checkFields(event, "type channel timestamp", "bye");
    assert.equal(event.channel, "room");
    publish("room", "2");
    await witness.notification("room", 2, 2);
    publish("hall", "3");
    await client.notification("hall", 1, 3);
    client.send({ type: "unsubscribe", channel: "hall" });
    checkFields(await client.event("unsubscribed"), "type channel timestamp");
    assert.equal((await client.subscribe("room", { id: 5 })).seq, 2);
    publish("room", "4");
    await client.notification("room", 3, 4);
  },

  async pings_of_both_levels() {
    const client = await Client.open();
    assert.equal((await client.pong("are you there?")).toString(), "are you there?");
    assert.equal((await client.pong("")).length, 0);
    client.send({ type: "ping", id: "p" });
    assert.deepEqual(await client.event(), { type: "pong", id: "p" });
    client.send({ type: "ping" });
    assert.deepEqual(await client.event(), { type: "pong" });
    // Its heartbeat is a second, and the library answers each ping: the connection lasts.
    await within(new Promise((resolve) => (client.onPing = () => client.pings >= 3 && resolve())), "three pings");
    client.send({ type: "ping", id: 3 });
    assert.deepEqual(await client.event(), { type: "pong", id: 3 });
  },

  async errors_have_their_codes() {
    const client = await Client.open();
    const error = async (code, command, message = client.encoded(command)) => {
      client.ws.send(message);
      const event = await client.event("error");
      // Whoever sends no id still learns what failed.
      const { type, channel } = command ?? {};
      const named = (type === undefined ? "" : " command") + (typeof channel !== "string" || channel.length > 255 ? "" : " channel");
      checkFields(event, `type code message${named}`, command?.id);
      assert.equal(event.command, type);
      if (event.channel !== undefined) assert.equal(event.channel, channel);
      assert.equal(event.code, code, JSON.stringify(event));
      assert.ok(event.message.length > 5);
    };
    await error("bad_command", undefined, FORMAT === "json" ? "not json" : Buffer.from([0xc1]));
    await error("bad_command", undefined, FORMAT === "json" ? "[]" : Buffer.from([0x90]));
    await error("bad_command", { id: 3, channel: "news" });
    await error("bad_command", { id: 4, type: "subscribe" });
    await error("bad_command", { id: 5, type: "subscribe", channel: ["news"] });
    await error("unknown_type", { id: "u", type: "dance" });
    await error("unknown_type", { id: "h", type: "later", channel: "news", limit: 3 });
    await error("bad_channel", { id: 6, type: "subscribe", channel: "" });
    await error("bad_channel", { id: 7, type: "subscribe", channel: "x".repeat(256) });
    await error("bad_channel", { id: 8, type: "subscribe", channel: "a\nb" });
    await error("not_subscribed", { id: 9, type: "unsubscribe", channel: "news" });
    await error("not_allowed", { id: 10, type: "publish", channel: "news", data: 1 });
    await client.subscribe("news");
    await error("already_subscribed", { id: 11, type: "subscribe", channel: "news" });
    await client.subscribe("sport");
    await error("too_many_subscriptions", { id: 12, type: "subscribe", channel: "weather" });
    client.send({ type: "ping", unknown: { field: [1] }, id: 13 });
    assert.deepEqual(await client.event(), { type: "pong", id: 13 });
  },

  async resume_after_a_reconnect() {
    let [client, other] = [await Client.open(), await Client.open()];
    const { epoch } = await client.subscribe("feed", { id: 1 });
    await other.subscribe("feed");
    for (const n of range(1, 3)) {
      publish("feed", String(n));
      await client.notification("feed", n, n);
    }
    client.ws.terminate();
    for (const n of range(4, 7)) {
      publish("feed", String(n));
    }
    // `other` is behind by all seven.
    for (const n of range(1, 7)) await other.notification("feed", n, n);
    client = await Client.open();
    client.send({ type: "subscribe", channel: "feed", id: 2, since: { epoch, seq: 3 } });
    let event = await client.subscribed("feed", { id: 2, recovered: true });
    assert.deepEqual([event.epoch, event.seq], [epoch, 3]);
    for (const n of range(4, 7)) await client.notification("feed", n, n);
    publish("feed", "8");
    await client.notification("feed", 8, 8);
    // The history holds 10 messages and what shares a batch (of up to 64 KiB) with them; what is older is named by a gap.
    const pad = "x".repeat(20_000);
    publishRange("feed", 9, 30, pad);
    // Nobody has missed any of it: what somebody still waits for is kept beyond the history.
    await other.notification("feed", 8, 8);
    for (const reader of [client, other]) {
      for (const n of range(9, 30)) await reader.notification("feed", n, `${pad}${n}`);
    }
    const late = await Client.open();
    late.send({ type: "subscribe", channel: "feed", since: { epoch, seq: 5 } });
    event = await late.subscribed("feed");
    assert.deepEqual([event.epoch, event.seq], [epoch, 5]);
    const gap = await late.event("gap");
    checkFields(gap, "type channel from to reason");
    assert.deepEqual([gap.channel, gap.from, gap.reason], ["feed", 6, "expired"]);
    assert.ok(gap.to >= 6 && gap.to <= 20, `${gap.to}`);
    for (const n of range(gap.to + 1, 30)) await late.notification("feed", n, n > 8 ? `${pad}${n}` : n);
    const stranger = await Client.open();
    stranger.send({ type: "subscribe", channel: "feed", since: { epoch: epoch === 1 ? 2 : epoch - 1, seq: 5 } });
    event = await stranger.subscribed("feed");
    assert.deepEqual([event.epoch, event.seq], [epoch, 30]);
    publish("feed", "31");
    await stranger.notification("feed", 31, 31);
  },

  async subprotocols_are_negotiated() {
    for (const [offer, expected] of [
      [["campanile.v1.msgpack"], "msgpack"],
      [["campanile.v1.json", "campanile.v1.msgpack"], "json"],
      [["graphql-ws", "campanile.v1.msgpack", "campanile.v1.json"], "msgpack"],
      [undefined, undefined],
    ]) {
      // The subprotocol wins over the query.
      const path = expected === "json" ? "/ws?format=msgpack" : "/ws";
      const client = await Client.open(path, expected ?? "json", { negotiate: "none", offer });
      assert.equal(client.ws.protocol, expected ? `campanile.v1.${expected}` : "");
      assert.equal(client.ws.extensions, "");
    }
    // As a browser, `ws` fails a connection whose offer was not taken up.
    const client = new Client("/ws", "json", { negotiate: "none", offer: ["graphql-ws"] });
    await assert.rejects(within(client.opened, "the refusal"), /subprotocol/);
  },

  async the_first_command_chooses() {
    const client = await Client.open("/ws", "json", { negotiate: "none" });
    client.format = FORMAT;
    client.send({ type: "subscribe", channel: "choice", id: 1 });
    await client.subscribed("choice", { id: 1 });
    publish("choice", "1");
    await client.notification("choice", 1, 1);
    // Chosen for good: a command of the other kind is understood, and answered in the format of the connection.
    const command = { type: "ping", id: 2 };
    client.ws.send(FORMAT === "msgpack" ? JSON.stringify(command) : Buffer.from(encode(command)));
    assert.deepEqual(await client.event(), { type: "pong", id: 2 });
  },

  async close_frames_are_answered() {
    for (const [code, reason] of [
      [1000, ""],
      [1001, "tab closed"],
      [3000, "é".repeat(60)],
      [4999, "own"],
    ]) {
      const client = await Client.open("/ws/closing");
      client.ws.close(code, reason);
      assert.deepEqual(await within(client.closed, "the answer"), [code, reason]);
    }
    const empty = await Client.open();
    empty.ws.close();
    assert.deepEqual(await within(empty.closed, "the answer"), [1005, ""]);
    const big = await Client.open();
    big.ws.send("x".repeat(70_000));
    const [code, reason] = await within(big.closed, "the refusal");
    assert.equal(code, 1009);
    assert.match(reason, /65536/);
  },

  async fragmented_commands_are_joined() {
    const client = await Client.open();
    // Cut everywhere, also within a character.
    const message = Buffer.from(client.encoded({ type: "subscribe", channel: "fragments", id: "é".repeat(10) }));
    const binary = FORMAT === "msgpack";
    for (let at = 0; at < message.length; at += 1) {
      client.ws.send(message.subarray(at, at + 1), { binary, fin: at === message.length - 1 });
    }
    await client.subscribed("fragments", { id: "é".repeat(10) });
    client.ws.send(message.subarray(0, 20), { binary, fin: false });
    assert.equal((await client.pong("between")).toString(), "between");
    client.ws.send(Buffer.alloc(0), { binary, fin: false });
    client.ws.send(message.subarray(20), { binary, fin: true });
    assert.equal((await client.event("error")).code, "already_subscribed");
  },

  async clients_may_publish() {
    const client = await Client.open();
    await client.subscribe("chat");
    const raw = await Client.open("/ws/chat", "raw");
    await raw.pong();
    const values = [{ title: "Ding", n: [1, -2, 0.5] }, [1], "text", 7, null, true];
    for (const [at, value] of values.entries()) {
      const n = at + 1;
      client.send({ type: "publish", channel: "chat", data: value, id: n });
      const events = [await client.event(), await client.event()].sort((a, b) => (a.type < b.type ? -1 : 1));
      assert.deepEqual([events[0].type, events[0].seq, events[0].data], ["notification", n, value]);
      assert.deepEqual([events[1].type, events[1].channel, events[1].id, events[1].seq ?? n], ["published", "chat", n, n]);
      const { data } = await raw.message();
      if (FORMAT === "msgpack" && typeof value === "object" && value !== null) assert.deepEqual(data, Buffer.from(encode(value)));
      else assert.deepEqual(JSON.parse(data.toString()), value);
    }
    client.send({ type: "publish", channel: "nobody-listens", data: 1, id: "n" });
    let event = await client.event("published");
    assert.deepEqual([event.channel, event.id], ["nobody-listens", "n"]);
    client.send({ type: "publish", channel: "chat", data: "x".repeat(2000), id: "big" });
    event = await client.event("error");
    assert.deepEqual([event.code, event.id], ["payload_too_big", "big"]);
    if (FORMAT === "msgpack") {
      client.send({ type: "publish", channel: "chat", data: new Uint8Array([0, 255, 16]) });
      const { data, isBinary } = await raw.message();
      assert.deepEqual([[...data], isBinary], [[0, 255, 16], true]);
    }
  },

  async raw_is_payloads_alone() {
    const client = await Client.open("/ws", "raw");
    const witness = await Client.open("/ws/only", "json");
    await witness.subscribed("only");
    client.ws.send(JSON.stringify({ type: "subscribe", channel: "only", id: 1 }));
    client.ws.send(JSON.stringify({ type: "dance" }));
    // Commands are obeyed silently; that this one was is told by its own connection's pong, a control frame.
    await client.pong();
    const payloads = ['{"title": "Ding",   "n": 1.0}', Buffer.from([0xff, 0]), "plain é", "x".repeat(66_000)];
    for (const [at, payload] of payloads.entries()) {
      publish("only", payload);
      assert.equal((await witness.event("notification")).seq, at + 1);
      const { data, isBinary } = await client.message();
      assert.equal(isBinary, typeof payload !== "string");
      assert.deepEqual(data, Buffer.from(payload));
    }
  },

  // Beside ws with Node's own WebSocket, which is undici's.
  async compressed_and_plain_are_read() {
    const rows = Array.from({ length: 60 }, (_, n) => ({ id: n, title: `notification ${n} é`, read: n % 2 === 0 }));
    const turn = [rows, "short", rows.slice(0, 20), 1, ["x".repeat(200_000)], rows, { a: null }, Buffer.alloc(2048, "0123456789abcdef").toString("base64")];
    const payloads = [...turn, ...turn];
    // So many that a message is worth compressing.
    const clients = [];
    for (let n = 0; n < 16; n += 1) {
      const client = await Client.open();
      assert.match(client.ws.extensions, /permessage-deflate/);
      await client.subscribe("mixed");
      clients.push(client);
    }
    const own = new globalThis.WebSocket(`ws://${ADDRESS}/ws/mixed`, [`campanile.v1.${FORMAT}`]);
    own.binaryType = "arraybuffer";
    const arrived = [];
    let wake = () => {};
    own.onmessage = ({ data }) => {
      arrived.push(FORMAT === "msgpack" ? decode(new Uint8Array(data)) : JSON.parse(data));
      wake();
    };
    const failed = new Promise((_, reject) => {
      own.onerror = (event) => reject(event.error ?? new Error("undici: error"));
      own.onclose = (event) => reject(new Error(`undici: closed ${event.code}`));
    });
    const next = async () => {
      while (arrived.length === 0) await within(Promise.race([failed, new Promise((resolve) => (wake = resolve))]), "a message at undici");
      return arrived.shift();
    };
    assert.deepEqual([(await next()).type, (await next()).type], ["connected", "subscribed"]);
    assert.match(own.extensions, /permessage-deflate/);
    // One after the other: while redis-cli runs nobody here reads.
    for (const [at, payload] of payloads.entries()) {
      publish("mixed", JSON.stringify(payload));
      const { type, seq, data } = await next();
      assert.deepEqual([type, seq, data], ["notification", at + 1, payload]);
      for (const client of clients) await client.notification("mixed", at + 1, payload);
    }
    await clients[0].send({ type: "ping", id: "a" });
    assert.equal((await clients[0].event("pong")).id, "a");
  },

  async marks_stay_in_step() {
    const [phone, desk, other] = await Promise.all(["ada", "ada", "bob"].map((user) => Client.open(`/ws?user=${user}`)));
    const { epoch } = await desk.subscribe("feed:news");
    for (let n = 1; n <= 3; n += 1) {
      phone.send({ type: "publish", channel: "feed:news", data: { n }, id: n });
      assert.deepEqual(await phone.event("published"), { type: "published", id: n, channel: "feed:news", seq: n });
      await desk.notification("feed:news", n, { n });
    }
    for (const client of [phone, desk, other]) assert.deepEqual(await unread(client), ["feed:news", 3, 0, 3]);
    // The other connection of the user, which has asked for its counts, is told.
    assert.equal(await markRead(phone, 2, { epoch }), 2);
    assert.deepEqual(await desk.event(), { type: "read", channel: "feed:news", epoch, seq: 2 });
    for (const client of [phone, desk]) assert.deepEqual(await unread(client), ["feed:news", 3, 2, 1]);
    // It never goes back, and not beyond what is there.
    assert.equal(await markRead(desk, 1), 2);
    assert.equal(await markRead(desk, 1000), 3);
    assert.deepEqual(await phone.event(), { type: "read", channel: "feed:news", epoch, seq: 3 });
    for (const client of [phone, desk]) assert.deepEqual(await unread(client), ["feed:news", 3, 3, 0]);
    assert.deepEqual(await unread(other), ["feed:news", 3, 0, 3]);
    phone.send({ type: "mark_read", channel: "plain", seq: 1, id: "m" });
    assert.equal((await phone.event("error")).code, "not_durable");
    phone.send({ type: "mark_read", channel: "feed:news", seq: 1, epoch: epoch + 1, id: "m" });
    assert.equal((await phone.event("error")).code, "other_epoch");
  },

  async who_is_there() {
    const asker = await Client.open("/ws?user=zoe");
    await comesToBeThere(asker, 0, []);
    const [ada, alsoAda, bob] = await Promise.all(["ada", "ada", "bob"].map((user) => Client.open(`/ws?user=${user}`)));
    for (const client of [ada, alsoAda, bob]) await client.subscribe("room:7");
    await comesToBeThere(asker, 3, ["ada", "bob"]);
    asker.send({ type: "presence", channel: "room:7", members: true, limit: 1, id: "p" });
    const page = await asker.event("presence");
    assert.deepEqual([page.subscribers, page.members, page.more], [3, ["ada"], true]);
    asker.send({ type: "presence", channel: "room:7", members: true, after: "ada", limit: 1 });
    const next = { type: "presence", channel: "room:7", subscribers: 3, members: ["bob"], more: false };
    assert.deepEqual(await asker.event("presence"), next);
    // One of two connections, a subscription, and a connection that just ends.
    alsoAda.ws.close();
    await comesToBeThere(asker, 2, ["ada", "bob"]);
    ada.send({ type: "unsubscribe", channel: "room:7" });
    await comesToBeThere(asker, 1, ["bob"]);
    bob.ws.terminate();
    await comesToBeThere(asker, 0, []);
    asker.send({ type: "presence", channel: "room:7" });
    assert.deepEqual(await asker.event("presence"), { type: "presence", channel: "room:7", subscribers: 0 });
    asker.send({ type: "presence", channel: "feed:news" });
    assert.equal((await asker.event("error")).code, "not_allowed");
  },
};

await scenarios[name]();
process.exit(0);
