// Against a real server, in a page of a real Chromium.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { delimiter, join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { SECRET, Server, token, within } from "./support.js";

const NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
const QUICK = { backoffMin: 20, backoffMax: 200, upgradeAfter: 100 };

let browser;
let pages;
let origin;

before(async () => {
  const folders = (process.env.PATH ?? "").split(delimiter);
  const executablePath = NAMES.flatMap((name) => folders.map((folder) => join(folder, name))).find(existsSync);
  assert(executablePath, "this test needs Chromium; scripts/test installs it");
  browser = await chromium.launch({ executablePath });
  const script = readFileSync(new URL("../build/page.js", import.meta.url));
  pages = createServer((request, response) => {
    const isScript = request.url === "/client.js";
    response.writeHead(200, { "Content-Type": isScript ? "text/javascript" : "text/html; charset=utf-8" });
    response.end(isScript ? script : '<!doctype html><script src="/client.js"></script>');
  });
  await new Promise((resolve) => pages.listen(0, "127.0.0.1", resolve));
  origin = `http://127.0.0.1:${pages.address().port}/`;
});

after(async () => {
  await browser?.close();
  pages?.close();
});

async function context(t) {
  const context = await browser.newContext();
  t.after(() => context.close());
  return context;
}

/** What a page does with the client, and keeps of it. */
function begin([url, options]) {
  window.seen = { messages: [], stale: [], states: [] };
  window.client = campanile.connect(url, { storage: sessionStorage, ...options });
  client.on("state", ({ state, transport, error }) => {
    seen.states.push(transport ?? state);
    seen.error = error && { code: error.code, status: error.status };
  });
  client.on("message", ({ data }) => seen.messages.push(data));
  client.on("stale", (stale) => seen.stale.push(stale));
  window.subscription = client.subscribe("kept:a");
}

async function open(context, server, options = {}) {
  const page = await context.newPage();
  await page.goto(origin);
  await page.evaluate(begin, [server.url, { timing: QUICK, ...options }]);
  await until(page, () => subscription.active);
  return page;
}

const until = (page, condition, value) => page.waitForFunction(condition, value, { polling: 20 });
const has = (page, ...messages) => until(page, (expected) => JSON.stringify(seen.messages) === expected, JSON.stringify(messages));
const on = (page, transport) => until(page, (name) => client.transport === name && subscription.active, transport);

test("the server is killed and started anew, and the page catches up without a loss", async (t) => {
  const server = await Server.start(t);
  const page = await open(await context(t), server);
  await server.publish("kept:a", 1, 2);
  await has(page, 1, 2);
  await server.stop();
  await until(page, () => client.state === "waiting");
  await server.restart();
  await server.publish("kept:a", 3);
  await has(page, 1, 2, 3);
  assert.deepEqual(await page.evaluate(() => [seen.stale, client.transport]), [[], "websocket"]);
});

test("a page that is loaded again goes on behind what it has seen", async (t) => {
  const server = await Server.start(t);
  const page = await open(await context(t), server);
  await server.publish("kept:a", 1, 2);
  await has(page, 1, 2);
  await page.goto("about:blank");
  await server.publish("kept:a", 3);
  await page.goto(origin);
  await page.evaluate(begin, [server.url, { timing: QUICK }]);
  await server.publish("kept:a", 4);
  await has(page, 3, 4);
});

test("where WebSocket is blocked it is an event stream, then polling, and back", async (t) => {
  const server = await Server.start(t);
  const blocked = await context(t);
  // The constructor of a page that may not have sockets.
  await blocked.addInitScript(() => {
    const { WebSocket } = window;
    window.block = true;
    window.WebSocket = class extends WebSocket {
      constructor(...given) {
        if (window.block) throw new DOMException("blocked", "SecurityError");
        super(...given);
      }
    };
  });
  const page = await open(blocked, server);
  await on(page, "sse");
  await server.publish("kept:a", 1);
  await has(page, 1);
  await blocked.route("**/sse?*", (route) => route.abort());
  await server.restart();
  await on(page, "polling");
  await server.publish("kept:a", 2);
  await has(page, 1, 2);
  await page.evaluate(() => {
    window.block = false;
  });
  await on(page, "websocket");
  await server.publish("kept:a", 3);
  await has(page, 1, 2, 3);
  assert.deepEqual(await page.evaluate(() => seen.stale), []);
});

