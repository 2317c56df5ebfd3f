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
    if (!this.#msgpack) throw new CampanileError("bad_event", "It is binary, and not JSON.");
    // Objects have no other keys, and a map that has some is a message all the same.
    return this.#msgpack.decode(data as ArrayBuffer, { mapKeyConverter: String });
  }
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

/** A list of maps, without what is none. */
export function mapsOf(value: unknown): Record<string, any>[] {
  return Array.isArray(value) ? value.filter((one) => Object(one) === one) : [];
}

/** An integer as the protocol has them, else nothing. */
export function numberOf(value: unknown): number | undefined {
  return isNumber(value) ? value : undefined;
}

export function textOf(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

export function isNumber(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

export function bytesOf(text: string): number {
  return new TextEncoder().encode(text).length;
}
