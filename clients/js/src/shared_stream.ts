// One event stream for all tabs of a browser, which allows six connections to a host. The tab that holds a lock reads it and hands out what comes; when it
// is closed, or crashes, the browser gives the lock to the next one, and the stream goes on from where it was.

import type { End } from "./backoff.js";
import type { Carrier, Hooks, Wanted } from "./carrier.js";
import { isNumber } from "./codec.js";
import { EventStream, RENEW_AFTER_MS } from "./event_stream.js";
import type { Wish } from "./event_stream.js";
import type { Requests } from "./requests.js";
import type { Position, ServerEvent } from "./types.js";

/** How often a tab says that it is still there; browsers let hidden ones speak once a minute. */
const ALIVE_EVERY_MS = 45_000;
const FORGET_AFTER_MS = 180_000;
/** Heartbeats are handed on so often. */
const HEARD_EVERY_MS = 1_000;

type Note =
  | { kind: "want"; tab: string; wanted: Wanted[] }
  | { kind: "alive" | "bye"; tab: string; channels: string[] }
  /** Of the tab that reads; `to`: for one tab alone. */
  | { kind: "lead" | "heard"; to?: string }
  | { kind: "event"; event: ServerEvent; asked: Position | undefined; to?: string }
  | { kind: "ended"; end: End };

/** Locks are there in secure contexts only. */
export function canShare(): boolean {
  const { document, navigator, BroadcastChannel } = globalThis as { document?: unknown; navigator?: Navigator; BroadcastChannel?: unknown };
  return Boolean(document && navigator?.locks && BroadcastChannel);
}

export class SharedStream implements Carrier {
  readonly name = "sse";
  readonly takesCommands = false;
  #tab = `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`;
  #notes: BroadcastChannel;
  #requests: Requests;
  #wish: Wish;
  #hooks: Hooks | undefined;
  #lock = new AbortController();
  #unlock: (() => void) | undefined;
  #leader: Leader | undefined;
  /** Of our own, when nobody shares one with us. */
  #alone: EventStream | undefined;
  #served = new Set<string>();
  #patience: ReturnType<typeof setTimeout>;
  #alive: ReturnType<typeof setInterval>;

