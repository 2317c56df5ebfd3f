// Server-Sent Events, read with `fetch`: an EventSource tells neither why it was refused nor how long to wait, and cannot send a token.

import { delayInReason } from "./backoff.js";
import type { End } from "./backoff.js";
import { isNumber } from "./codec.js";
import { Requester } from "./requester.js";

/** Of one event. The largest payload is 16 MiB, and JSON may spell a byte in six. */
const EVENT_LENGTH_MAX = 128 * 1024 * 1024;

export class EventStream extends Requester {
  readonly name = "sse";

  protected async read(signal: AbortSignal): Promise<End> {
    const response = await this.requests.get(this.url("/sse", { format: "json" }), "text/event-stream", signal);
    if (response.status !== 200) return this.refused(response);
    const type = response.headers.get("Content-Type") ?? "";
    if (!type.startsWith("text/event-stream") || !response.body) return { reason: `not an event stream but ${type}`, unavailable: true };
    let farewell: End | undefined;
    const parser = new Parser((name, data) => {
      if (name === "close") farewell ??= farewellOf(data);
      // Positions are counted here; a payload alone is nothing that was asked for.
      else if (name !== "position" && name !== "base64") this.#dispatch(data);
    });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    while (!farewell) {
      const { done, value } = await reader.read();
      if (done || signal.aborted) break;
      this.hooks?.heard();
      parser.push(value);
    }
    reader.cancel().catch(() => {});
    return farewell ? { ...farewell, retryInMs: parser.retryMs ?? farewell.retryInMs } : { reason: "the event stream ended" };
  }

  #dispatch(data: string): void {
    try {
      this.event(JSON.parse(data));
    } catch (cause) {
      this.hooks?.trouble(cause);
    }
  }
}

function farewellOf(data: string): End {
  const end: End = { reason: "the server ended the event stream" };
  try {
    const { code, reason } = Object(JSON.parse(data));
    if (typeof reason === "string") end.reason = reason;
    // A refusal for a time comes as a stream, because an EventSource would give up for ever otherwise.
    if (isNumber(code)) Object.assign(end, code < 1000 ? { status: code } : { code, retryInMs: delayInReason(code, end.reason) });
  } catch {
    // That it ends is all that there is to know.
  }
  return end;
}

/** Lines to events: HTML, section 9.2.6. */
export class Parser {
  retryMs: number | undefined;
  #dispatch: (name: string, data: string) => void;
  #rest = "";
  #name = "";
  #data: string[] = [];
  #length = 0;

  constructor(dispatch: (name: string, data: string) => void) {
    this.#dispatch = dispatch;
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
    }
    this.#rest = this.#rest.slice(start);
    if (this.#length + this.#rest.length > EVENT_LENGTH_MAX) throw new Error("too long an event");
  }

  #line(line: string): void {
    if (line === "") return this.#end();
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line) as unknown as [string, string, string];
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
