// The page at /demo and the bell in it, in a real Chromium.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { atEnd, browser as start, PATIENCE_MS, Redis, Server } from "./support.mjs";

let browser;
let pictures;

/** A context of its own is another browser to the page: nothing stored is shared. */
async function newContext(options = {}) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(PATIENCE_MS);
  return context;
}

/** An open page. What must never be: an error in a script, or something that the policy forbids. */
async function open(context, url) {
  const page = await context.newPage();
  page.troubles = [];
  page.on("pageerror", (error) => page.troubles.push(String(error)));
  page.on("console", (entry) => /Content.Security.Policy|Refused to/i.test(entry.text()) && page.troubles.push(entry.text()));
  await page.goto(url);
  return page;
}

function close(...pages) {
  pages.forEach((page) => assert.deepEqual(page.troubles, []));
  return Promise.all(pages.map((page) => page.close()));
}

const bellOf = (page, count) => page.getByRole("button", { name: `Notifications, ${count === 0 ? "none" : count} unread`, exact: true });
/** It says so when its channels are subscribed to. */
const live = (page) => page.locator("#state", { hasText: /^Live$/ }).waitFor();
const titles = (page) => page.locator("campanile-bell li .title").allTextContents();
const picture = async (page, name) => pictures && page.screenshot({ path: join(pictures, `${name}.png`), animations: "disabled" });

async function ringsAtOnce(server, redis) {
  const context = await newContext();
  const page = await open(context, `${server.demo}?channel=plain`);
  await live(page);
  await bellOf(page, 0).waitFor();
  const begin = Date.now();
  const receivers = await redis.cli("publish", "notifications:plain", '{"title":"Ding","body":"from redis-cli"}');
  assert.equal(receivers, "1");
  await bellOf(page, 1).waitFor();
  const toast = page.getByRole("group", { name: "New notifications" });
  await toast.getByText("from redis-cli").waitFor();
  console.log(`  a message of redis-cli was shown ${Date.now() - begin} ms after it was typed`);
  // A screen reader hears of it, and whoever looks at another tab sees it.
  await page.getByRole("status").getByText("New notification: Ding. 1 unread.").waitFor();
  await page.waitForFunction(() => document.title === "(1) Campanile");
  // From the page itself, too.
  await page.locator("#ring-title").fill("Dong");
  await page.getByRole("button", { name: "Ring", exact: true }).click();
  await bellOf(page, 2).waitFor();
  await page.getByText(/^Published/).waitFor();
  // What is to be typed on the page is typed.
  const commands = await page.locator("#commands code").allTextContents();
  assert.deepEqual(commands.map((text) => text.split(" ")[0]), ["campanile", "curl", "redis-cli"]);
  assert.ok(commands[0].includes(`--control 127.0.0.1:${server.controlPort} plain `), commands[0]);
  await close(page);
  await context.close();
}

async function byKeyboard(server) {
  const context = await newContext();
  const page = await open(context, `${server.demo}?channel=keys`);
  await live(page);
  for (const title of ["one", "two", "three"]) {
    await server.publish("keys", { title });
  }
  await bellOf(page, 3).waitFor();
  await bellOf(page, 3).focus();
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog", { name: "Notifications" });
  await dialog.waitFor();
  assert.match(await dialog.ariaSnapshot(), /dialog "Notifications"[^]*heading "Notifications"[^]*button "Mark all as read"[^]*list[^]*listitem[^]*Unread\. three/);
  const focused = () => page.evaluate(() => document.querySelector("campanile-bell").shadowRoot.activeElement?.querySelector(".title")?.textContent);
  await page.keyboard.press("ArrowDown");
  assert.equal(await focused(), "three");
  await page.keyboard.press("ArrowDown");
  assert.equal(await focused(), "two");
  // It reads this one and those before it; the focus stays.
  await page.keyboard.press("Enter");
  await bellOf(page, 1).waitFor();
  assert.equal(await focused(), "two");
  await page.keyboard.press("End");
  assert.equal(await focused(), "one");
  await page.keyboard.press("Home");
  assert.equal(await focused(), "three");
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  assert.ok(await bellOf(page, 1).evaluate((button) => button.getRootNode().activeElement === button), "the focus is back on the bell");
  await close(page);
  await context.close();
}

