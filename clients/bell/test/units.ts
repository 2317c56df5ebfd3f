// The bell without a page: what is shown of a message, what is unread, what is kept, what the demo page works out.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { addressOf, channelOf, commandsOf, hintsOf, quoted, type Server } from "../page/server.js";
import { Inbox, NOTICES_MAX } from "../src/inbox.js";
import { Memory } from "../src/memory.js";
import { gapNotice, type Notice, noticeOf } from "../src/notice.js";

function message(seq: number, data: unknown = `message ${seq}`, epoch = 7) {
  return { channel: "news", epoch, seq, data, timestamp: 1000 * seq };
}

function notice(seq: number, epoch = 7): Notice {
  return noticeOf(message(seq, undefined, epoch));
}

function filled(...seqs: number[]): Inbox {
  const inbox = new Inbox("news");
  seqs.forEach((seq) => inbox.add(notice(seq)));
  return inbox;
}

const unreadOf = (inbox: Inbox) => inbox.notices.filter((shown) => inbox.isUnread(shown)).map((shown) => shown.seq);

test("what is shown of each kind of message", () => {
  const shown = (data: unknown) => {
    const { title, body, link } = noticeOf(message(1, data));
    return [title, body, link];
  };
  assert.deepEqual(shown("Ding"), ["Ding", "", ""]);
  assert.deepEqual(shown(42), ["42", "", ""]);
  assert.deepEqual(shown(null), ["null", "", ""]);
  assert.deepEqual(shown(""), ["(empty)", "", ""]);
  assert.deepEqual(shown([1, "a"]), ['[1,"a"]', "", ""]);
  assert.deepEqual(shown({ hello: "world" }), ['{"hello":"world"}', "", ""]);
  assert.deepEqual(shown({ title: "Ding", body: "dong" }), ["Ding", "dong", ""]);
  assert.deepEqual(shown({ subject: "Ding", text: "dong" }), ["Ding", "dong", ""]);
  assert.deepEqual(shown({ message: "only a text" }), ["only a text", "", ""]);
  assert.deepEqual(shown({ title: { no: "text" }, body: ["neither"] }), ['{"title":{"no":"text"},"body":["neither"]}', "", ""]);
  assert.deepEqual(shown({ big: 2n ** 64n }), ['{"big":"18446744073709551616"}', "", ""]);
  assert.deepEqual(shown(new Uint8Array(4)), ["4 bytes", "", ""]);
  assert.deepEqual(shown(JSON.parse('{"__proto__":{"title":"not its own"}}')), ['{"__proto__":{"title":"not its own"}}', "", ""]);
});

test("a link leads to a web page or nowhere", () => {
  const link = (url: unknown) => noticeOf(message(1, { title: "t", url })).link;
  assert.equal(link("https://example.org/a b"), "https://example.org/a%20b");
  assert.equal(link("http://example.org"), "http://example.org/");
  for (const bad of ["javascript:alert(1)", " java\nscript:alert(1)", "data:text/html,x", "file:///etc/passwd", "blob:x", "//", "", {}, `https://${"a".repeat(3000)}`]) {
    assert.equal(link(bad), "", String(bad));
  }
});

test("what is shown has no control characters and an end, and no letter is cut in two", () => {
  const { title, body } = noticeOf(message(1, { title: "a\u0000b\u001b[31mc\u009bd", body: "one\ntwo\u0007" }));
  assert.equal(title, "a b [31mc d");
  assert.equal(body, "one\ntwo");
  const long = noticeOf(message(1, "🔔".repeat(5000)));
  assert.equal(Array.from(long.title).length, 200);
  assert.ok(long.title.isWellFormed() && long.title.endsWith("🔔…"));
});

test("messages are in order whatever order they come in, each once, and no more than the bound", () => {
  const inbox = filled(2, 5, 1, 4, 3);
  assert.deepEqual(inbox.notices.map(({ seq }) => seq), [5, 4, 3, 2, 1]);
  assert.equal(inbox.add(notice(3)), false);
  for (let seq = 6; seq <= 300; seq += 1) {
    inbox.add(notice(seq));
  }
  assert.equal(inbox.notices.length, NOTICES_MAX);
  assert.deepEqual([inbox.notices[0]?.seq, inbox.notices.at(-1)?.seq], [300, 201]);
  assert.equal(inbox.add(notice(3)), false, "older than all that is kept");
  assert.equal(inbox.notices.length, NOTICES_MAX);
});

