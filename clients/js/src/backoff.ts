// When to come back: docs/protocol.md, sections 2.4 and 11.

/** How a connection, or the attempt to make one, ended. */
export interface End {
  /** It had come to `connected`; whoever tried says so. */
  opened?: boolean;
  /** A close code. */
  code?: number;
  /** An HTTP status. */
  status?: number;
  reason: string;
  /** The server's own word for when to come back. */
  retryInMs?: number | undefined;
  /** This transport does not come through here, whatever the server says. */
  unavailable?: boolean;
  /** Not even tried: what it needs is not there. */
  impossible?: boolean;
}

export type Verdict = "never" | "token" | "later";

const NEVER = [1002, 1007, 1008, 1009, 4002];
/** A refusal that is over some time; every other 4xx is about the request itself. */
const PASSING = [408, 425, 429];

export function judge({ code = 0, status = 0 }: End): Verdict {
  if (status === 401 || code === 4001) return "token";
  const isRefused = status >= 400 && status < 500 && !PASSING.includes(status);
  return isRefused || NEVER.includes(code) ? "never" : "later";
}

const RECONNECT_IN = /reconnect in (\d{1,9}) ?ms/;
/** Whatever somebody in between says, nobody waits longer than that on another's word. */
const WAIT_MS_MAX = 10 * 60_000;

/** What the reason of a 1012 asks for. */
export function delayInReason(code: number, reason: string): number | undefined {
  const found = code === 1012 ? RECONNECT_IN.exec(reason) : null;
  return found ? Math.min(Number(found[1]), WAIT_MS_MAX) : undefined;
}

/** `Retry-After` in milliseconds: seconds, or a date. */
export function retryAfter(value: string | null, now: number): number | undefined {
  if (!value) return undefined;
  const delay = /^\d{1,9}$/.test(value.trim()) ? Number(value) * 1000 : Date.parse(value) - now;
  return Number.isNaN(delay) ? undefined : Math.min(Math.max(delay, 0), WAIT_MS_MAX);
}

/** Full jitter: anywhere below a bound that doubles with each failure, so that those who failed together do not come back together. */
export function jitter(failures: number, min: number, max: number): number {
  return Math.random() * Math.min(max, min * 2 ** failures);
}
