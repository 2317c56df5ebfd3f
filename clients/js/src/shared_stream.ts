// One event stream for all tabs of a browser, which allows six connections to a host. The tab that holds a lock reads it and hands out what comes; when it
// is closed, or crashes, the browser gives the lock to the next one. A request begins where the tab that is furthest behind stands; the others know what
// they have had.

import type { End } from "./backoff.js";
import type { Carrier, Hooks, Wanted } from "./carrier.js";
import { isEvent } from "./codec.js";
import { known } from "./errors.js";
import { EventStream } from "./event_stream.js";
import { RENEW_AFTER_MS } from "./requester.js";
import type { Wish } from "./requester.js";
import type { Requests } from "./requests.js";
import type { ServerEvent } from "./types.js";

/** Heartbeats are handed on so often. */
const HEARD_EVERY_MS = 1_000;
/** A tab that has not answered so often is gone. */
const UNANSWERED_MAX = 3;

type Note =
  /** `isNew`: something of it does not flow to that tab yet. */
  | { kind: "want"; tab: string; wanted: Wanted[]; isNew: boolean }
  | { kind: "bye"; tab: string }
  /** Of the tab that reads: what do you want? */
  | { kind: "ask" }
  | { kind: "event"; event: ServerEvent; asked: Wanted | undefined }
  | { kind: "heard" }
  | { kind: "ended"; end: End };

/** Locks are there in secure contexts only. */
export function canShare(): boolean {
  const { document, navigator, BroadcastChannel } = globalThis as { document?: unknown; navigator?: Navigator; BroadcastChannel?: unknown };
  return Boolean(document && navigator?.locks && BroadcastChannel);
}

export class SharedStream implements Carrier {
  readonly name = "sse";
  readonly takesCommands = false;
  #tab = `${Date.now()}${Math.random()}`;
  #notes: BroadcastChannel;
  #requests: Requests;
  #wish: Wish;
  #hooks: Hooks | undefined;
  #lock = new AbortController();
  #unlock: (() => void) | undefined;
  #leader: Leader | undefined;
  /** Of our own, when nobody shares one with us. */
  #alone: EventStream | undefined;
  /** Channels that whoever reads was told of. */
  #told = new Set<string>();
  #patience: ReturnType<typeof setTimeout>;