test("whose clock goes back is still in order", () => {
  const inbox = new Inbox("news");
  inbox.add({ ...notice(1), time: 9000 });
  inbox.add({ ...notice(2), time: 2000 });
  inbox.add({ ...notice(3), time: 3000 });
  assert.deepEqual(inbox.notices.map(({ seq }) => seq), [3, 2, 1]);
});

test("without marks of the server this browser keeps them, for each epoch", () => {
  const inbox = filled(1, 2, 3);
  assert.equal(inbox.unread, 3);
  assert.equal(inbox.readUpTo(inbox.notices[1]!), null, "nobody is to be told");
  assert.deepEqual(unreadOf(inbox), [3]);
  // The server counts anew: what has the same numbers is not read.
  inbox.add({ ...notice(1, 8), time: 9000 });
  assert.equal(inbox.unread, 2);
  assert.equal(inbox.readAll(), null);
  assert.equal(inbox.unread, 0);
  inbox.add({ ...notice(2, 8), time: 9100 });
  assert.equal(inbox.unread, 1);
});

test("messages without a number are read by their time, and gaps are never unread", () => {
  const inbox = filled(1);
  const unnumbered = noticeOf({ channel: "news", data: "past the stream", timestamp: 1500 });
  assert.ok(inbox.add(unnumbered));
  assert.equal(inbox.add(noticeOf({ channel: "news", data: "past the stream", timestamp: 1500 })), false);
  inbox.add(gapNotice("news", "7:2", 1600, "One message is missing here"));
  assert.equal(inbox.unread, 2);
  inbox.readUpTo(unnumbered);
  assert.equal(inbox.unread, 0);
});

test("what the server counts is what counts", () => {
  const inbox = filled(8, 9, 10);
  inbox.counted({ epoch: 7, last: 10, read: 8, unread: 2 });
  assert.equal(inbox.unread, 2);
  assert.deepEqual(unreadOf(inbox), [10, 9]);
  inbox.add(notice(11));
  assert.equal(inbox.unread, 3);
  assert.ok(inbox.readElsewhere(7, 10));
  assert.equal(inbox.unread, 1);
  assert.equal(inbox.readElsewhere(7, 9), false, "a mark never goes back");
  assert.equal(inbox.readElsewhere(6, 99), false, "a number of another epoch is none");
  assert.deepEqual(inbox.readAll(), { epoch: 7, seq: 11 });
  assert.equal(inbox.unread, 0);
});

test("more may be unread than is in the list, and what came before the answer is not counted twice", () => {
  const inbox = filled(1000, 1001, 1002);
  inbox.counted({ epoch: 7, last: 1001, read: 1, unread: 500 });
  assert.equal(inbox.unread, 501);
  assert.deepEqual(inbox.readUpTo(notice(1001)), { epoch: 7, seq: 1001 });
  assert.equal(inbox.unread, 1);
  assert.deepEqual(inbox.readAll(), { epoch: 7, seq: 1002 });
});

test("a channel without a message has none unread; its first one is", () => {
  const inbox = new Inbox("news");
  inbox.counted({ epoch: 7, last: 0, read: 0, unread: 0 });
  assert.deepEqual([inbox.unread, inbox.readAll()], [0, null]);
  inbox.add(notice(1));
  assert.equal(inbox.unread, 1);
});

class Texts {
  kept = new Map<string, string>();
  room = Infinity;
  getItem = (key: string) => this.kept.get(key) ?? null;
  setItem(key: string, value: string): void {
    if (value.length > this.room) {
      throw new Error("full");
    }
    this.kept.set(key, value);
  }
  removeItem = (key: string) => void this.kept.delete(key);
}

