// Between the client and the inboxes: what arrives goes in, what is read goes out. One for each run of the bell.

import type { CampanileError, Client, Message, Position, Stale, Subscription, Unlisten } from "../../js/src/index.js";
import { type Counted, Inbox } from "./inbox.js";
import type { Memory } from "./memory.js";
import { gapNotice, type Notice, noticeOf } from "./notice.js";

/** How many messages of the past are asked for. */
const HISTORY = 50;
/** What has changed is stored so often at most. */
const SAVE_MS = 250;
/** After the server could not say what is unread, when it is asked again. */
const ASK_AGAIN_MS = 5000;
/** Answers that will not change as long as the connection stays what it is: no marks of this user are kept there. */
const NO_MARKS = ["not_durable", "no_user", "not_allowed", "unknown_type"];

export interface FeedListener {
  /** A message has come that is not read yet. */
  onNotice(notice: Notice): void;
  /** Something of what is shown is another one now. */
  onChange(): void;
  /** A channel cannot be had, or no more. Empty: it is there. */
  onTrouble(channel: string, text: string): void;
}

interface Line {
  inbox: Inbox;
  subscription: Subscription;
  /** Subscribed on the connection that is open now, or told why not. */
  isAnswered: boolean;
  /** What the server has not been told yet that is read. */
  unsent: Position | null;
  /** Told apart from answers to what was asked before. */
  asked: number;
  hasHistory: boolean;
  /** Nothing of the channel was kept here: what was there before this browser came is not unread. */
  isFirst: boolean;
  again: ReturnType<typeof setTimeout> | undefined;
  unlisten: Unlisten[];
}

export class Feed {
  #client: Client;
  #memory: Memory;
  #place: string;
  #listener: FeedListener;
  #lines = new Map<string, Line>();
  #unsaved = new Set<Inbox>();
  #saving: ReturnType<typeof setTimeout> | undefined;
  #flush = (): void => this.#save();
  #unlisten: Unlisten;

  /** `place` says for whom something is kept in this browser: the server's address, and the user. */
  constructor(client: Client, memory: Memory, place: string, channels: string[], listener: FeedListener) {
    this.#client = client;
    this.#memory = memory;
    this.#place = place;
    this.#listener = listener;
    channels.forEach((channel) => this.#follow(channel));
    this.#unlisten = client.on("state", ({ state }) => {
      if (state !== "connected") {
        this.#lines.forEach((line) => (line.isAnswered = false));
      }
    });
    globalThis.addEventListener?.("pagehide", this.#flush);
  }