async function twoTabsAgree(server) {
  const context = await newContext();
  const url = `${server.demo}?channel=tabs`;
  const first = await open(context, url);
  await live(first);
  for (const title of ["one", "two", "three"]) {
    await server.publish("tabs", { title });
  }
  await bellOf(first, 3).waitFor();
  // The server keeps nothing of this channel: a tab that is opened later has it from this browser. It is stored a moment after it has come.
  await first.waitForFunction(() => Object.keys(localStorage).some((key) => localStorage.getItem(key).includes("three")));
  const second = await open(context, url);
  await bellOf(second, 3).waitFor();
  await live(second);
  await bellOf(second, 3).click();
  await second.getByRole("button", { name: /two/ }).click();
  await Promise.all([bellOf(first, 1).waitFor(), bellOf(second, 1).waitFor()]);
  await server.publish("tabs", { title: "four" });
  await Promise.all([bellOf(first, 2).waitFor(), bellOf(second, 2).waitFor()]);
  await bellOf(first, 2).click();
  await first.getByRole("button", { name: "Mark all as read" }).click();
  await Promise.all([bellOf(first, 0).waitFor(), bellOf(second, 0).waitFor()]);
  await second.waitForFunction(() => document.title === "Campanile");
  await second.reload();
  await live(second);
  await bellOf(second, 0).click();
  assert.deepEqual(await titles(second), ["four", "three", "two", "one"]);
  // Another browser begins with nothing.
  const stranger = await newContext();
  const elsewhere = await open(stranger, url);
  await live(elsewhere);
  await bellOf(elsewhere, 0).waitFor();
  await close(first, second, elsewhere);
  await Promise.all([context.close(), stranger.close()]);
}

/** A durable channel and a user: the server counts, and nothing is missing after it was killed. */
async function usersAgreeAndNothingIsLost(server) {
  const phone = await newContext();
  const desk = await newContext();
  const url = `${server.demo}?channel=feed:ann&user=ann`;
  for (let number = 1; number <= 4; number += 1) {
    await server.publish("feed:ann", { title: `before ${number}` });
  }
  const [here, there] = [await open(phone, url), await open(desk, url)];
  await Promise.all([bellOf(here, 4).waitFor(), bellOf(there, 4).waitFor()]);
  await bellOf(here, 4).click();
  await here.getByRole("button", { name: /before 2/ }).click();
  await Promise.all([bellOf(here, 2).waitFor(), bellOf(there, 2).waitFor()]);
  assert.equal(await here.evaluate(() => Object.keys(localStorage).filter((key) => key.includes("feed:ann")).length), 0, "nothing of a user stays behind");

  await server.kill();
  await here.locator("#state", { hasText: /^Connecting again/ }).waitFor();
  // Published while no server is there: by the program, through Redis.
  for (let number = 1; number <= 5; number += 1) {
    await server.type("publish", "feed:ann", JSON.stringify({ title: `meanwhile ${number}` }), "--redis", server.redis.url);
  }
  await server.restart();
  await Promise.all([bellOf(here, 7).waitFor(), bellOf(there, 7).waitFor()]);
  await server.publish("feed:ann", { title: "after" });
  await Promise.all([bellOf(here, 8).waitFor(), bellOf(there, 8).waitFor()]);
  const expected = ["after", ...[5, 4, 3, 2, 1].map((number) => `meanwhile ${number}`), ...[4, 3, 2, 1].map((number) => `before ${number}`)];
  assert.deepEqual(await titles(here), expected, "each once, in order, none missing");
  assert.equal(await here.locator("campanile-bell li.gap").count(), 0);
  await bellOf(there, 8).click();
  await there.getByRole("button", { name: "Mark all as read" }).click();
  await Promise.all([bellOf(here, 0).waitFor(), bellOf(there, 0).waitFor()]);
  // What a back end marks counts as well.
  const { seq } = await server.publish("feed:ann", { title: "last" });
  await Promise.all([bellOf(here, 1).waitFor(), bellOf(there, 1).waitFor()]);
  const marked = await fetch(`${server.control}/mark_read`, { method: "POST", body: JSON.stringify({ user: "ann", channel: "feed:ann", seq }) });
  assert.equal(marked.status, 200);
  await Promise.all([bellOf(here, 0).waitFor(), bellOf(there, 0).waitFor()]);
  await close(here, there);
  await Promise.all([phone.close(), desk.close()]);
}

/** On a server that keeps nothing: what could not come is said, and what comes then is new although its numbers are not. */
async function aGapIsSaid(server) {
  const context = await newContext();
  const page = await open(context, `${server.demo}?channel=gap`);
  await live(page);
  await server.publish("gap", { title: "one" });
  await bellOf(page, 1).click();
  await page.getByRole("button", { name: "Mark all as read" }).click();
  await bellOf(page, 0).waitFor();
  await server.kill();
  await page.locator("#state", { hasText: /^Connecting again/ }).waitFor();
  await server.restart();
  await live(page);
  await server.publish("gap", { title: "another one" });
  await bellOf(page, 1).waitFor();
  await page.getByText("Messages may be missing here: the server counts anew").waitFor();
  assert.deepEqual(await titles(page), ["another one", "one"]);
  await close(page);
  await context.close();
}