const memories: Memory[] = [];
function memory(texts: Texts | null, changed = () => {}): Memory {
  Object.defineProperty(globalThis, "localStorage", {
    configurable: true,
    get: () => {
      if (texts === null) {
        throw new Error("not for this page");
      }
      return texts;
    },
  });
  const made = new Memory(changed);
  memories.push(made);
  return made;
}
// An open BroadcastChannel keeps the process.
afterEach(() => memories.splice(0).forEach((open) => open.close()));

test("the next page load finds what there was, and each user and server its own", () => {
  const texts = new Texts();
  const inbox = filled(1, 2, 3);
  inbox.position = { epoch: 7, seq: 3 };
  inbox.readUpTo(inbox.notices[1]!);
  memory(texts).save("here ann", inbox);
  const again = new Inbox("news");
  memory(texts).attach("here ann", again);
  assert.deepEqual([again.notices.length, again.unread, again.position], [3, 1, { epoch: 7, seq: 3 }]);
  for (const [place, channel] of [["here ben", "news"], ["there ann", "news"], ["here ann", "sport"]] as const) {
    const other = new Inbox(channel);
    memory(texts).attach(place, other);
    assert.equal(other.notices.length, 0);
  }
});

test("what another tab has kept meanwhile is not overwritten", () => {
  const texts = new Texts();
  memory(texts).save("here", filled(1, 2, 3));
  const offline = filled(1);
  memory(texts).save("here", offline);
  assert.deepEqual(offline.notices.map(({ seq }) => seq), [3, 2, 1]);
});

test("what somebody has written into the storage does no harm", () => {
  const good = { ...notice(1) };
  const bad = ["", "null", "[]", "{", "7", '{"epochs":1,"time":2}', '{"epochs":[],"time":-1}', '{"epochs":[],"time":1e400}'];
  for (const text of bad) {
    const texts = new Texts();
    texts.getItem = () => text;
    const inbox = new Inbox("news");
    memory(texts).attach("here", inbox);
    assert.deepEqual([inbox.notices.length, inbox.unread], [0, 0], text);
  }
  const notices = [
    good,
    { ...good, key: "7:2", link: "javascript:alert(1)" },
    { ...good, key: "7:3", channel: "sport" },
    { ...good, key: "7:4", time: "soon" },
    { ...good, key: "7:5", kind: "other" },
    { ...good, key: "7:6", title: { toString: 1 } },
    null,
  ];
  const texts = new Texts();
  texts.getItem = () => JSON.stringify({ epochs: [[7, 0], ["7"], null, [7, -1]], time: 0, notices, position: { epoch: "7" } });
  const inbox = new Inbox("news");
  memory(texts).attach("here", inbox);
  assert.deepEqual([inbox.notices.map(({ key }) => key), inbox.position], [["7:1"], null]);
});

test("a storage that is full keeps what was read; one that is not there disturbs nothing", () => {
  const texts = new Texts();
  const inbox = filled(1, 2, 3);
  inbox.readAll();
  texts.room = 100;
  memory(texts).save("here", inbox);
  const again = new Inbox("news");
  memory(texts).attach("here", again);
  again.add(notice(3));
  assert.equal(again.unread, 0);
  memory(null).attach("here", again);
  memory(null).save("here", again);
});

test("of very many channels the oldest are forgotten", () => {
  const texts = new Texts();
  for (let number = 0; number < 50; number += 1) {
    memory(texts).save("here", new Inbox(`channel ${number}`));
    memories.splice(0).forEach((open) => open.close());
  }
  assert.equal(texts.kept.size, 17);
  assert.ok(texts.kept.has('campanile-bell:["here","channel 49"]') && !texts.kept.has('campanile-bell:["here","channel 33"]'));
});

test("another tab is told what is read, and no other channel", async () => {
  const told = new Promise<void>((resolve) => {
    const here = filled(1, 2);
    const there = filled(1, 2);
    const sport = new Inbox("sport");
    sport.add({ ...notice(1), channel: "sport" });
    const first = memory(new Texts());
    const second = memory(new Texts(), () => {
      assert.deepEqual([there.unread, sport.unread], [0, 1]);
      resolve();
    });
    first.attach("x", here);
    second.attach("x", there);
    second.attach("x", sport);
    here.readAll();
    first.tell("x", here);
  });
  await told;
});

