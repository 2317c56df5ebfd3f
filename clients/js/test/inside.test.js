// The parts that can be looked at alone.

import assert from "node:assert/strict";
import { test } from "node:test";
import { baseOf, delayInReason, jitter, judge, Parser, Requests, retryAfter } from "../build/inside.js";

test("event streams are read wherever they are cut", () => {
  const stream = [
    "retry: 2345\n\n",
    ":\n",
    "id: 7:42\ndata: {\"a\":\ndata:1}\n\n",
    "event: gap\r\ndata: é✓\r\n\r\n",
    "event: position\nid: 7:42,-\ndata:\n\n",
    "event: lost without data\n\n",
    "data\rdata: x\r\rdata: cut off",
  ].join("");
  const expected = [["message", '{"a":\n1}'], ["gap", "é✓"], ["position", ""], ["message", "\nx"]];
  for (let cut = 0; cut <= stream.length; cut++) {
    const events = [];
    const parser = new Parser((...event) => events.push(event));
    parser.push(stream.slice(0, cut));
    parser.push(stream.slice(cut));
    assert.deepEqual([events, parser.retryMs], [expected, 2345], `cut at ${cut}`);
  }
  const events = [];
  const parser = new Parser((...event) => events.push(event));
  for (const letter of stream) parser.push(letter);
  assert.deepEqual(events, expected);
});

test("addresses in every form lead to the server", () => {
  const forms = {
    "https://push.example.org": "https://push.example.org",
    "wss://push.example.org/ws": "https://push.example.org",
    "ws://127.0.0.1:8080/push/ws/?x=1#y": "http://127.0.0.1:8080/push",
    "http://[::1]:8080/": "http://[::1]:8080",
  };
  for (const [given, base] of Object.entries(forms)) assert.equal(baseOf(given), base);
});

test("channels follow each other in a URL with what belongs to them, as far as they fit", () => {
  const requests = new Requests("http://h", { user: "a&b" });
  const wanted = [{ channel: "ä b", since: { epoch: 7, seq: 42 }, latest: true, max_rate: 5 }, { channel: "c" }];
  assert.equal(requests.feed("/poll", { wait: "25" }, wanted).url, "http://h/poll?wait=25&user=a%26b&channel=%C3%A4%20b&latest=true&max_rate=5&since=7:42&channel=c");
  const many = Array.from({ length: 300 }, (_, at) => ({ channel: `${at}` }));
  const { asked, left } = requests.feed("/sse", {}, many);
  assert.deepEqual([asked.length, left.length, left[0].channel], [81, 219, "81"]);
  // The same ones, wherever they stand.
  const since = { epoch: 2 ** 53 - 1, seq: 2 ** 53 - 1 };
  const late = requests.feed("/sse", {}, many.map((one) => ({ ...one, since })));
  assert.deepEqual([late.asked.length, late.url.length <= 7_000], [81, true]);
  const long = Array.from({ length: 128 }, (_, at) => ({ channel: `${at}`.padEnd(255, "ä"), since }));
  const feed = requests.feed("/sse", {}, long);
  assert(feed.asked.length > 0 && feed.url.length <= 7_000 && feed.asked.length + feed.left.length === 128);
});

test("when to come back is read from wherever it stands", () => {
  assert.equal(delayInReason(1012, "reconnect in 1500 ms"), 1500);
  for (const [code, reason] of [[1012, "restart"], [1012, "reconnect in -1 ms"], [1001, "reconnect in 5 ms"]]) assert.equal(delayInReason(code, reason), undefined);
  assert.equal(delayInReason(1012, "reconnect in 999999999 ms"), 600_000);
  const now = Date.parse("Sat, 28 Nov 2026 04:00:00 GMT");
  assert.deepEqual(["5", "Sat, 28 Nov 2026 04:00:09 GMT", "soon", "", null, "999999999"].map((value) => retryAfter(value, now)), [5_000, 9_000, undefined, undefined, undefined, 600_000]);
});

test("jitter is anywhere below a bound that doubles", () => {
  for (const [failures, bound] of [[0, 1_000], [1, 2_000], [5, 32_000], [6, 60_000], [1_000, 60_000]]) {
    const drawn = Array.from({ length: 500 }, () => jitter(failures, 1_000, 60_000));
    assert(drawn.every((delay) => delay >= 0 && delay < bound));
    assert(Math.min(...drawn) < bound / 4 && Math.max(...drawn) > (bound * 3) / 4);
  }
});

test("every end has a verdict", () => {
  const verdict = (end) => judge({ opened: false, reason: "", ...end });
  assert.deepEqual([400, 403, 404, 413, 426, 431].map((status) => verdict({ status })), Array(6).fill("never"));
  assert.deepEqual([408, 425, 429, 500, 502, 503].map((status) => verdict({ status })), Array(6).fill("later"));
  assert.deepEqual([verdict({ status: 401 }), verdict({ code: 4001 }), verdict({})], ["token", "token", "later"]);
});