async function hostileContentIsText(server) {
  const context = await newContext();
  const channel = `<img src=x onerror="hacked=1">\u202e</script>`;
  const page = await open(context, `${server.demo}?channel=${encodeURIComponent(channel)}`);
  await live(page);
  await page.locator("#channel", { hasText: "<img src=x" }).waitFor();
  const script = `<script>hacked=1</script><img src=x onerror="hacked=1">`;
  await server.publish(channel, { title: script, body: `${script}\u202e`, url: "javascript:hacked=1" });
  await server.publish(channel, { title: { toString: 1 }, __proto__: null, constructor: script });
  await server.publish(channel, script);
  await bellOf(page, 3).click();
  assert.equal((await titles(page))[0], script);
  const entries = page.locator("campanile-bell li .entry");
  assert.equal(await page.locator("campanile-bell a").count(), 0);
  for (let at = 0; at < 3; at += 1) {
    await entries.nth(at).click();
  }
  await bellOf(page, 0).waitFor();
  assert.equal(await page.evaluate(() => "hacked" in globalThis), false);
  assert.equal(await page.locator("campanile-bell img").count(), 0);
  // A link to a web page is one, and leads nowhere else with the page in its hand.
  await server.publish(channel, { title: "a link", url: "https://example.org/" });
  const link = page.getByRole("link", { name: /a link/ });
  await link.waitFor();
  assert.deepEqual(await link.evaluate(({ href, target, rel }) => [href, target, rel]), ["https://example.org/", "_blank", "noopener noreferrer"]);
  await close(page);

  const invalid = await open(context, `${server.demo}?channel=a%00b`);
  await invalid.getByText("The channel in the address of this page cannot be").waitFor();
  await close(invalid);
  await context.close();
}

async function aFloodIsBounded(server, channel, shown, options) {
  const context = await newContext(options);
  const page = await open(context, `${server.demo}?channel=${channel}`);
  await live(page);
  for (let number = 1; number <= 250; number += 25) {
    await Promise.all(Array.from({ length: 25 }, (_, more) => server.publish(channel, { title: `number ${number + more}` })));
  }
  await page.locator("campanile-bell .badge", { hasText: "99+" }).waitFor();
  await bellOf(page, 100).waitFor();
  const toasts = page.locator("campanile-bell .toast");
  assert.equal(await toasts.count(), shown + 1, "those, and how many more");
  // Nothing that is to be typed lies behind them.
  const [above, commands] = [await toasts.last().boundingBox(), await page.locator("#commands").boundingBox()];
  assert.ok(shown > 1 || above.y + above.height <= commands.y, `${above.y} and ${above.height} above ${commands.y}`);
  await page.getByRole("button", { name: "Dismiss all" }).click();
  assert.equal(await toasts.count(), 0);
  assert.equal(await page.evaluate(() => document.querySelector("campanile-bell").shadowRoot.activeElement.classList.contains("opener")), true);
  await server.publish(channel, { title: "one more" });
  await toasts.getByText("one more").waitFor();
  await bellOf(page, 100).click();
  await page.waitForFunction(() => document.querySelector("campanile-bell").shadowRoot.querySelectorAll("li").length === 100);
  assert.equal(await toasts.count(), 0);
  await close(page);
  await context.close();
}

/** The page of the control port may connect where the list of origins has it; the same page from elsewhere may not. */
async function foreignOriginsAreRefused() {
  const server = await Server.start((control) => `origins = ["${control}"]`);
  const elsewhere = await servedElsewhere(server);
  const context = await newContext();
  const own = await open(context, server.demo);
  await live(own);
  const foreign = await open(context, elsewhere);
  const advice = foreign.getByText(`add --origins http://foreign.test:${new URL(elsewhere).port}`);
  await advice.waitFor();
  assert.ok(!(await foreign.locator("#state").textContent()).startsWith("Live"));
  await server.publish("news", { title: "not for everybody" });
  await bellOf(own, 1).waitFor();
  assert.equal((await titles(foreign)).length, 0);
  // Nor may another site's name mean this control port.
  const answer = await foreign.goto(`http://foreign.test:${server.controlPort}/demo`);
  assert.equal(answer.status(), 421);
  await close(own, foreign);
  await context.close();
  await server.kill();
}

async function servedElsewhere(server) {
  const html = await (await fetch(server.demo)).text();
  const foreign = createServer((_, response) => response.setHeader("content-type", "text/html; charset=utf-8").end(html));
  await new Promise((resolve) => foreign.listen(0, "127.0.0.1", resolve));
  atEnd(() => foreign.close());
  return `http://foreign.test:${foreign.address().port}/`;
}

