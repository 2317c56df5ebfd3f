// What this browser keeps of channels whose marks no server keeps: in localStorage, so that a reload and the next tab have it, and by a
// BroadcastChannel, so that open tabs have it at once. Where a browser lets a page have neither, the bell works within its tab.

import { type Inbox, type Marks, NOTICES_MAX, type Saved } from "./inbox.js";
import type { Position } from "../../js/src/types.js";
import type { Notice } from "./notice.js";

const PREFIX = "campanile-bell:";
/** Channels of which something is kept; what was written longest ago goes first. */
const CHANNELS_MAX = 16;

/** The part of `Storage` that is used. */
export interface TextStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

interface Told {
  key: string;
  marks: Marks;
}

export class Memory {
  #storage: TextStorage | null;
  #between: BroadcastChannel | null = null;
  #inboxes = new Map<string, Inbox>();

  /** `changed` is called when another tab has read something. */
  constructor(changed: () => void) {
    // Asking for it throws where cookies are blocked.
    this.#storage = attempt(() => globalThis.localStorage) ?? null;
    this.#between = attempt(() => new BroadcastChannel("campanile-bell")) ?? null;
    this.#between?.addEventListener("message", (event: MessageEvent<unknown>) => {
      const told = toldOf(event.data);
      const inbox = told && this.#inboxes.get(told.key);
      if (told && inbox?.mergeMarks(told.marks)) {
        changed();
      }
    });
  }

  /** Fills the inbox with what is kept, and tells it from then on what other tabs read. `place` says whose it is: the server, the user. */
  attach(place: string, inbox: Inbox): void {
    const key = keyOf(place, inbox.channel);
    this.#inboxes.set(key, inbox);
    const text = attempt(() => this.#storage?.getItem(key));
    const saved = savedOf(text && attempt(() => JSON.parse(text) as unknown), inbox.channel);
    if (saved) {
      inbox.restore(saved);
    }
  }

  save(place: string, inbox: Inbox): void {
    const key = keyOf(place, inbox.channel);
    // What another tab has kept meanwhile stays.
    const saved = savedOf(attempt(() => JSON.parse(this.#storage?.getItem(key) ?? "null") as unknown), inbox.channel);
    if (saved) {
      inbox.restore(saved);
    }
    const text = JSON.stringify(inbox.saved);
    try {
      this.#storage?.setItem(key, text);
    } catch {
      // It is full: what is read matters more than what was written.
      attempt(() => this.#storage?.setItem(key, JSON.stringify({ ...inbox.saved, notices: [] })));
    }
    this.#forgetOldest(key);
  }

  tell(place: string, inbox: Inbox): void {
    const told: Told = { key: keyOf(place, inbox.channel), marks: inbox.marks };
    attempt(() => this.#between?.postMessage(told));
  }

  /** The server keeps them: nothing of the user's stays in the browser. */
  forget(place: string, inbox: Inbox): void {
    attempt(() => this.#storage?.removeItem(keyOf(place, inbox.channel)));
  }

  close(): void {
    this.#between?.close();
    this.#inboxes.clear();
  }

  /** The names of all, the oldest first, stand in an entry of their own. */
  #forgetOldest(key: string): void {
    attempt(() => {
      const listed = JSON.parse(this.#storage?.getItem(PREFIX) ?? "[]") as unknown;
      const names = Array.isArray(listed) ? listed.filter((name) => typeof name === "string" && name.startsWith(PREFIX) && name !== key) : [];
      names.push(key);
      for (const name of names.splice(0, Math.max(0, names.length - CHANNELS_MAX))) {
        this.#storage?.removeItem(name as string);
      }
      this.#storage?.setItem(PREFIX, JSON.stringify(names));
    });
  }
}

function keyOf(place: string, channel: string): string {
  return PREFIX + JSON.stringify([place, channel]);
}

function attempt<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}

/** Another version of this script may have written it, or somebody by hand: whatever is not as it should be is left out. */
function savedOf(value: unknown, channel: string): Saved | null {
  const marks = marksOf(value);
  if (marks === null) {
    return null;
  }
  const listed = (value as { notices?: unknown }).notices;
  const notices = Array.isArray(listed) ? listed.filter((notice) => isNotice(notice, channel)).slice(0, NOTICES_MAX) : [];
  return { ...marks, notices, position: positionOf((value as { position?: unknown }).position) };
}

function positionOf(value: unknown): Position | null {
  const { epoch, seq } = (value ?? {}) as { epoch?: unknown; seq?: unknown };
  return isCount(epoch) && isCount(seq) ? { epoch, seq } : null;
}

function marksOf(value: unknown): Marks | null {
  if (typeof value !== "object" || value === null) {
    return null;
  }
  const { epochs, time } = value as { epochs?: unknown; time?: unknown };
  if (!Array.isArray(epochs) || !isCount(time)) {
    return null;
  }
  return { epochs: epochs.filter((pair): pair is [number, number] => Array.isArray(pair) && isCount(pair[0]) && isCount(pair[1])), time };
}

function toldOf(value: unknown): Told | null {
  if (typeof value !== "object" || value === null) {
    return null;
  }
  const { key, marks } = value as { key?: unknown; marks?: unknown };
  const read = marksOf(marks);
  return typeof key === "string" && read !== null ? { key, marks: read } : null;
}

function isNotice(value: unknown, channel: string): value is Notice {
  if (typeof value !== "object" || value === null) {
    return false;
  }
  const notice = value as Record<string, unknown>;
  const texts = ["key", "title", "body", "link"].every((name) => typeof notice[name] === "string");
  const hasKind = notice["kind"] === "message" || notice["kind"] === "gap";
  const isLinkSafe = notice["link"] === "" || /^https?:/.test(String(notice["link"]));
  const hasPlace = isCount(notice["epoch"]) && isCount(notice["time"]) && (notice["seq"] === null || isCount(notice["seq"]));
  return texts && hasKind && isLinkSafe && hasPlace && notice["channel"] === channel;
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