test("the tabs of a browser share one event stream, and it outlives the tab that reads it", async (t) => {
  const server = await Server.start(t);
  const shared = await context(t);
  const streams = [];
  shared.on("request", (request) => request.url().includes("/sse?") && streams.push(request));
  const options = { transports: ["sse"] };
  const tabs = [await open(shared, server, options), await open(shared, server, options), await open(shared, server, options)];
  for (const tab of tabs) {
    await tab.evaluate(() => {
      window.second = client.subscribe("kept:b");
    });
  }
  for (const tab of tabs) await until(tab, () => second.active);
  await server.publish("kept:a", 1);
  for (const tab of tabs) await has(tab, 1);
  const readers = await Promise.all(tabs.map(async (tab) => streams.filter((request) => request.frame().page() === tab).length));
  assert.deepEqual(readers.map((count) => count > 0), [true, false, false]);
  await tabs[0].close();
  await server.publish("kept:a", 2);
  await server.publish("kept:b", 3);
  for (const tab of tabs.slice(1)) {
    await until(tab, () => seen.messages.length === 3);
    assert.deepEqual(await tab.evaluate(() => [seen.messages.toSorted(), seen.stale]), [[1, 2, 3], []]);
  }
  await server.restart();
  await server.publish("kept:a", 4);
  for (const tab of tabs.slice(1)) await until(tab, () => seen.messages.length === 4 && seen.messages[3] === 4);
  // Out of the back/forward cache, where streams end without a word.
  const count = streams.length;
  for (const tab of tabs.slice(1)) await tab.evaluate(() => dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true })));
  await within(until(tabs[1], () => subscription.active), "the stream is there");
  while (streams.length === count) await shared.waitForEvent("request");
});

test("a page of another origin says who it is over every transport, and is told why it is refused", async (t) => {
  const server = await Server.start(t, "--auth", "jwt", "--token-secret", SECRET, "--origins", new URL(origin).origin);
  const other = await context(t);
  for (const transport of ["websocket", "sse", "polling"]) {
    const page = await open(other, server, { transports: [transport], token: token({}), storage: null });
    await server.publish("kept:a", transport);
    await has(page, transport);
    await page.close();
    const refused = await other.newPage();
    await refused.goto(origin);
    await refused.evaluate(begin, [server.url, { timing: QUICK, transports: [transport], token: "a.b.c" }]);
    await until(refused, () => client.state === "closed");
    assert.deepEqual(await refused.evaluate(() => [seen.error.code, seen.error.status]), ["refused", 401], transport);
  }
});

test("a page whose policy forbids the server is told so, and one that is hidden or offline finds back", async (t) => {
  const server = await Server.start(t);
  const hidden = await context(t);
  await hidden.addInitScript(() => {
    window.visibility = "visible";
    Object.defineProperty(document, "visibilityState", { get: () => window.visibility });
  });
  const page = await open(hidden, server, { timing: { ...QUICK, backoffMin: 60_000, backoffMax: 60_000 } });
  await server.publish("kept:a", 1);
  await has(page, 1);
  await page.evaluate(() => {
    window.visibility = "hidden";
    document.dispatchEvent(new Event("visibilitychange"));
  });
  assert.match(await page.evaluate(() => JSON.stringify({ ...sessionStorage })), /kept:a/);
  await server.restart();
  await server.publish("kept:a", 2);
  await until(page, () => client.state === "waiting");
  // It would wait for up to a minute; whoever looks at it does not want to.
  await page.evaluate(() => {
    window.visibility = "visible";
    Math.random = () => 0.001;
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await has(page, 1, 2);
  await hidden.setOffline(true);
  await server.stop();
  await until(page, () => client.state === "offline");
  await server.restart();
  await server.publish("kept:a", 3);
  await hidden.setOffline(false);
  await has(page, 1, 2, 3);

  const strict = await (await context(t)).newPage();
  await strict.goto(origin);
  await strict.evaluate(() => {
    document.head.append(Object.assign(document.createElement("meta"), { httpEquiv: "Content-Security-Policy", content: "connect-src 'none'" }));
  });
  await strict.evaluate(begin, [server.url, { timing: QUICK }]);
  await within(until(strict, () => seen.states.includes("waiting")), "a page that may not connect says that it waits");
});
