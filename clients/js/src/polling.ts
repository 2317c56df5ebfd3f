import type { End } from "./backoff.js";
import type { Carrier, Hooks } from "./carrier.js";
import { isEvent } from "./codec.js";
import type { Codec } from "./codec.js";
import { CampanileError, messageOf } from "./errors.js";
import { hasOthers, isNoStream, RENEW_AFTER_MS, tooMany } from "./event_stream.js";
import type { Wish } from "./event_stream.js";
import { refusalOf } from "./requests.js";
import type { Requests } from "./requests.js";
import type { Position } from "./types.js";

/** How long an answer may be waited for; proxies cut what is silent for a minute. */
const WAIT_SECONDS = 25;
/** How much later it may come. */
const PATIENCE_MS = 15_000;
/** An answer that brings nothing and comes at once, as of a proxy that knows better, is not asked for again at once. */
const PAUSE_MS = 1_000;
/** Without a channel there is nothing to wait for at the server. */
const IDLE_MS = 25_000;

/** Long polling: a request that is answered when there is something new, and then the next one. */
export class Polling implements Carrier {
  readonly name = "polling";
  readonly takesCommands = false;
  #requests: Requests;
  #codec: Codec;
  #wish: Wish;
  #hooks: Hooks | undefined;
  #abort: AbortController | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #asked = new Map<string, Position | undefined>();
  #isFirst = true;

  constructor(requests: Requests, codec: Codec, wish: Wish, hooks: Hooks) {
    this.#requests = requests;
    this.#codec = codec;
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
      // What the answer would have brought comes with the next one: it asks from the same positions.
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
    let end: End | undefined;
    while (!end && !abort.signal.aborted) {
      end = await this.#poll(abort.signal).catch((error): End => ({ opened: false, reason: messageOf(error) }));
    }
    if (this.#abort !== abort || abort.signal.aborted) return;
    const hooks = this.#hooks;
    this.close();
    if (end) hooks?.ended(end);
  }

  async #poll(signal: AbortSignal): Promise<End | undefined> {
    const began = Date.now();
    // The first one is to tell whether polling works, and does not wait.
    const wait = this.#isFirst ? 0 : WAIT_SECONDS;
    const { url, asked, left } = this.#requests.feed("/poll", { format: this.#codec.format, wait: String(wait) }, this.#wish());
    this.#asked = new Map(asked.map(({ channel, since }) => [channel, since]));
    for (const { channel } of left) this.#hooks?.event(tooMany(channel));
    const late = AbortSignal.timeout(wait * 1000 + PATIENCE_MS);
    const ends = new AbortController();
    const stop = (): void => ends.abort();
    for (const cause of [signal, late]) cause.addEventListener("abort", stop);
    try {
      const accept = this.#codec.format === "json" ? "application/json" : "application/msgpack";
      const response = await this.#requests.get(url, accept, ends.signal);
      if (response.status !== 200) {
        const refusal = await refusalOf(response);
        return { opened: false, ...refusal, ...(isNoStream(refusal.status) && { unavailable: true }) };
      }
      const body = this.#codec.format === "json" ? await response.text() : await response.arrayBuffer();
      if (signal.aborted) return undefined;
      const events = this.#codec.decode(body);
      if (!Array.isArray(events)) return { opened: false, reason: "the answer to a poll is no list", unavailable: true };
      this.#hooks?.heard();
      if (this.#isFirst) this.#hooks?.opened();
      this.#isFirst = false;
      for (const event of events) this.#event(event);
      const isEmpty = !events.some((event) => ["notification", "gap"].includes(event?.type));
      if (asked.length === 0) await pause(IDLE_MS, signal);
      else if (isEmpty && wait > 0 && Date.now() - began < PAUSE_MS) await pause(PAUSE_MS, signal);
      return undefined;
    } finally {
      for (const cause of [signal, late]) cause.removeEventListener("abort", stop);
    }
  }

  #event(event: unknown): void {
    if (isEvent(event)) this.#hooks?.event(event, this.#asked.get(String(event.channel)));
    else this.#hooks?.trouble(new CampanileError("bad_event", "An event is no map with a type."));
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
