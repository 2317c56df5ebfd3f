// Keeps one connection: which transport, when it is given up, when it is tried again, when a better one is.

import { jitter, judge } from "./backoff.js";
import type { End } from "./backoff.js";
import type { Carrier, Hooks, Wanted } from "./carrier.js";
import { isEvent, isNumber, textOf } from "./codec.js";
import type { Codec } from "./codec.js";
import { CampanileError, known, messageOf } from "./errors.js";
import { EventStream } from "./event_stream.js";
import type { Wish } from "./requester.js";
import { isOffline } from "./page.js";
import { Polling } from "./polling.js";
import type { Requests } from "./requests.js";
import { canShare, SharedStream } from "./shared_stream.js";
import type { Tokens } from "./tokens.js";
import type { ConnectOptions, ServerEvent, StateChange, Timing, TransportName } from "./types.js";
import { findWebSocket, Socket } from "./websocket.js";

/** A connection that has held so long has not failed. */
const STABLE_MS = 10_000;
/** So often a transport does not come through, though the server answers requests, before the next one is used. */
const BLOCKED_MAX = 2;
/** Tokens that are refused in a row. */
const TOKENS_REFUSED_MAX = 5;
/** What a server that says nothing of its heartbeat is taken to have. */
const HEARTBEAT_SECONDS = 30;
const UPGRADE_DOUBLINGS_MAX = 4;

export const TRANSPORTS: TransportName[] = ["websocket", "sse", "polling"];

export const TIMING: Required<Timing> = {
  connectTimeout: 10_000,
  pongTimeout: 10_000,
  commandTimeout: 15_000,
  tokenTimeout: 30_000,
  backoffMin: 1_000,
  backoffMax: 60_000,
  upgradeAfter: 60_000,
};

export interface Around {
  requests: Requests;
  codec: Codec;
  tokens: Tokens;
  timing: Required<Timing>;
  options: ConnectOptions;
  wish: Wish;
  began(carrier: Carrier, clientId: string | undefined): void;
  ended(): void;
  event(event: ServerEvent, asked: Wanted | undefined): void;
  state(change: StateChange): void;
  error(error: CampanileError): void;
}

/** One try to connect, and what becomes of it. */
interface Attempt {
  readonly index: number;
  carrier?: Carrier;
  isOpen: boolean;
  isOver: boolean;
  heardAt: number;
  heartbeatMs: number;
  deadline?: Timer;
  watchdog?: Timer;
  stable?: Timer;
}

type Timer = ReturnType<typeof setTimeout> | undefined;

export class Connection {
  #around: Around;
  #transports: TransportName[];
  /** Which of them is used. */
  #index = 0;
  #attempt: Attempt | undefined;
  /** A better one that is tried while this one goes on. */
  #candidate: Attempt | undefined;
  #retry: Timer;
  #upgrade: Timer;
  #upgrades = 0;
  #failures = 0;
  #blocked = 0;
  #tokensRefused = 0;
  /** The server does not want to see us before. */
  #notBefore = 0;
  /** Why the last attempt ended. */
  #error: CampanileError | undefined;
  #isClosed = true;

  constructor(around: Around) {
    this.#around = around;
    this.#transports = around.options.transports ?? TRANSPORTS;
  }

