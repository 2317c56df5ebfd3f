import type { End } from "./backoff.js";
import type { Hooks } from "./carrier.js";
import type { Codec } from "./codec.js";
import { Requester } from "./requester.js";
import type { Wish } from "./requester.js";
import type { Requests } from "./requests.js";

/** How long an answer may be waited for; proxies cut what is silent for a minute. */
const WAIT_SECONDS = 25;
/** That a channel is subscribed to is no news to wait for, but without it nobody knows where it begins. */
const WAIT_UNCONFIRMED_SECONDS = 1;
/** How much later it may come. */
const PATIENCE_MS = 15_000;
/** An answer that brings nothing and comes at once, as of a proxy that knows better, is not asked for again at once. */
const PAUSE_MS = 1_000;
/** Without a channel there is nothing to wait for at the server. */
const IDLE_MS = 25_000;

/** Long polling: a request that is answered when there is something new, and then the next one. */
export class Polling extends Requester {
  readonly name = "polling";
  #codec: Codec;
  #isFirst = true;
  #confirmed = new Set<unknown>();

  constructor(requests: Requests, codec: Codec, wish: Wish, hooks: Hooks) {
    super(requests, wish, hooks);
    this.#codec = codec;
  }

  protected async read(signal: AbortSignal): Promise<End> {
    for (;;) {
      const end = await this.#poll(signal);
      if (end) return end;
    }
  }

  async #poll(signal: AbortSignal): Promise<End | undefined> {
    signal.throwIfAborted();
    const began = Date.now();
    const { format } = this.#codec;
    const wanted = this.wanted();
    const isConfirmed = wanted.every(({ channel }) => this.#confirmed.has(channel));
    // The first one is to tell whether polling works, and does not wait.
    const wait = this.#isFirst ? 0 : isConfirmed ? WAIT_SECONDS : WAIT_UNCONFIRMED_SECONDS;
    const url = this.url("/poll", { format, wait });
    const late = new AbortController();
    const stop = (): void => late.abort();
    const timer = setTimeout(stop, wait * 1000 + PATIENCE_MS);
    signal.addEventListener("abort", stop);
    try {
      const response = await this.requests.get(url, `application/${format}`, late.signal);
      if (response.status !== 200) return this.refused(response);
      const events = this.#codec.decode(format === "json" ? await response.text() : await response.arrayBuffer());
      signal.throwIfAborted();
      if (!Array.isArray(events)) return { reason: "the answer to a poll is no list", unavailable: true };
      this.hooks?.heard();
      if (this.#isFirst) this.hooks?.opened();
      this.#isFirst = false;
      for (const event of events) {
        if (event?.type === "subscribed") this.#confirmed.add(event.channel);
        this.event(event);
      }
      const isNews = events.some((event) => event?.type === "notification" || event?.type === "gap");
      if (!isNews && wait && Date.now() - began < PAUSE_MS) await pause(wanted.length ? PAUSE_MS : IDLE_MS, signal);
      return undefined;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
    }
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const stop = (): void => {
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(stop, ms);
    signal.addEventListener("abort", stop, { once: true });
  });
}
