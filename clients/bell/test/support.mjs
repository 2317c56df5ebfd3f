// Real servers, a real Redis and a real Chromium for the tests of the bell. Everything that is started here ends with the test.
import { execFile, spawn } from "node:child_process";
import { accessSync, constants, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

export const here = dirname(fileURLToPath(import.meta.url));
const run = promisify(execFile);

/** As long as a machine that is busy with other work may need; nothing waits so long unless it fails. */
export const PATIENCE_MS = 120_000;

/** A package, from where the tests have had it installed (CAMPANILE_NODE_MODULES), or from beside this folder. */
export function load(name) {
  const home = process.env.CAMPANILE_NODE_MODULES;
  return createRequire(home === undefined ? import.meta.url : join(home, "here.js"))(name);
}

export const campanile = process.env.CAMPANILE_BIN;
if (campanile === undefined) {
  throw new Error("CAMPANILE_BIN must name the program: CAMPANILE_BIN=../../target/release/campanile npm test");
}

const cleanups = [];
export function atEnd(cleanup) {
  cleanups.push(cleanup);
}
export async function cleanUp() {
  for (const cleanup of cleanups.splice(0).reverse()) {
    await cleanup();
  }
}

let folders = 0;
const folder = mkdtempSync(join(tmpdir(), "campanile-bell-"));
atEnd(() => rmSync(folder, { recursive: true, force: true }));
export function newFolder() {
  folders += 1;
  const path = join(folder, String(folders));
  mkdirSync(path);
  return path;
}

export async function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Asks again and again: HTTP has no event to wait for. */
export async function eventually(what, condition) {
  const begin = Date.now();
  let last;
  while (Date.now() - begin < PATIENCE_MS) {
    try {
      if (await condition()) {
        return;
      }
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`not within ${PATIENCE_MS} ms: ${what}`, { cause: last });
}

function started(program, args, options) {
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"], ...options });
  let log = "";
  child.stderr.on("data", (data) => (log = (log + data).slice(-20_000)));
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.once("error", (error) => (log += error));
  return { child, ended, log: () => log };
}

export class Server {
  /** On free ports that stay the same over restarts. `file` is its campanile.toml, or makes it, of the URL of the control port. */
  static async start(file = "", flags = []) {
    const server = new Server();
    server.folder = newFolder();
    server.port = await freePort();
    server.controlPort = await freePort();
    server.flags = flags;
    server.control = `http://127.0.0.1:${server.controlPort}`;
    server.demo = `${server.control}/demo`;
    writeFileSync(join(server.folder, "campanile.toml"), typeof file === "string" ? file : file(server.control));
    atEnd(() => server.kill());
    await server.restart();
    return server;
  }

  async restart() {
    const args = ["serve", "--listen", `127.0.0.1:${this.port}`, "--control", `127.0.0.1:${this.controlPort}`, ...this.flags];
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("CAMPANILE_")));
    this.process = started(campanile, args, { cwd: this.folder, env });
    await eventually("the server is ready", async () => {
      if (this.process.child.exitCode !== null) {
        throw new Error(this.process.log());
      }
      return (await fetch(`${this.control}/readyz`)).ok;
    });
  }

  /** As a crash ends it. */
  async kill() {
    this.process.child.kill("SIGKILL");
    await this.process.ended;
  }

  async publish(channel, data) {
    const answer = await fetch(`${this.control}/publish`, { method: "POST", body: JSON.stringify({ channel, data }) });
    const told = await answer.json();
    if (!answer.ok) {
      throw new Error(JSON.stringify(told));
    }
    return told;
  }

  /** What a command of the program prints, with this server's settings. */
  async type(...args) {
    const { stdout } = await run(campanile, args, { cwd: this.folder });
    return stdout.trim();
  }
}

export class Redis {
  static async start() {
    const redis = new Redis();
    redis.port = await freePort();
    redis.url = `redis://127.0.0.1:${redis.port}`;
    const args = ["--port", String(redis.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", newFolder()];
    redis.process = started("redis-server", args, {});
    atEnd(async () => {
      redis.process.child.kill("SIGKILL");
      await redis.process.ended;
    });
    await eventually("Redis answers", async () => (await redis.cli("ping")) === "PONG");
    return redis;
  }

  async cli(...args) {
    const { stdout } = await run("redis-cli", ["-p", String(this.port), ...args]);
    return stdout.trim();
  }
}

export async function browser() {
  const { chromium } = load("playwright-core");
  const args = ["--no-sandbox", "--host-resolver-rules=MAP *.test 127.0.0.1"];
  const opened = await chromium.launch({ executablePath: chromiumPath(), args });
  atEnd(() => opened.close());
  return opened;
}

function chromiumPath() {
  const names = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
  for (const directory of (process.env.PATH ?? "").split(delimiter)) {
    for (const name of names) {
      const path = join(directory, name);
      try {
        accessSync(path, constants.X_OK);
        return path;
      } catch {
        // The next one.
      }
    }
  }
  throw new Error("these tests need Chromium; scripts/test installs it");
}
