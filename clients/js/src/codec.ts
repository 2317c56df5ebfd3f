// JSON and MessagePack. The latter is loaded when it is first needed, so that a page that speaks JSON does not pay for it.

import { CampanileError } from "./errors.js";
import type { ServerEvent } from "./types.js";

type Msgpack = typeof import("@msgpack/msgpack");

export type Format = "json" | "msgpack";

export class Codec {
  readonly format: Format;
  #msgpack: Msgpack | undefined;

  constructor(format: Format) {
    this.format = format;
  }

  /** Before anything is encoded or decoded. */
  async load(): Promise<void> {
    if (this.format === "msgpack") this.#msgpack ??= await import("@msgpack/msgpack");
  }

  encode(command: object): string | Uint8Array<ArrayBuffer> {
    return this.#msgpack ? this.#msgpack.encode(command, { ignoreUndefined: true }) : JSON.stringify(command);
  }

  /** One event, or the list of a poll. Throws what is no such thing. */
  decode(data: unknown): unknown {
    if (typeof data === "string") return JSON.parse(data);
    if (!this.#msgpack) throw new CampanileError("bad_event", "A binary message came on a connection that speaks JSON.");
    return this.#msgpack.decode(data as ArrayBuffer, { mapKeyConverter: keyOf });
  }
}

/** Keys that are no strings become what they are in JSON (docs/protocol.md, section 6). */
function keyOf(key: unknown): string | number {
  if (typeof key === "string" || typeof key === "number") return key;
  return key instanceof Uint8Array ? toBase64(key) : String(key);
}

function toBase64(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** The payload of a notification, or of a message in a history. */
export function payloadOf(event: Record<string, unknown>): unknown {
  if (event.encoding !== "base64" || typeof event.data !== "string") return event.data;
  const text = atob(event.data);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

export function isEvent(value: unknown): value is ServerEvent {
  return typeof value === "object" && value !== null && typeof (value as ServerEvent).type === "string";
}

export function isNumber(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

export function bytesOf(text: string): number {
  return new TextEncoder().encode(text).length;
}