  constructor(key: string, requests: Requests, wish: Wish, hooks: Hooks, patienceMs: number) {
    this.#requests = requests;
    this.#wish = wish;
    this.#hooks = hooks;
    const name = `campanile:${key}`;
    this.#notes = new BroadcastChannel(name);
    this.#notes.onmessage = ({ data }: MessageEvent<Note>) => (this.#leader ? this.#leader.take(data) : this.#hear(data));
    this.#want(true);
    // Whoever reads may hang.
    this.#patience = setTimeout(() => this.#goAlone(), patienceMs / 2);
    const hold = (): Promise<void> => new Promise((resolve) => {
      this.#unlock = resolve;
      if (this.#hooks && !this.#alone) this.#lead();
      else resolve();
    });
    navigator.locks.request(name, { signal: this.#lock.signal }, hold).catch(() => {});
  }

  send(): void {}

  renew(always: boolean): void {
    if (this.#alone) this.#alone.renew(always);
    else if (always || this.#wish().some(({ channel }) => !this.#told.has(channel))) this.#want(true);
  }

  close(): void {
    if (!this.#hooks) return;
    this.#hooks = undefined;
    this.#alone?.close();
    this.#leave();
  }

  #leave(): void {
    clearTimeout(this.#patience);
    this.#leader?.close();
    this.#say({ kind: "bye", tab: this.#tab });
    this.#lock.abort();
    this.#unlock?.();
    this.#notes.onmessage = null;
    this.#notes.close();
  }

  #goAlone(): void {
    if (!this.#hooks || this.#leader || this.#alone) return;
    this.#leave();
    this.#alone = new EventStream(this.#requests, this.#wish, this.#hooks);
  }

  #lead(): void {
    clearTimeout(this.#patience);
    this.#leader = new Leader(this.#requests, (note) => {
      // The token that expires is the one of this tab.
      if (note.kind !== "event" || note.event.type !== "expiring") this.#say(note);
      this.#hear(note);
    });
    this.#leader.ask();
  }

  #want(isNew: boolean): void {
    const wanted = this.#wish();
    this.#told = new Set(wanted.map(({ channel }) => channel));
    const note: Note = { kind: "want", tab: this.#tab, wanted, isNew };
    if (this.#leader) this.#leader.take(note);
    else this.#say(note);
  }

  #say(note: Note): void {
    // Closed, it throws; but then nobody is to hear it.
    if (this.#notes.onmessage) this.#notes.postMessage(note);
  }

  #hear(note: Note): void {
    const hooks = this.#hooks;
    if (!hooks || note.kind === "want" || note.kind === "bye") return;
    clearTimeout(this.#patience);
    hooks.heard();
    if (note.kind === "ask") {
      this.#want(false);
    } else if (note.kind === "event") {
      hooks.event(note.event, note.asked);
    } else if (note.kind === "ended") {
      this.close();
      hooks.ended(note.end);
    }
  }
}

interface Tab {
  wanted: Wanted[];
  unanswered: number;
}

/** The tab that reads, for all. */
class Leader {
  #requests: Requests;
  #tell: (note: Note) => void;
  #tabs = new Map<string, Tab>();
  /** What the present request asks for. */
  #asked = new Map<string, Wanted>();
  #stream: EventStream | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #heardAt = 0;

  constructor(requests: Requests, tell: (note: Note) => void) {
    this.#requests = requests;
    this.#tell = tell;
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#stream?.close();
  }

  take(note: Note): void {
    if (note.kind === "bye") this.#tabs.delete(note.tab);
    if (note.kind !== "want") return;
    this.#tabs.set(note.tab, { wanted: note.wanted, unanswered: 0 });
    if (note.isNew || note.wanted.some(({ channel }) => !this.#asked.has(channel))) this.ask();
  }

  /** All tabs where they stand, and then the server. */
  ask(): void {
    if (this.#timer !== undefined) return;
    this.#timer = setTimeout(() => this.#request(), RENEW_AFTER_MS);
    for (const [name, tab] of this.#tabs) if (++tab.unanswered > UNANSWERED_MAX) this.#tabs.delete(name);
    this.#tell({ kind: "ask" });
  }

  #request(): void {
    this.#timer = undefined;
    if (this.#stream) return this.#stream.renew(true);
    this.#stream = new EventStream(this.#requests, () => this.#union(), {
      opened: () => {},
      event: (event, asked) => isEvent(event) && this.#tell({ kind: "event", event, asked }),
      heard: () => this.#heard(),
      ended: (end) => this.#tell({ kind: "ended", end }),
      trouble: () => {},
    });
  }

  #union(): Wanted[] {
    this.#asked.clear();
    for (const { wanted } of this.#tabs.values()) {
      for (const one of wanted) {
        const before = this.#asked.get(one.channel);
        this.#asked.set(one.channel, before ? merged(before, one) : one);
      }
    }
    return [...this.#asked.values()];
  }

  #heard(): void {
    const now = Date.now();
    if (now - this.#heardAt < HEARD_EVERY_MS) return;
    this.#heardAt = now;
    this.#tell({ kind: "heard" });
  }
}

/** What serves both: from the earlier position, at the higher rate. */
function merged(left: Wanted, right: Wanted): Wanted {
  const [one, other] = [left.since, right.since];
  const since = one && other && one.epoch === other.epoch && other.seq < one.seq ? other : (one ?? other);
  const rate = left.max_rate && right.max_rate && Math.max(left.max_rate, right.max_rate);
  return known({ channel: left.channel, since, latest: left.latest || right.latest, max_rate: rate });
}