const server: Server = {
  version: "1",
  listen: [{ host: "127.0.0.1", port: 8080 }],
  auth: "none",
  origins: false,
  control: "127.0.0.1:9090",
  control_token: false,
  redis: null,
};

test("the page connects to where a browser gets in", () => {
  const at = (hostname: string, ...listen: Server["listen"]) => addressOf({ ...server, listen }, { hostname });
  assert.equal(at("127.0.0.1", { host: "127.0.0.1", port: 8080 }), "ws://127.0.0.1:8080/ws");
  assert.equal(at("localhost", { host: "127.0.0.1", port: 8080 }), "ws://127.0.0.1:8080/ws");
  assert.equal(at("node7", { host: null, port: 8080 }), "ws://node7:8080/ws");
  assert.equal(at("node7", { host: "127.0.0.1", port: 1 }, { host: null, port: 2 }), "ws://node7:2/ws");
  assert.equal(at("10.0.0.7", { host: null, port: 1 }, { host: "10.0.0.7", port: 2 }), "ws://10.0.0.7:2/ws");
  assert.equal(at("[::1]", { host: null, port: 8080 }), "ws://[::1]:8080/ws");
  assert.equal(at("[::1]", { host: "::1", port: 8080 }), "ws://[::1]:8080/ws");
  assert.equal(at("127.0.0.1"), null);
});

test("channels that cannot be are not asked for", () => {
  const channel = (query: string) => channelOf(new URLSearchParams(query));
  assert.equal(channel(""), "news");
  assert.equal(channel("channel=user%3A1"), "user:1");
  assert.equal(channel("channel=%3Cimg%20src%3Dx%3E"), "<img src=x>");
  for (const bad of ["channel=", "channel=a%00b", "channel=a%0Ab", `channel=${"a".repeat(256)}`, `channel=${encodeURIComponent("é".repeat(128))}`]) {
    assert.equal(channel(bad), null, bad);
  }
});

test("what is to be typed does what it says, whatever the channel is called", () => {
  const texts = (channel: string, changes: Partial<Server> = {}) => commandsOf({ ...server, ...changes }, channel).map(({ text }) => text);
  assert.equal(texts("news")[0], `campanile publish news '{"title":"Ding","body":"from a terminal"}'`);
  assert.equal(texts("news", { control: "127.0.0.1:7" })[0], `campanile publish --control 127.0.0.1:7 news '{"title":"Ding","body":"from a terminal"}'`);
  assert.ok(texts("--help")[0]?.startsWith("campanile publish -- --help "));
  assert.ok(texts("$(reboot)")[0]?.startsWith("campanile publish '$(reboot)' "));
  assert.equal(quoted("it's; `x`"), `'it'\\''s; \`x\`'`);
  assert.deepEqual([texts("news").length, texts("news", { control: "unix:///x" }).length], [2, 1]);
  assert.ok(texts("it's", { redis: { command: "spublish", channel: "n:it's" } })[2]?.startsWith("redis-cli spublish 'n:it'\\''s' "));
  assert.ok(texts("news", { control_token: true }).every((text) => text.includes("…")), "what only the operator knows is left open");
});

test("advice names what applies", () => {
  const page = { protocol: "http:", origin: "http://127.0.0.1:9090", hostname: "127.0.0.1" };
  const hints = (changes: Partial<Server>, from = page, token = "") => hintsOf({ ...server, ...changes }, "ws://127.0.0.1:8080/ws", from, token).join("\n");
  assert.ok(hints({ origins: true }).includes("--origins http://127.0.0.1:9090"));
  assert.ok(!hints({}).includes("--origins") && hints({}).includes("127.0.0.1:8080"));
  assert.ok(hints({}, { ...page, protocol: "https:" }).includes("https"));
  assert.ok(hints({ auth: "jwt" }, page, "e30").includes("campanile token --inspect"));
  assert.ok(hintsOf(server, null, page, "")[0]?.includes("no browser gets in"));
});