  constructor(key: string, requests: Requests, wish: Wish, hooks: Hooks, patienceMs: number) {
    this.#requests = requests;
    this.#wish = wish;
    this.#hooks = hooks;
    const name = `campanile:${key}`;
    this.#notes = new BroadcastChannel(name);
    this.#notes.onmessage = ({ data }: MessageEvent<Note>) => this.#take(data);
    this.#want();
    this.#alive = setInterval(() => {
      this.#tellLeader({ kind: "alive", tab: this.#tab, channels: this.#wish().map(({ channel }) => channel) });
    }, ALIVE_EVERY_MS);
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
    if (this.#alone) return this.#alone.renew(always);
    if (always) this.#leader?.renew();
    this.#want();
  }

  close(): void {
    if (!this.#hooks) return;
    this.#hooks = undefined;
    clearTimeout(this.#patience);
    clearInterval(this.#alive);
    this.#alone?.close();
    this.#leave();
  }

  #leave(): void {
    this.#leader?.close();
    this.#say({ kind: "bye", tab: this.#tab, channels: [] });
    this.#lock.abort();
    this.#unlock?.();
    this.#notes.onmessage = null;
    this.#notes.close();
  }

  #goAlone(): void {
    if (!this.#hooks || this.#leader) return;
    this.#leave();
    clearInterval(this.#alive);
    this.#alone = new EventStream(this.#requests, this.#wish, this.#hooks);
  }

  #lead(): void {
    clearTimeout(this.#patience);
    this.#leader = new Leader(this.#tab, this.#requests, (note) => {
      this.#say(note);
      this.#hear(note);
    });
    this.#say({ kind: "lead" });
    this.#served.clear();
    this.#want();
  }

  /** Asks for what has not been told to flow. */
  #want(): void {
    const wanted = this.#wish().filter(({ channel }) => !this.#served.has(channel));
    this.#tellLeader({ kind: "want", tab: this.#tab, wanted });
  }

  #tellLeader(note: Note): void {
    if (this.#leader) this.#leader.take(note);
    else this.#say(note);
  }

  #say(note: Note): void {
    try {
      this.#notes.postMessage(note);
    } catch {
      // It is closed.
    }
  }

  #take(note: Note): void {
    if (this.#leader) this.#leader.take(note);
    else this.#hear(note);
  }

  #hear(note: Note): void {
    const hooks = this.#hooks;
    if (!hooks || ("to" in note && note.to !== undefined && note.to !== this.#tab)) return;
    if (note.kind === "want" || note.kind === "alive" || note.kind === "bye") return;
    clearTimeout(this.#patience);
    hooks.heard();
    if (note.kind === "lead") {
      // Another tab reads from now on and does not know what we want.
      this.#served.clear();
      this.#want();
    } else if (note.kind === "event") {
      const { event, asked } = note;
      if (event.type === "subscribed") this.#served.add(String(event.channel));
      else if (event.type === "error" || event.type === "unsubscribed") this.#served.delete(String(event.channel));
      hooks.event(event, asked);
    } else if (note.kind === "ended") {
      this.close();
      hooks.ended(note.end);
    }
  }
}

interface Tab {
  channels: Map<string, Wanted>;
  heardAt: number;
}

/** The tab that reads, for all. */
class Leader {
  #ownTab: string;
  #tell: (note: Note) => void;
  #tabs = new Map<string, Tab>();
  /** What the present request asks for. */
  #asked = new Map<string, Wanted>();
  /** How far the stream has come, where it flows. */
  #reached = new Map<string, Position>();
  /** The newest message, of channels of which somebody wants to begin with that. */
  #newest = new Map<string, ServerEvent>();
  /** From where tabs that have come want to begin, which is before what the stream has reached. */
  #behind = new Map<string, Position>();
  /** What the server subscribes its user to by itself. */
  #unasked = new Set<string>();
  #connected: ServerEvent | undefined;
  #stream: EventStream | undefined;
  #start: ReturnType<typeof setTimeout>;
  #heardAt = 0;

  constructor(ownTab: string, requests: Requests, tell: (note: Note) => void) {
    this.#ownTab = ownTab;
    this.#tell = tell;
    // Until other tabs have said what they want.
    this.#start = setTimeout(() => {
      this.#stream = new EventStream(requests, () => this.#union(), {
        opened: () => {},
        event: (event, asked) => this.#event(event, asked),
        heard: () => this.#heard(),
        ended: (end) => tell({ kind: "ended", end }),
        trouble: () => {},
      });
    }, RENEW_AFTER_MS);
  }

  renew(): void {
    this.#stream?.renew(true);
  }

  close(): void {
    clearTimeout(this.#start);
    this.#stream?.close();
  }

  take(note: Note): void {
    if (note.kind === "bye") {
      this.#tabs.delete(note.tab);
    } else if (note.kind === "alive") {
      const tab = this.#tabs.get(note.tab);
      // It was forgotten, or never heard.
      if (!tab) return this.#tell({ kind: "lead", to: note.tab });
      tab.heardAt = Date.now();
      for (const channel of [...tab.channels.keys()]) if (!note.channels.includes(channel)) tab.channels.delete(channel);
    } else if (note.kind === "want") {
      this.#want(note.tab, note.wanted);
    }
  }

  #want(name: string, wanted: Wanted[]): void {
    let tab = this.#tabs.get(name);
    const isNew = !tab;
    if (!tab) this.#tabs.set(name, (tab = { channels: new Map(), heardAt: 0 }));
    tab.heardAt = Date.now();
    if (this.#connected) this.#tell({ kind: "event", event: this.#connected, asked: undefined, to: name });
    for (const channel of isNew ? this.#unasked : []) {
      const reached = this.#reached.get(channel);
      if (reached && !wanted.some((one) => one.channel === channel)) this.#answer(name, { channel }, reached);
    }
    let mustAsk = false;
    for (const one of wanted) {
      const { channel, since } = one;
      tab.channels.set(channel, one);
      const reached = this.#reached.get(channel);
      const begin = reached ?? this.#asked.get(channel)?.since;
      if (since && begin && since.epoch === begin.epoch && since.seq < begin.seq) {
        const before = this.#behind.get(channel);
        if (!before || before.epoch !== since.epoch || since.seq < before.seq) this.#behind.set(channel, since);
        mustAsk = true;
      } else if (reached) {
        this.#answer(name, one, reached);
      } else if (!this.#asked.has(channel)) {
        mustAsk = true;
      }
    }
    if (mustAsk) this.#stream?.renew(true);
  }

  /** What flows already begins for this tab as well. */
  #answer(to: string, { channel, since, latest }: Wanted, { epoch, seq }: Position): void {
    const newest = latest && !since ? this.#newest.get(channel) : undefined;
    const from = newest && isNumber(newest.seq) ? newest.seq - 1 : seq;
    const event = { type: "subscribed", channel, epoch, seq: from, recovered: since?.epoch === epoch && since.seq === seq };
    this.#tell({ kind: "event", event, asked: undefined, to });
    if (newest) this.#tell({ kind: "event", event: newest, asked: undefined, to });
  }

  #union(): Wanted[] {
    const all = new Map<string, Wanted>();
    for (const [name, tab] of this.#tabs) {
      if (tab.heardAt < Date.now() - FORGET_AFTER_MS) {
        this.#tabs.delete(name);
        continue;
      }
      for (const [channel, one] of tab.channels) {
        const before = all.get(channel);
        all.set(channel, before ? merged(before, one) : one);
      }
    }
    for (const [channel, one] of all) {
      const since = this.#behind.get(channel) ?? this.#reached.get(channel) ?? one.since;
      if (since) all.set(channel, { ...one, since });
    }
    this.#asked = new Map(all);
    return [...all.values()];
  }

  #event(event: ServerEvent, asked: Position | undefined): void {
    const channel = String(event.channel);
    const { epoch, seq, to } = event;
    const reached = this.#reached.get(channel);
    if (event.type === "connected") this.#connected = event;
    if (event.type === "subscribed" && isNumber(epoch) && isNumber(seq)) {
      this.#behind.delete(channel);
      if (!this.#asked.has(channel)) this.#unasked.add(channel);
      this.#reached.set(channel, { epoch, seq });
    }
    if (event.type === "notification" && reached && isNumber(seq) && seq > reached.seq) {
      this.#reached.set(channel, { epoch: reached.epoch, seq });
      if (this.#asked.get(channel)?.latest) this.#newest.set(channel, event);
    }
    if (event.type === "gap" && reached && isNumber(to) && to > reached.seq) this.#reached.set(channel, { epoch: reached.epoch, seq: to });
    if (event.type === "error" || event.type === "unsubscribed") {
      for (const map of [this.#asked, this.#reached, this.#behind, this.#newest]) map.delete(channel);
      // Those who want it ask again when it makes sense.
      for (const tab of this.#tabs.values()) tab.channels.delete(channel);
    }
    // The token that expires is the one of this tab.
    this.#tell({ kind: "event", event, asked, ...(event.type === "expiring" && { to: this.#ownTab }) });
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
  const both = left.since && right.since;
  const since = both && left.since!.epoch === right.since!.epoch && right.since!.seq < left.since!.seq ? right.since : (left.since ?? right.since);
  const maxRate = left.maxRate !== undefined && right.maxRate !== undefined ? Math.max(left.maxRate, right.maxRate) : undefined;
  return {
    channel: left.channel,
    ...(since && { since }),
    ...((left.latest || right.latest) && { latest: true }),
    ...(maxRate !== undefined && { maxRate }),
  };
}
