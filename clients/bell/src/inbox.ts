// The notifications of one channel, and how far they are read. Knows no page, no connection and no storage.
//
// Who has read what is kept in one of two places. On a durable channel, for a user that the server knows, the server keeps it: it counts, and every
// device agrees. Anywhere else this browser does: a mark for each epoch, which like the server's never goes back.

import type { Position } from "../../js/src/types.js";
import type { Notice } from "./notice.js";

/** Notices that are kept of a channel. */
export const NOTICES_MAX = 100;
/** Epochs whose marks are kept: those of the notices, and of what other tabs were told a moment sooner. */
const EPOCHS_MAX = 8;

/** How far this browser has read: a number for each epoch, and a time for messages without a number. */
export interface Marks {
  epochs: [epoch: number, seq: number][];
  time: number;
}

/** What goes into storage. */
export interface Saved extends Marks {
  notices: Notice[];
  /** Up to where these go, to begin after it the next time. */
  position: Position | null;
}

/** What the server has counted. */
export interface Counted {
  epoch: number;
  last: number;
  read: number;
  unread: number;
}

export class Inbox {
  readonly channel: string;
  /** The newest first. */
  notices: Notice[] = [];
  /** Up to where messages have come. */
  position: Position | null = null;
  #known = new Set<string>();
  /** The last ones in are the newest. */
  #marks = new Map<number, number>();
  #readTime = 0;
  #counted: Counted | null = null;
  /** The newest number of that epoch which came here since. */
  #newest = 0;

  constructor(channel: string) {
    this.channel = channel;
  }

  /** False: it is here already, or is older than whatever is kept. */
  add(notice: Notice): boolean {
    if (this.#counted !== null && notice.epoch === this.#counted.epoch && notice.seq !== null) {
      this.#newest = Math.max(this.#newest, notice.seq);
    }
    if (this.#known.has(notice.key)) {
      return false;
    }
    // Almost always at the very front.
    let place = 0;
    while (place < this.notices.length && isNewer(this.notices[place]!, notice)) {
      place += 1;
    }
    if (place >= NOTICES_MAX) {
      return false;
    }
    this.notices.splice(place, 0, notice);
    this.#known.add(notice.key);
    for (const dropped of this.notices.splice(NOTICES_MAX)) {
      this.#known.delete(dropped.key);
    }
    return true;
  }

  /** Null: the server keeps no marks here, this browser does. */
  counted(counted: Counted | null): void {
    const newest = counted !== null && this.#counted?.epoch === counted.epoch ? this.#newest : 0;
    this.#counted = counted;
    const numbers = this.notices.map((notice) => (notice.epoch === counted?.epoch ? (notice.seq ?? 0) : 0));
    this.#newest = Math.max(newest, counted?.last ?? 0, ...numbers);
  }

  get isCountedByServer(): boolean {
    return this.#counted !== null;
  }

  /** The user has read up to there, on the server's word. False: that is nothing new. */
  readElsewhere(epoch: number, seq: number): boolean {
    const counted = this.#counted;
    if (counted === null || counted.epoch !== epoch || seq <= counted.read) {
      return false;
    }
    counted.read = seq;
    return true;
  }

  /** Reads this notice and all before it. What the server keeps is to be told of the position; null: there is none. */
  readUpTo(notice: Notice): Position | null {
    const place = this.notices.indexOf(notice);
    const read = place < 0 ? [notice] : this.notices.slice(place);
    let position: Position | null = null;
    for (const { kind, epoch, seq, time } of read) {
      if (kind === "gap") {
        continue;
      }
      if (seq === null) {
        this.#readTime = Math.max(this.#readTime, time);
      } else {
        this.#mark(epoch, seq);
        if (epoch === this.#counted?.epoch && seq > (position?.seq ?? 0)) {
          position = { epoch, seq };
        }
      }
    }
    if (position !== null) {
      this.readElsewhere(position.epoch, position.seq);
    }
    return position;
  }

  /** Everything, also what the server has counted and is not in the list. */
  readAll(): Position | null {
    const newest = this.notices[0];
    if (newest !== undefined) {
      this.readUpTo(newest);
    }
    if (this.#counted === null || this.#newest === 0) {
      return null;
    }
    const position = { epoch: this.#counted.epoch, seq: this.#newest };
    this.readElsewhere(position.epoch, position.seq);
    return position;
  }

  isUnread(notice: Notice): boolean {
    if (notice.kind === "gap") {
      return false;
    }
    if (notice.seq === null) {
      return notice.time > this.#readTime;
    }
    if (this.#counted !== null) {
      return notice.epoch === this.#counted.epoch && notice.seq > this.#counted.read;
    }
    return notice.seq > (this.#marks.get(notice.epoch) ?? 0);
  }

  get unread(): number {
    const counted = this.#counted;
    if (counted === null) {
      return this.notices.filter((notice) => this.isUnread(notice)).length;
    }
    const unnumbered = this.notices.filter((notice) => notice.seq === null && this.isUnread(notice)).length;
    // What is not kept any more is not counted, so that it may be less than what lies between the two numbers.
    const since = counted.unread + (this.#newest - counted.last);
    return Math.max(0, Math.min(since, this.#newest - counted.read)) + unnumbered;
  }

  /** What another tab of this browser has read. False: that is nothing new. */
  mergeMarks(marks: Marks): boolean {
    let hasMoved = marks.time > this.#readTime;
    this.#readTime = Math.max(this.#readTime, marks.time);
    for (const [epoch, seq] of marks.epochs) {
      hasMoved = this.#mark(epoch, seq) || hasMoved;
    }
    return hasMoved;
  }

  get marks(): Marks {
    return { epochs: [...this.#marks], time: this.#readTime };
  }

  /** What was kept, by this tab before or by another one meanwhile. */
  restore(saved: Saved): void {
    this.mergeMarks(saved);
    this.position ??= saved.position;
    saved.notices.forEach((notice) => this.add(notice));
  }

  get saved(): Saved {
    return { ...this.marks, notices: this.notices, position: this.position };
  }

  #mark(epoch: number, seq: number): boolean {
    const known = this.#marks.get(epoch) ?? 0;
    if (seq <= known) {
      return false;
    }
    this.#marks.delete(epoch);
    this.#marks.set(epoch, seq);
    for (const old of [...this.#marks.keys()].slice(0, -EPOCHS_MAX)) {
      this.#marks.delete(old);
    }
    return true;
  }
}

/** Whether the first stands before the second in the list. Of one count the numbers decide, since a server's clock may go back. */
function isNewer(one: Notice, other: Notice): boolean {
  if (one.seq !== null && other.seq !== null && one.epoch === other.epoch && one.channel === other.channel) {
    return one.seq > other.seq;
  }
  return one.time > other.time;
}
