// Addresses, and what is asked over HTTP.

import { retryAfter } from "./backoff.js";
import type { End } from "./backoff.js";
import type { Wanted } from "./carrier.js";
import { CampanileError, known, messageOf } from "./errors.js";
import type { ConnectOptions } from "./types.js";

/** Servers take a head of 8 KiB, of which the browser needs some. */
const URL_BYTES_MAX = 7_000;
/**
 * What a position may take in the URL, and when it comes back as `Last-Event-ID`: the server counts it in. Reserved also where none is known yet: what fits
 * must not be left out once it has one. So no more than 82 channels fit, and a request may have 128.
 */
const POSITION_BYTES = 40 + 35;
/** Of the text of a refusal. */
const REASON_LENGTH_MAX = 300;

/** The server's address as `http(s)://HOST[/PATH]`, whatever was given. */
export function baseOf(address: string | undefined): string {
  const here = (globalThis as { location?: { href: string } }).location?.href;
  try {
    const { protocol, host, pathname } = new URL(address ?? "/", here);
    const [, secure] = /^(?:http|ws)(s?):$/.exec(protocol)!;
    return `http${secure}://${host}${pathname.replace(/\/+$/, "").replace(/\/ws$/, "")}`;
  } catch (cause) {
    throw new CampanileError("bad_request", `${address} is no address; write https://HOST or wss://HOST/ws.`, { cause });
  }
}

export interface Feed {
  url: string;
  asked: Wanted[];
  /** What did not fit into the URL. */
  left: Wanted[];
}

/** Requests to one server, as one user. */
export class Requests {
  readonly base: string;
  /** Of the connection that is being made, or is there. */
  token: string | undefined;
  #user: string | undefined;
  #fetch: typeof fetch | undefined;
  #credentials: RequestCredentials;

  constructor(base: string, options: ConnectOptions) {
    this.base = base;
    this.#user = options.user;
    // It must not be called as a method of this.
    this.#fetch = (options.fetch ?? globalThis.fetch)?.bind(globalThis);
    this.#credentials = options.credentials ?? "same-origin";
  }

  get socketUrl(): string {
    return `${this.base.replace("http", "ws")}/ws?${pairs({ user: this.#user })}`;
  }

  get canFetch(): boolean {
    return this.#fetch !== undefined;
  }

  /** `/sse` or `/poll` with these channels, each followed by what belongs to it. */
  feed(path: string, parameters: Record<string, string | number>, wanted: Wanted[]): Feed {
    const feed: Feed = { url: `${this.base}${path}?${pairs({ ...parameters, user: this.#user })}`, asked: [], left: [] };
    let room = URL_BYTES_MAX - feed.url.length - (this.token ?? "").length;
    for (const one of wanted) {
      const { unread, since, ...wishes } = one;
      const more = `&${pairs(wishes)}`;
      room -= more.length + POSITION_BYTES;
      if (room < 0) {
        feed.left.push(one);
      } else {
        feed.url += more + (since ? `&since=${since.epoch}:${since.seq}` : "");
        feed.asked.push(one);
      }
    }
    return feed;
  }

  get(url: string, accept: string, signal: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = { Accept: accept };
    // Not in the URL, which proxies write into their logs.
    if (this.token !== undefined) headers.Authorization = `Bearer ${this.token}`;
    return this.#fetch!(url, { headers, signal, credentials: this.#credentials, cache: "no-store" });
  }

  /** Why a WebSocket may have been refused: what the server says to a request of the same client. `undefined`: it does not answer. */
  async probe(signal: AbortSignal): Promise<Refusal | undefined> {
    if (!this.#fetch) return undefined;
    try {
      const response = await this.get(this.feed("/poll", { wait: "0" }, []).url, "application/json", signal);
      return await refusalOf(response);
    } catch {
      return undefined;
    }
  }
}

export type Refusal = Pick<End, "reason" | "retryInMs"> & { status: number };

/** Reads the answer to its end, so that its connection can be used again. */
export async function refusalOf(response: Response): Promise<Refusal> {
  const text = await response.text().catch(messageOf);
  const retryInMs = retryAfter(response.headers.get("Retry-After"), Date.now());
  const reason = text.trim().slice(0, REASON_LENGTH_MAX) || response.statusText;
  return known({ status: response.status, reason, retryInMs });
}

function pairs(values: Record<string, string | number | boolean | undefined>): string {
  return Object.entries(known(values)).map(([name, value]) => `${name}=${encodeURIComponent(value!)}`).join("&");
}
