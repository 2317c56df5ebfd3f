// Server-Sent Events, read with `fetch`: an EventSource tells neither why it was refused nor how long to wait, and cannot send a token.

import { delayInReason } from "./backoff.js";
import type { End } from "./backoff.js";
import type { Carrier, Hooks, Wanted } from "./carrier.js";
import { isEvent } from "./codec.js";
import { CampanileError, messageOf } from "./errors.js";
import { refusalOf } from "./requests.js";
import type { Requests } from "./requests.js";
import type { Position, ServerEvent } from "./types.js";

/** Channels that are wanted in the same breath are asked for together. */
export const RENEW_AFTER_MS = 20;
/** Of one event. The largest payload is 16 MiB, and JSON may spell a byte in six. */
const EVENT_LENGTH_MAX = 128 * 1024 * 1024;

/** What is wanted now. */
export type Wish = () => Wanted[];

export class EventStream implements Carrier {
  readonly name = "sse";
  readonly takesCommands = false;
  #requests: Requests;
  #wish: Wish;
  #hooks: Hooks | undefined;
  #abort: AbortController | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #asked = new Map<string, Position | undefined>();

  constructor(requests: Requests, wish: Wish, hooks: Hooks) {
    this.#requests = requests;
    this.#wish = wish;
    this.#hooks = hooks;
    void this.#run();
  }

  send(): void {}

  renew(always: boolean): void {
    if (!this.#hooks || this.#timer !== undefined) return;
    if (!always && !hasOthers(this.#asked, this.#wish())) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void this.#run();
    }, RENEW_AFTER_MS);
  }

  close(): void {
    this.#hooks = undefined;
    clearTimeout(this.#timer);
    this.#abort?.abort();
  }

  async #run(): Promise<void> {
    this.#abort?.abort();
    const abort = (this.#abort = new AbortController());
    const { url, asked, left } = this.#requests.feed("/sse", {}, this.#wish());
    this.#asked = new Map(asked.map(({ channel, since }) => [channel, since]));
    for (const { channel } of left) this.#hooks?.event(tooMany(channel));
    const end = await this.#read(url, abort.signal).catch((error): End => ({ opened: false, reason: messageOf(error) }));
    if (this.#abort !== abort || abort.signal.aborted) return;
    const hooks = this.#hooks;
    this.close();
    hooks?.ended(end);
  }

  async #read(url: string, signal: AbortSignal): Promise<End> {
    const response = await this.#requests.get(url, "text/event-stream", signal);
    const type = response.headers.get("Content-Type") ?? "";
    if (response.status !== 200) {
      const refusal = await refusalOf(response);
      return { opened: false, ...refusal, ...(isNoStream(refusal.status) && { unavailable: true }) };
    }
    if (!type.startsWith("text/event-stream") || !response.body) {
      return { opened: false, reason: `not an event stream but ${type || "nothing"}`, unavailable: true };
    }
    let farewell: End | undefined;
    const parser = new Parser(
      (name, data) => {
        if (name === "close") farewell ??= farewellOf(data);
        // Positions are counted here; a payload alone is nothing that was asked for.
        else if (name !== "position" && name !== "base64") this.#event(data);
      },
      () => !signal.aborted,
    );
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    while (!farewell) {
      const { done, value } = await reader.read();
      if (done || signal.aborted) break;
      this.#hooks?.heard();
      parser.push(value);
    }
    void reader.cancel().catch(() => {});
    if (!farewell) return { opened: false, reason: "the event stream ended" };
    return { ...farewell, ...(parser.retryMs !== undefined && { retryInMs: parser.retryMs }) };
  }

  #event(data: string): void {
    let event: unknown;
    try {
      event = JSON.parse(data);
    } catch (cause) {
      return this.#hooks?.trouble(new CampanileError("bad_event", `An event cannot be read: ${messageOf(cause)}`, { cause }));
    }
    if (isEvent(event)) this.#hooks?.event(event, this.#asked.get(String(event.channel)));
    else this.#hooks?.trouble(new CampanileError("bad_event", "An event is no map with a type."));
  }
}

/** A path that is not served, a method or a type that is not taken: by this server, or by what is before it. */
export function isNoStream(status: number): boolean {
  return [404, 405, 406, 426, 501].includes(status);
}

/** Whether what is wanted is not what was asked for. */
export function hasOthers(asked: Map<string, unknown>, wanted: Wanted[]): boolean {
  return asked.size !== wanted.length || wanted.some(({ channel }) => !asked.has(channel));
}

/** As the server says it of subscriptions. */
export function tooMany(channel: string): ServerEvent {
  const message = "Event streams and polling have their channels in a URL, and this one does not fit into it any more.";
  return { type: "error", command: "subscribe", channel, code: "too_many_subscriptions", message };
}

function farewellOf(data: string): End {
  try {
    const { code, reason } = Object(JSON.parse(data)) as { code?: unknown; reason?: unknown };
    const text = String(reason ?? "the server ended the event stream");
    if (typeof code !== "number") return { opened: false, reason: text };
    // A refusal for a time comes as a stream, because an EventSource would give up for ever otherwise.
    return code < 1000 ? { opened: false, status: code, reason: text } : { opened: false, code, reason: text, ...retryOf(code, text) };
  } catch {
    return { opened: false, reason: "the server ended the event stream" };
  }
}

function retryOf(code: number, reason: string): { retryInMs?: number } {
  const retryInMs = delayInReason(code, reason);
  return retryInMs === undefined ? {} : { retryInMs };
}

/** Lines to events: HTML, section 9.2.6. */
export class Parser {
  retryMs: number | undefined;
  #dispatch: (name: string, data: string) => void;
  #goesOn: () => boolean;
  #rest = "";
  #name = "";
  #data: string[] = [];
  #length = 0;

  constructor(dispatch: (name: string, data: string) => void, goesOn: () => boolean = () => true) {
    this.#dispatch = dispatch;
    this.#goesOn = goesOn;
  }

  push(text: string): void {
    const found = /\r\n|\n|\r/g;
    // What has been looked through has no end of a line but a carriage return that came last.
    found.lastIndex = Math.max(this.#rest.length - 1, 0);
    this.#rest += text;
    let start = 0;
    for (;;) {
      const end = found.exec(this.#rest);
      // A carriage return that comes last may be half of a line's end.
      if (!end || (end[0] === "\r" && found.lastIndex === this.#rest.length)) break;
      this.#line(this.#rest.slice(start, end.index));
      start = found.lastIndex;
      if (!this.#goesOn()) break;
    }
    this.#rest = this.#rest.slice(start);
    if (this.#length + this.#rest.length > EVENT_LENGTH_MAX) throw new Error("an event is longer than any that a server sends");
  }

  #line(line: string): void {
    if (line === "") return this.#end();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#name = value;
    if (field === "retry" && /^\d{1,9}$/.test(value)) this.retryMs = Number(value);
    if (field === "data") {
      this.#data.push(value);
      this.#length += value.length;
    }
  }

  #end(): void {
    const [name, data] = [this.#name || "message", this.#data];
    this.#name = "";
    this.#data = [];
    this.#length = 0;
    if (data.length > 0) this.#dispatch(name, data.join("\n"));
  }
}
