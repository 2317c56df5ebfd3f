import { isNumber } from "./codec.js";
import { CampanileError, messageOf } from "./errors.js";
import type { Position, PositionStorage } from "./types.js";

/** Of more channels the ones that were heard last are kept. */
const CHANNELS_MAX = 256;
/** A page that gets thousands of messages a second does not write as often. */
const WRITE_EVERY_MS = 250;

/** Positions over page loads. */
export class Positions {
  #storage: PositionStorage | undefined;
  #key: string;
  #report: (error: CampanileError) => void;
  #changed = new Map<string, Position | undefined>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #hasFailed = false;

  constructor(storage: PositionStorage | undefined, key: string, report: (error: CampanileError) => void) {
    this.#storage = storage;
    this.#key = key;
    this.#report = report;
  }

  get(channel: string): Position | undefined {
    return this.#changed.has(channel) ? this.#changed.get(channel) : this.#read().get(channel);
  }

  /** `undefined` forgets it. */
  set(channel: string, position: Position | undefined): void {
    if (!this.#storage) return;
    this.#changed.delete(channel);
    this.#changed.set(channel, position);
    this.#timer ??= setTimeout(() => this.flush(), WRITE_EVERY_MS);
  }

  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (!this.#storage || this.#changed.size === 0) return;
    // Read again: another tab may have written channels of its own.
    const all = this.#read();
    for (const [channel, position] of this.#changed) {
      all.delete(channel);
      if (position) all.set(channel, position);
    }
    this.#changed.clear();
    try {
      this.#storage.setItem(this.#key, JSON.stringify([...all].slice(-CHANNELS_MAX)));
    } catch (cause) {
      this.#failed(cause);
    }
  }

  #read(): Map<string, Position> {
    const all = new Map<string, Position>();
    let text: string | null | undefined;
    try {
      text = this.#storage?.getItem(this.#key);
    } catch (cause) {
      this.#failed(cause);
    }
    try {
      for (const [channel, { epoch, seq }] of JSON.parse(text ?? "[]")) if (isNumber(epoch) && isNumber(seq)) all.set(String(channel), { epoch, seq });
    } catch {
      // What somebody else has written there is not ours.
    }
    return all;
  }

  #failed(cause: unknown): void {
    if (this.#hasFailed) return;
    this.#hasFailed = true;
    this.#report(new CampanileError("storage_failed", `Positions cannot be kept: ${messageOf(cause)}`, { cause }));
  }
}