  /** Now, whatever would come later. */
  connect(): void {
    if (this.#isClosed) {
      this.#isClosed = false;
      this.#index = this.#failures = this.#blocked = this.#tokensRefused = this.#notBefore = 0;
    }
    if (!this.#attempt) this.#begin();
  }

  close(error?: CampanileError): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearTimeout(this.#retry);
    clearTimeout(this.#upgrade);
    const wasOpen = this.#attempt?.isOpen;
    finish(this.#attempt);
    finish(this.#candidate);
    this.#attempt = this.#candidate = undefined;
    if (wasOpen) this.#around.ended();
    this.#around.state(known({ state: "closed", error }));
  }

  renew(always: boolean): void {
    if (this.#attempt?.isOpen) this.#attempt.carrier?.renew(always);
  }

  /** The page is shown again, or the network has gone or come (`isNews`: come): what was thought to be there may be gone, and what was not may be. */
  check(isNews: boolean): void {
    if (this.#isClosed) return;
    const attempt = this.#attempt;
    if (!attempt) {
      const { backoffMin } = this.#around.timing;
      if (Date.now() >= this.#notBefore) this.#wait(jitter(0, backoffMin, backoffMin));
    } else if (attempt.isOpen) {
      if (attempt.carrier?.takesCommands) this.#ask(attempt);
      else if (isNews || Date.now() - attempt.heardAt > this.#silence(attempt)) attempt.carrier?.renew(true);
      if (isNews && this.#index > 0) this.#tryBetter(0);
    }
  }

  #begin(): void {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    this.#attempt = newAttempt(this.#index);
    this.#around.state({ state: "connecting" });
    void this.#run(this.#attempt);
  }

  async #run(attempt: Attempt): Promise<void> {
    const { codec, tokens, requests, timing, options } = this.#around;
    try {
      await codec.load();
      requests.token = await tokens.get();
      const name = this.#transports[attempt.index];
      const WebSocket = name === "websocket" ? await findWebSocket(options.WebSocket) : undefined;
      if (attempt.isOver) return;
      if (!(name === "websocket" ? WebSocket : requests.canFetch)) {
        const missing = name === "websocket" ? "WebSocket; install ws, or give the option WebSocket" : "fetch";
        return this.#over(attempt, { reason: `no ${missing}`, impossible: true });
      }
      attempt.deadline = setTimeout(() => {
        this.#over(attempt, { reason: `not connected within ${timing.connectTimeout} ms` });
      }, timing.connectTimeout);
      attempt.carrier = this.#carrier(name, WebSocket, this.#hooks(attempt));
    } catch (cause) {
      const error = cause instanceof CampanileError ? cause : new CampanileError("unreachable", messageOf(cause), { cause });
      if (!attempt.isOver) this.#around.error(error);
      this.#over(attempt, { reason: error.message });
    }
  }

  #carrier(name: TransportName | undefined, WebSocket: Parameters<typeof findWebSocket>[0], hooks: Hooks): Carrier {
    const { codec, tokens, requests, options, wish, timing } = this.#around;
    if (name === "websocket") return new Socket(WebSocket!, requests.socketUrl, requests.token, codec, hooks);
    if (name === "polling") return new Polling(requests, codec, wish, hooks);
    if (options.shareStream === false || !canShare()) return new EventStream(requests, wish, hooks);
    const user = options.user ?? tokens.user;
    return new SharedStream(`${requests.base} ${user}`, requests, wish, hooks, timing.connectTimeout);
  }

  #hooks(attempt: Attempt): Hooks {
    const around = this.#around;
    return {
      opened: () => this.#opened(attempt),
      event: (event, asked) => {
        if (attempt.isOver) return;
        if (!isEvent(event)) return around.error(new CampanileError("bad_event", "A message is no map with a type."));
        if (event.type === "connected") {
          const seconds = isNumber(event.heartbeat) && event.heartbeat > 0 ? Math.min(event.heartbeat, 86_400) : HEARTBEAT_SECONDS;
          attempt.heartbeatMs = seconds * 1000;
          this.#opened(attempt, textOf(event.client_id));
        }
        this.#around.event(event, asked);
      },
      heard: () => {
        attempt.heardAt = Date.now();
      },
      ended: (end) => this.#over(attempt, end),
      trouble: (cause) => around.error(new CampanileError("bad_event", `A message cannot be read: ${messageOf(cause)}`, { cause })),
    };
  }

  #opened(attempt: Attempt, clientId?: string): void {
    if (attempt.isOpen || attempt.isOver) return;
    attempt.isOpen = true;
    clearTimeout(attempt.deadline);
    if (attempt === this.#candidate) {
      this.#candidate = undefined;
      const before = this.#attempt;
      finish(before);
      if (before?.isOpen) this.#around.ended();
      this.#attempt = attempt;
      this.#index = attempt.index;
    }
    this.#blocked = 0;
    this.#notBefore = 0;
    this.#error = undefined;
    attempt.stable = setTimeout(() => {
      this.#failures = this.#tokensRefused = 0;
    }, STABLE_MS);
    this.#watch(attempt);
    this.#planUpgrade();
    this.#around.began(attempt.carrier!, clientId);
    const transport = this.#transports[attempt.index]!;
    if (!attempt.isOver) this.#around.state({ state: "connected", transport });
  }

  /** So long may nothing come: clients of streams hear each heartbeat, others ask after one. */
  #silence(attempt: Attempt): number {
    return attempt.heartbeatMs + (attempt.carrier?.takesCommands ? 0 : this.#around.timing.pongTimeout);
  }

  #watch(attempt: Attempt): void {
    clearTimeout(attempt.watchdog);
    if (attempt.isOver || attempt.carrier?.name === "polling") return;
    const silence = this.#silence(attempt);
    const look = (): void => {
      const silent = Date.now() - attempt.heardAt;
      if (silent < silence) attempt.watchdog = setTimeout(look, silence - silent);
      else if (attempt.carrier?.takesCommands) this.#ask(attempt);
      else this.#over(attempt, { reason: `nothing came for ${silent} ms` });
    };
    attempt.watchdog = setTimeout(look, silence);
  }

  /** A browser shows no pings, so this one is a command. */
  #ask(attempt: Attempt): void {
    clearTimeout(attempt.watchdog);
    const asked = Date.now();
    attempt.carrier?.send({ type: "ping" });
    attempt.watchdog = setTimeout(() => {
      if (attempt.heardAt >= asked) this.#watch(attempt);
      else this.#over(attempt, { reason: `no answer to a ping within ${this.#around.timing.pongTimeout} ms` });
    }, this.#around.timing.pongTimeout);
  }

  #over(attempt: Attempt, end: End): void {
    if (attempt.isOver) return;
    finish(attempt);
    if (attempt === this.#candidate) {
      this.#candidate = undefined;
      return this.#tryBetter(attempt.index + 1);
    }
    if (attempt !== this.#attempt) return;
    clearTimeout(this.#upgrade);
    finish(this.#candidate);
    this.#candidate = undefined;
    if (attempt.isOpen) this.#around.ended();
    void this.#next(attempt, { ...end, opened: attempt.isOpen });
  }

  async #next(attempt: Attempt, end: End): Promise<void> {
    const isPolling = this.#transports[attempt.index] === "polling";
    let unavailable = end.unavailable || end.impossible;
    const { code = 1006, status = 502 } = end;
    // Nothing that the server has said; another 5xx is of what is before it.
    if (!end.opened && !isPolling && !unavailable && code === 1006 && status >= 500 && status !== 503) {
      const answer = await this.#around.requests.probe(AbortSignal.timeout(this.#around.timing.connectTimeout));
      if (this.#attempt !== attempt) return;
      // 404: a server without polling, which says nothing of why.
      if (answer?.status === 200) unavailable = ++this.#blocked >= BLOCKED_MAX;
      else if (answer && answer.status !== 404) end = { ...end, ...answer };
    }
    this.#attempt = undefined;
    if (unavailable && this.#index + 1 < this.#transports.length) {
      this.#index += 1;
      this.#blocked = 0;
      return this.#begin();
    }
    this.#comeBack(end);
  }

  #comeBack(end: End): void {
    const { tokens, timing } = this.#around;
    // 1006 is no word of the server's.
    const status = end.status ?? (end.code === 1006 ? undefined : end.code);
    const code = status === undefined ? "unreachable" : "refused";
    const error = new CampanileError(code, end.reason, { status });
    const verdict = judge(end);
    if (verdict === "never" || end.impossible) return this.close(error);
    if (verdict === "token") {
      if (!tokens.canRenew || ++this.#tokensRefused > TOKENS_REFUSED_MAX) return this.close(error);
      tokens.spoil(end.code === 4001 ? "expired" : "refused");
    }
    const spread = jitter(this.#failures, timing.backoffMin, timing.backoffMax);
    // The server has spread those whom it sends away with 1012; it counts as a failure only if they are not let in again.
    const { retryInMs = 0 } = end;
    this.#failures += 1;
    this.#error = error;
    this.#notBefore = Date.now() + retryInMs;
    this.#wait(end.code === 1012 && end.retryInMs !== undefined ? retryInMs : retryInMs + spread);
  }

  #wait(delay: number): void {
    clearTimeout(this.#retry);
    const offline = isOffline();
    // A browser that is wrong about the network must not keep us away for ever.
    const retryInMs = Math.round(offline ? Math.max(delay, this.#around.timing.backoffMax) : delay);
    this.#retry = setTimeout(() => this.#begin(), retryInMs);
    this.#around.state(known({ state: offline ? "offline" : "waiting", retryInMs: offline ? undefined : retryInMs, error: this.#error }));
  }

  #planUpgrade(): void {
    clearTimeout(this.#upgrade);
    if (this.#index === 0 || this.#isClosed) return;
    const delay = this.#around.timing.upgradeAfter * 2 ** Math.min(this.#upgrades, UPGRADE_DOUBLINGS_MAX);
    // Tabs and clients that were cut off together do not try together.
    this.#upgrade = setTimeout(() => {
      this.#upgrades += 1;
      this.#tryBetter(0);
    }, delay * (0.75 + Math.random() / 2));
  }

  #tryBetter(index: number): void {
    if (this.#candidate || !this.#attempt?.isOpen) return;
    if (index >= this.#index) return this.#planUpgrade();
    clearTimeout(this.#upgrade);
    this.#candidate = newAttempt(index);
    void this.#run(this.#candidate);
  }
}

function newAttempt(index: number): Attempt {
  return { index, isOpen: false, isOver: false, heardAt: Date.now(), heartbeatMs: HEARTBEAT_SECONDS * 1000 };
}

function finish(attempt: Attempt | undefined): void {
  if (!attempt) return;
  attempt.isOver = true;
  for (const timer of [attempt.deadline, attempt.watchdog, attempt.stable]) clearTimeout(timer);
  attempt.carrier?.close();
}