  get inboxes(): Inbox[] {
    return [...this.#lines.values()].map((line) => line.inbox);
  }

  /** What comes in a channel comes from now on. */
  get isLive(): boolean {
    return this.#client.state === "connected" && [...this.#lines.values()].every((line) => line.isAnswered);
  }

  /** The newest first, of all channels. */
  get notices(): Notice[] {
    const lists = this.inboxes.map((inbox) => inbox.notices);
    // Each list is in order; where there are several, time decides between them.
    return lists.length === 1 ? lists[0]! : lists.flat().sort((one, other) => other.time - one.time);
  }

  get unread(): number {
    return this.inboxes.reduce((sum, inbox) => sum + inbox.unread, 0);
  }

  isUnread(notice: Notice): boolean {
    return this.#lines.get(notice.channel)?.inbox.isUnread(notice) ?? false;
  }

  /** This one and what came before it in its channel. */
  read(notice: Notice): void {
    const line = this.#lines.get(notice.channel);
    if (line !== undefined) {
      this.#told(line, line.inbox.readUpTo(notice));
    }
  }

  readAll(): void {
    for (const line of this.#lines.values()) {
      this.#told(line, line.inbox.readAll());
    }
  }

  close(): void {
    this.#save();
    this.#unlisten();
    globalThis.removeEventListener?.("pagehide", this.#flush);
    clearTimeout(this.#saving);
    for (const line of this.#lines.values()) {
      clearTimeout(line.again);
      line.unlisten.forEach((unlisten) => unlisten());
      line.subscription.unsubscribe();
    }
    this.#lines.clear();
  }

  #follow(channel: string): void {
    const inbox = new Inbox(channel);
    this.#memory.attach(this.#place, inbox);
    const subscription = this.#client.subscribe(channel, inbox.position === null ? {} : { since: inbox.position });
    const isFirst = inbox.position === null;
    const line: Line = { inbox, subscription, isAnswered: false, unsent: null, asked: 0, hasHistory: false, isFirst, again: undefined, unlisten: [] };
    this.#lines.set(channel, line);
    line.unlisten.push(
      subscription.on("message", (message) => this.#arrived(line, message)),
      subscription.on("subscribed", ({ position }) => {
        line.isAnswered = true;
        this.#listener.onTrouble(channel, "");
        if (line.isFirst) {
          line.isFirst = false;
          inbox.mergeMarks({ epochs: [[position.epoch, position.seq]], time: 0 });
        }
        void this.#settle(line);
      }),
      subscription.on("stale", (stale) => this.#stale(line, stale)),
      subscription.on("read", ({ epoch, seq }) => {
        if (epoch !== undefined && inbox.readElsewhere(epoch, seq)) {
          this.#listener.onChange();
        }
      }),
      subscription.on("error", (error) => {
        line.isAnswered = true;
        this.#listener.onTrouble(channel, error.message);
      }),
    );
  }

  #arrived(line: Line, message: Message): void {
    const notice = noticeOf(message);
    const isNew = line.inbox.add(notice);
    this.#changed(line);
    if (isNew && line.inbox.isUnread(notice)) {
      this.#listener.onNotice(notice);
    }
  }

  /** After each `subscribed`: what this user has read, and what there was before. */
  async #settle(line: Line): Promise<void> {
    line.asked += 1;
    const { asked, inbox } = line;
    clearTimeout(line.again);
    if (this.#client.transport === "websocket") {
      const counted = await this.#count(line);
      if (asked !== line.asked) {
        return;
      }
      if (counted === "later") {
        line.again = setTimeout(() => void this.#settle(line), ASK_AGAIN_MS);
      } else {
        inbox.counted(counted);
        if (counted !== null) {
          this.#memory.forget(this.#place, inbox);
        }
      }
      if (!line.hasHistory) {
        await this.#recall(line);
      }
    }
    this.#changed(line);
  }

  async #count(line: Line): Promise<Counted | null | "later"> {
    const { channel } = line.inbox;
    try {
      if (line.unsent !== null) {
        const { epoch, seq } = line.unsent;
        line.unsent = null;
        await this.#client.markRead(channel, { epoch, seq }).catch((error: CampanileError) => this.#unsent(line, { epoch, seq }, error));
      }
      const [answer] = await this.#client.unread([channel]);
      if (answer === undefined) {
        return "later";
      }
      const { last, read, unread } = answer;
      // Of a channel without a message nothing is known; the subscription says what its first one will be counted in.
      return { epoch: answer.epoch ?? line.subscription.position?.epoch ?? 0, last, read, unread };
    } catch (error) {
      return NO_MARKS.includes((error as CampanileError).code) ? null : "later";
    }
  }

  async #recall(line: Line): Promise<void> {
    try {
      const { messages } = await line.subscription.history({ limit: HISTORY });
      messages.forEach((message) => line.inbox.add(noticeOf(message)));
      line.hasHistory = true;
    } catch {
      // What has come stays; the next subscription asks again.
    }
  }

  #stale(line: Line, stale: Stale): void {
    const { inbox } = line;
    if (stale.reason === "unsubscribed") {
      this.#listener.onTrouble(inbox.channel, "the server has ended this subscription: this channel is not for you any more");
      return;
    }
    const place = stale.position ?? line.subscription.position ?? { epoch: 0, seq: 0 };
    const time = inbox.notices[0]?.time ?? Date.now();
    inbox.add(gapNotice(inbox.channel, `${place.epoch}:${stale.from ?? place.seq}`, time, missing(stale)));
    // Some of it may be kept all the same.
    line.hasHistory = false;
    this.#changed(line);
  }

  #told(line: Line, position: Position | null): void {
    if (position !== null) {
      const unsent = (error: CampanileError): void => this.#unsent(line, position, error);
      this.#client.markRead(line.inbox.channel, position).catch(unsent);
    }
    this.#memory.tell(this.#place, line.inbox);
    this.#changed(line);
    // At once: a tab that is opened now is told by nobody.
    this.#save();
  }

  /** It is told as soon as somebody can be told. */
  #unsent(line: Line, position: Position, error: CampanileError): void {
    if (error.code !== "other_epoch" && !NO_MARKS.includes(error.code) && !(line.unsent !== null && line.unsent.seq > position.seq)) {
      line.unsent = position;
    }
  }

  #changed(line: Line): void {
    line.inbox.position = line.subscription.position ?? line.inbox.position;
    if (!line.inbox.isCountedByServer) {
      this.#unsaved.add(line.inbox);
      this.#saving ??= setTimeout(this.#flush, SAVE_MS);
    }
    this.#listener.onChange();
  }

  #save(): void {
    clearTimeout(this.#saving);
    this.#saving = undefined;
    for (const inbox of this.#unsaved) {
      if (!inbox.isCountedByServer) {
        this.#memory.save(this.#place, inbox);
      }
    }
    this.#unsaved.clear();
  }
}

/** Where one number stands for one message, how many. */
function missing(stale: Stale): string {
  if (stale.reason !== "gap") {
    return "Messages may be missing here: the server counts anew";
  }
  if (stale.gap === "outage" || stale.gap === "refused" || stale.from === undefined || stale.to === undefined) {
    return "Messages may be missing here: the server was cut off for a while";
  }
  const count = stale.to - stale.from + 1;
  return count === 1 ? "One message is missing here" : `${count} messages are missing here`;
}
