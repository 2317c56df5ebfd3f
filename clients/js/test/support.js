// What the tests have in common: a real server, waiting for what comes, tokens, and a WebSocket that the test plays.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHmac, randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** Longer than anything takes where nothing else runs. */
const PATIENCE_MS = 30_000;
export const SECRET = "a secret of thirty-two bytes, or more";
/** Delays that a test need not wait for. */
export const QUICK = { backoffMin: 20, backoffMax: 200 };

const RULES = `
allow_client_publish = true
data_dir = "data"
shards = 1
channels_max = 1000
connections_max = 1000
log_bytes_total = "64M"
# Who polls is not there between two polls.
[[channels]]
prefix = "plain"
history_count = 100
[[channels]]
prefix = "kept:"
durable = true
history_count = 1000
presence = true
[[channels]]
prefix = "short:"
durable = true
history_count = 2
log_bytes = "4k"
[[channels]]
prefix = "user:"
durable = true
history_count = 1000
`;

export class Server {
  #directory = mkdtempSync(join(tmpdir(), "campanile-js-"));
  #flags;
  #child;
  #log = "";

  /** Ends with the test. */
  static async start(t, ...flags) {
    const server = new Server(flags);
    writeFileSync(join(server.#directory, "campanile.toml"), RULES);
    t.after(async () => {
      await server.stop();
      rmSync(server.#directory, { recursive: true, force: true });
    });
    await server.#run("127.0.0.1:0");
    return server;
  }

  constructor(flags) {
    this.#flags = flags;
  }

  async #run(listen) {
    const program = process.env.CAMPANILE_BIN;
    assert(program, "set CAMPANILE_BIN to the server's program, as target/debug/campanile");
    const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("CAMPANILE_")));
    const flags = ["serve", "--listen", listen, "--control", "127.0.0.1:0", ...this.#flags];
    this.#child = spawn(program, flags, { cwd: this.#directory, env: environment, stdio: ["ignore", "ignore", "pipe"] });
    const lines = createInterface({ input: this.#child.stderr });
    const told = { clients: undefined, control: undefined };
    await within(new Promise((resolve, reject) => {
      lines.on("line", (line) => {
        this.#log += `${line}\n`;
        const found = /^ {2}(clients|control) +\w+:\/\/(127\.0\.0\.1:\d+)/.exec(line);
        if (found) told[found[1]] = found[2];
        if (told.clients && told.control) resolve();
      });
      lines.on("close", () => reject(new Error(`the server has ended:\n${this.#log}`)));
    }), "the server's addresses");
    this.address = told.clients;
    this.control = told.control;
    this.url = `http://${told.clients}`;
  }

  async stop(signal = "SIGKILL") {
    if (this.#child?.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill(signal);
      await once(this.#child, "exit");
    }
  }

  /** On the same port. */
  async restart(...flags) {
    await this.stop();
    if (flags.length > 0) this.#flags = flags;
    await this.#run(this.address);
  }

  async post(path, body) {
    const response = await fetch(`http://${this.control}${path}`, { method: "POST", body: JSON.stringify(body) });
    const text = await response.text();
    assert.equal(response.status, 200, text);
    return JSON.parse(text);
  }

  async publish(channel, ...payloads) {
    for (const data of payloads) await this.post("/publish", { channel, data });
  }

  get log() {
    return this.#log;
  }
}

export async function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${PATIENCE_MS} ms: ${what}`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The next time that `event` comes, or the next one that `fits`. */
export function next(emitter, event, fits = () => true) {
  let unlisten;
  const found = new Promise((resolve) => {
    unlisten = emitter.on(event, (value) => fits(value) && resolve(value));
  });
  return within(found, `${event} ${fits}`).finally(() => unlisten());
}

export const inState = (client, state, transport) => {
  const fits = (change) => change.state === state && (!transport || change.transport === transport);
  if (fits({ state: client.state, transport: client.transport })) return Promise.resolve();
  return next(client, "state", fits);
};

export const active = (subscription) => (subscription.active ? Promise.resolve() : next(subscription, "subscribed"));

/** Keeps what comes, and waits until there is enough of it. */
export class Kept {
  values = [];
  #wanted = [];

  constructor(emitter, event = "message", map = (value) => value.data) {
    emitter.on(event, (value) => {
      this.values.push(map(value));
      this.#wanted = this.#wanted.filter(({ count, resolve }) => this.values.length < count || resolve());
    });
  }

  async count(count) {
    if (this.values.length >= count) return this.values;
    const enough = new Promise((resolve) => this.#wanted.push({ count, resolve }));
    await within(enough, `${count} of what comes: ${JSON.stringify(this.values).slice(0, 500)}`);
    return this.values;
  }

  /** What comes is exactly this, and nothing more before what is asked for next. */
  async is(...expected) {
    assert.deepEqual(await this.count(expected.length), expected);
  }
}

export function token(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + 600;
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: "alice", jti: randomUUID(), exp, ...claims })}`;
  return `${text}.${createHmac("sha256", SECRET).update(text).digest("base64url")}`;
}

export class Storage {
  items = new Map();

  getItem(key) {
    return this.items.get(key) ?? null;
  }

  setItem(key, value) {
    this.items.set(key, value);
  }
}

/** A WebSocket class whose server the test plays. `opened` resolves with each that the client makes. */
export function played() {
  const sockets = [];
  const wanted = [];
  class PlayedSocket {
    binaryType = "blob";
    readyState = 0;
    onopen = null;
    onmessage = null;
    onerror = null;
    onclose = null;
    sent = [];
    #wanted = [];

    constructor(url, protocols) {
      Object.assign(this, { url, protocols });
      const taker = wanted.shift();
      if (taker) taker(this);
      else sockets.push(this);
    }

    send(data) {
      this.sent.push(JSON.parse(data));
      this.#wanted.shift()?.();
    }

    /** The next command. */
    async command() {
      if (this.sent.length === 0) await within(new Promise((resolve) => this.#wanted.push(resolve)), "a command");
      return this.sent.shift();
    }

    close() {
      this.readyState = 3;
    }

    say(...events) {
      for (const event of events) this.onmessage?.({ data: typeof event === "string" ? event : JSON.stringify(event) });
    }

    connected(heartbeat = 30) {
      this.readyState = 1;
      this.onopen?.({});
      this.say({ type: "connected", client_id: "5f", heartbeat, timestamp: 1 });
      return this;
    }

    end(code, reason = "") {
      this.readyState = 3;
      this.onclose?.({ code, reason });
    }
  }
  PlayedSocket.next = () => (sockets.length > 0 ? Promise.resolve(sockets.shift()) : within(new Promise((resolve) => wanted.push(resolve)), "a WebSocket"));
  PlayedSocket.count = () => sockets.length;
  return PlayedSocket;
}
