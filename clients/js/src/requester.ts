// What event streams and polling have in common: a request that has all that is wanted in its URL, and is made anew when something else is.

import type { End } from "./backoff.js";
import type { Carrier, Hooks, Wanted } from "./carrier.js";
import { messageOf } from "./errors.js";
import { refusalOf } from "./requests.js";
import type { Requests } from "./requests.js";
import type { ServerEvent } from "./types.js";

/** Channels that are wanted in the same breath are asked for together. */
export const RENEW_AFTER_MS = 20;
/** A path that is not served, a method or a type that is not taken: by this server, or by what is before it. */
const UNAVAILABLE = [404, 405, 406, 426, 501];

/** What is wanted now. */
export type Wish = () => Wanted[];

export abstract class Requester implements Carrier {
  abstract readonly name: "sse" | "polling";
  readonly takesCommands = false;
  protected requests: Requests;
  protected hooks: Hooks | undefined;
  protected wanted: Wish;
  #abort: AbortController | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #asked = new Map<string, Wanted>();

  constructor(requests: Requests, wish: Wish, hooks: Hooks) {
    this.requests = requests;
    this.wanted = wish;
    this.hooks = hooks;
    // Whoever made this must have it first.
    queueMicrotask(() => this.#run());
  }

  /** Makes requests until there is nothing more to come. */
  protected abstract read(signal: AbortSignal): Promise<End>;

  send(): void {}

  renew(always: boolean): void {
    if (!this.hooks || this.#timer !== undefined) return;
    const wanted = this.wanted();
    const isSame = wanted.length === this.#asked.size && wanted.every(({ channel }) => this.#asked.has(channel));
    if (isSame && !always) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      // What the present request would have brought comes with the next one, which asks from the same positions.
      void this.#run();
    }, RENEW_AFTER_MS);
  }

  close(): void {
    this.hooks = undefined;
    clearTimeout(this.#timer);
    this.#abort?.abort();
  }

  protected url(path: string, parameters: Record<string, string | number>): string {
    const { url, asked, left } = this.requests.feed(path, parameters, this.wanted());
    this.#asked = new Map(asked.map((one) => [one.channel, one]));
    for (const { channel } of left) this.hooks?.event(tooMany(channel));
    return url;
  }

  protected event(event: unknown): void {
    this.hooks?.event(event as ServerEvent, this.#asked.get(String(Object(event).channel)));
  }

  protected async refused(response: Response): Promise<End> {
    const refusal = await refusalOf(response);
    return { ...refusal, unavailable: UNAVAILABLE.includes(refusal.status) };
  }

  async #run(): Promise<void> {
    if (!this.hooks) return;
    this.#abort?.abort();
    const abort = (this.#abort = new AbortController());
    const end = await this.read(abort.signal).catch((error): End => ({ reason: messageOf(error) }));
    // Another request has taken its place.
    if (abort.signal.aborted) return;
    const hooks = this.hooks;
    this.close();
    hooks?.ended(end);
  }
}

/** As the server says it of subscriptions. */
function tooMany(channel: string): ServerEvent {
  return { type: "error", command: "subscribe", channel, code: "too_many_subscriptions", message: "It does not fit into a URL any more." };
}