async function aTokenIsAskedFor() {
  const server = await Server.start('auth = "jwt"\ntoken_secret = "0123456789abcdef0123456789abcdef"\n');
  const context = await newContext();
  const page = await open(context, server.demo);
  await page.getByRole("heading", { name: "This server asks for a token" }).waitFor();
  await page.getByText("Waiting for a token").waitFor();
  await page.locator("#identity-value").fill("e30.e30.e30");
  await page.getByRole("button", { name: "Connect", exact: true }).click();
  await page.getByText("campanile token --inspect").waitFor();
  await page.locator("#identity-value").fill(await server.type("token", "--sub", "ann"));
  await page.getByRole("button", { name: "Connect", exact: true }).click();
  await live(page);
  assert.ok(!page.url().includes("e30"), "a token stays out of addresses");
  const [tab] = await Promise.all([context.waitForEvent("page"), page.getByRole("link", { name: "Open a second tab" }).click()]);
  await live(tab);
  await close(page);
  await context.close();
  await server.kill();
}

async function inAllLights(server) {
  const looks = [
    ["desktop-light", { viewport: { width: 1280, height: 800 }, colorScheme: "light" }],
    ["desktop-dark", { viewport: { width: 1280, height: 800 }, colorScheme: "dark" }],
    ["phone-light", { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2, colorScheme: "light" }],
    ["phone-dark", { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2, colorScheme: "dark" }],
    ["forced-colours", { viewport: { width: 1280, height: 800 }, forcedColors: "active", reducedMotion: "reduce" }],
  ];
  for (const [name, options] of looks) {
    const context = await newContext(options);
    const channel = `look ${name}`;
    const page = await open(context, `${server.demo}?channel=${encodeURIComponent(channel)}`);
    await live(page);
    await server.publish(channel, { title: "The build is green", body: "main, 21 minutes", url: "https://example.org/" });
    await server.publish(channel, "a text alone");
    await bellOf(page, 2).click();
    await page.getByRole("button", { name: "Mark all as read" }).click();
    await bellOf(page, 0).waitFor();
    await page.keyboard.press("Escape");
    await server.publish(channel, { title: "Ann has answered", body: "“Let us meet at noon, under the tower.”\nAnd a second line." });
    await server.publish(channel, { title: "مرحبا بالعالم", body: "from right to left" });
    await server.publish(channel, { title: `${"A very long title ".repeat(12)}`, body: "aaaaaaaa".repeat(60) });
    await bellOf(page, 3).waitFor();
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name}: wider than the screen`);
    await picture(page, `${name}-toasts`);
    await bellOf(page, 3).click();
    await page.getByRole("dialog").waitFor();
    const box = await page.getByRole("dialog").boundingBox();
    const { width, height } = options.viewport;
    assert.ok(box.x >= 0 && box.y >= 0 && box.x + box.width <= width && box.y + box.height <= height, `${name}: the list is outside of the screen`);
    await picture(page, `${name}-list`);
    await close(page);
    await context.close();
  }
}

async function whatIsWrongIsSaid() {
  const server = await Server.start();
  const context = await newContext({ viewport: { width: 1280, height: 800 } });
  const page = await open(context, server.demo);
  await live(page);
  await picture(page, "empty");
  await server.kill();
  await page.getByText("be reached from here").waitFor();
  await picture(page, "server-away");
  await close(page);
  await context.close();
}

export async function inChromium(folder) {
  pictures = folder;
  if (pictures) {
    mkdirSync(pictures, { recursive: true });
  }
  browser = await start();
  const redis = await Redis.start();
  const rules = 'auth = "query"\n[[channels]]\nprefix = "feed:"\ndurable = true\nhistory_count = 1000\nsubscribe = "anyone"\n';
  const steps = [
    ["a message of redis-cli rings", async () => ringsAtOnce(await Server.start("", ["--redis", redis.url]), redis)],
    ["marks of a user, and a server that is killed", async () => {
      const server = await Server.start(rules, ["--redis", redis.url]);
      server.redis = redis;
      await usersAgreeAndNothingIsLost(server);
    }],
  ];
  const embedded = await Server.start();
  steps.push(
    ["by keyboard", () => byKeyboard(embedded)],
    ["two tabs of a browser", () => twoTabsAgree(embedded)],
    ["hostile content", () => hostileContentIsText(embedded)],
    ["a flood", () => aFloodIsBounded(embedded, "flood", 3)],
    ["a flood on a phone", () => aFloodIsBounded(embedded, "flood-phone", 1, { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true })],
    ["every light and size", () => inAllLights(embedded)],
    ["a server that forgets", () => aGapIsSaid(embedded)],
    ["foreign origins", foreignOriginsAreRefused],
    ["a token", aTokenIsAskedFor],
    ["what is wrong", whatIsWrongIsSaid],
  );
  for (const [name, step] of steps) {
    const begin = Date.now();
    await step().catch((error) => {
      throw new Error(`in Chromium: ${name}`, { cause: error });
    });
    console.log(`ok ${name} (${Date.now() - begin} ms)`);
  }
}
