// Which channels are wanted, where each of them stands, and what a program is told of it: docs/protocol.md, section 7.

import { jitter } from "./backoff.js";
import type { Wanted } from "./carrier.js";
import { bytesOf, isNumber, mapsOf, numberOf, payloadOf, textOf } from "./codec.js";
import { Emitter } from "./emitter.js";
import { badRequest, CampanileError, known } from "./errors.js";
import type { Positions } from "./positions.js";
import type {
  Client, ClientEvents, History, HistoryOptions, Message, Position, Presence, PresenceOptions, Published, PublishOptions, Read, ServerEvent, Stale,
  SubscribeOptions, Subscription, SubscriptionEvents, Unlisten, Unread,
} from "./types.js";

/** A command may be 64 KiB: so many of the longest names fit, whatever has to be escaped in them. */
const CHANNELS_PER_COMMAND = 64;
/** Beyond that no channel is taken that only the server has asked for. */
const CHANNELS_MAX = 1_000;
/** What a channel is refused for now and may be had for later. */
const PASSING = ["busy", "rate_limited", "bus_unavailable", "too_many_channels", "channel_refused"];
const RETRY_MS_MIN = 2_000;
const RETRY_MS_MAX = 60_000;
/** Gaps that whoever wants the present state alone has asked for. */
const BY_REQUEST = ["max_rate", "budget"];

const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;
/** Channels that begin so are the servers'. */
const SERVERS_OWN = "__campanile__:";

/** What channels need of the client around them. */
export interface Link {
  /** A connection is there, and it takes commands; or requests have the channels in their URL; or there is none. */
  readonly mode: "commands" | "requests" | "none";
  /** With an id of its own, which it returns. */
  send(command: object): number;
  /** Asks with other channels; `always`: also where they are those of the present request. */
  renew(always: boolean): void;
  countUnread(channel: string): Promise<Unread | undefined>;
  emit<K extends keyof ClientEvents>(event: K, value: ClientEvents[K]): void;
}

interface Channel {
  readonly name: string;
  options: SubscribeOptions;
  readonly handles: Set<Handle>;
  /** The server subscribes this user to it by itself. */
  isOwn: boolean;
  position: Position | undefined;
  /** `refused`: by the server, until something changes. */
  phase: "idle" | "asked" | "active" | "refused";
  /** The command that asked for it, and after which position. */
  id?: number | undefined;
  asked?: Position | undefined;
  /** It was subscribed without a word of ours, and has been asked for again; once for each connection. */
  isClaimed: boolean;
  /** That there are too many has been said of it. */
  isTooMany?: boolean;
  failures: number;
  retry?: ReturnType<typeof setTimeout> | undefined;
  unread?: number;
  /** The last message that `unread` counts. */
  countedTo: number;
  counting: "no" | "yes" | "again";
}

export class Channels {
  #channels = new Map<string, Channel>();
  #link: Link;
  #positions: Positions;
  #isAsking = false;
  #mustRenew = false;

  constructor(link: Link, positions: Positions) {
    this.#link = link;
    this.#positions = positions;
  }

  subscribe(client: Client, name: string, options: SubscribeOptions): Handle {
    checkName(name);
    checkOptions(name, options);
    let channel = this.#channels.get(name);
    if (!channel) {
      channel = this.#add(name, options, false);
      this.#ask();
    } else if (channel.handles.size === 0) {
      // The user's own channel, which nobody had a handle of.
      channel.options = { ...options };
      if (options.unread) this.#count(channel);
    } else if (options.unread && !channel.options.unread) {
      channel.options.unread = true;
      this.#count(channel);
    }
    const isActive = (): boolean => channel.phase === "active" && this.#link.mode !== "none";
    const handle = new Handle(client, channel, isActive, () => this.#release(channel, handle));
    channel.handles.add(handle);
    return handle;
  }

  /** What a request is to ask for. */
  wanted(): Wanted[] {
    return [...this.#channels.values()].filter(({ phase }) => phase !== "refused").map(wantedOf);
  }

  /** A connection has begun; where it is one of requests, it has asked for those that were wanted then. */
  began(): void {
    for (const channel of this.#channels.values()) this.#reset(channel, "idle");
    this.#ask(false);
  }

  /** Another token may open what was refused. */
  retryRefused(): void {
    for (const channel of this.#channels.values()) {
      if (channel.phase === "refused") this.#reset(channel, "idle");
    }
    this.#ask();
  }

  /** Takes an event that is about a channel, and is no answer to a command but `subscribe`. */
  receive(event: ServerEvent, asked: Wanted | undefined): void {
    switch (event.type) {
      case "subscribed":
        return this.#subscribed(event, asked);
      case "unsubscribed":
        return this.#unsubscribed(event);
      case "notification":
        return this.#notification(event);
      case "gap":
        return this.#gap(event);
      case "read":
        return this.#read(event);
      case "position":
        return this.#standings(event);
      case "error":
        return this.#error(event);
    }
  }

  #add(name: string, options: SubscribeOptions, isOwn: boolean): Channel {
    const position = options.since ?? this.#positions.get(name);
    const channel: Channel = {
      name, options: { ...options }, handles: new Set(), isOwn, position, phase: "idle", isClaimed: false, failures: 0, countedTo: 0,
      counting: "no",
    };
    this.#channels.set(name, channel);
    return channel;
  }

  #release(channel: Channel, handle: Handle): void {
    channel.handles.delete(handle);
    if (channel.handles.size > 0 || channel.isOwn || this.#channels.get(channel.name) !== channel) return;
    this.#channels.delete(channel.name);
    this.#positions.set(channel.name, undefined);
    if (this.#link.mode === "requests") this.#link.renew(false);
    if (this.#link.mode === "commands" && (channel.phase === "asked" || channel.phase === "active")) {
      this.#link.send({ type: "unsubscribe", channel: channel.name });
    }
    // One less may let another in.
    const next = channel.phase !== "refused" && [...this.#channels.values()].find(({ phase, isTooMany }) => phase === "refused" && isTooMany);
    if (next) {
      this.#reset(next, "idle");
      this.#ask();
    }
    this.#reset(channel, "idle");
  }

  #reset(channel: Channel, phase: Channel["phase"]): void {
    clearTimeout(channel.retry);
    channel.phase = phase;
    channel.id = channel.asked = channel.retry = undefined;
    channel.isClaimed = false;
  }

  /** Asks for all that are wanted and not asked for, together with those that are wanted in the same breath. */
  #ask(mustRenew = true): void {
    this.#mustRenew ||= mustRenew;
    if (this.#isAsking) return;
    this.#isAsking = true;
    queueMicrotask(() => {
      const always = this.#mustRenew;
      this.#isAsking = this.#mustRenew = false;
      const idle = [...this.#channels.values()].filter(({ phase }) => phase === "idle");
      if (idle.length === 0) return;
      if (this.#link.mode === "requests") return this.#link.renew(always);
      if (this.#link.mode === "none") return;
      for (let at = 0; at < idle.length; at += CHANNELS_PER_COMMAND) this.#command(idle.slice(at, at + CHANNELS_PER_COMMAND));
    });
  }

  #command(channels: Channel[]): void {
    const entries = channels.map(wantedOf);
    const id = this.#link.send({ type: "subscribe", ...(entries.length === 1 ? entries[0] : { channels: entries }) });
    for (const channel of channels) Object.assign(channel, { phase: "asked", id, asked: channel.position });
  }

  /** The server has subscribed it by itself, from now on: asks for it again from where we stand. */
  #claim(channel: Channel): void {
    channel.isClaimed = true;
    this.#link.send({ type: "unsubscribe", channel: channel.name });
    this.#command([channel]);
  }

  #subscribed(event: ServerEvent, asked: Wanted | undefined): void {
    const { channel: name, epoch, seq, id } = event;
    if (typeof name !== "string" || !isNumber(epoch) || !isNumber(seq)) return this.#malformed(event);
    let channel = this.#channels.get(name);
    let since = asked?.since;
    if (id !== undefined) {
      // An answer to somebody who has unsubscribed meanwhile, or asked again.
      if (!channel || channel.id !== id || channel.phase !== "asked") return;
      since = channel.asked;
    } else if (!channel) {
      // For another tab, or for nobody any more.
      if (asked) return;
      if (this.#channels.size >= CHANNELS_MAX) return;
      channel = this.#add(name, {}, true);
    }
    const position = { epoch, seq };
    if (id === undefined && this.#link.mode === "commands" && channel.phase !== "active") {
      channel.isOwn = true;
      // Told late: that one was given back, and the answer to what was asked instead follows.
      if (channel.isClaimed) return;
      if (channel.position && !isSame(channel.position, position)) {
        // Before it was asked for: the answer to that will be that it is there already.
        if (channel.phase === "asked") this.#claim(channel);
        return;
      }
    }
    const wasActive = channel.phase === "active";
    channel.phase = "active";
    channel.failures = 0;
    channel.isTooMany = false;
    const stale = this.#settle(channel, position, since);
    if (isNumber(event.unread)) {
      channel.countedTo = seq;
      this.#setUnread(channel, event.unread);
    } else if (channel.options.unread && (!wasActive || stale) && channel.unread === undefined) {
      this.#count(channel);
    }
    // A poll is answered so each time.
    if (!wasActive || stale) {
      const { recovered, max_rate: maxRate, unread } = event;
      const told = { channel: name, position: channel.position!, recovered: recovered === true, maxRate: numberOf(maxRate), unread: numberOf(unread) };
      this.#tell(channel, "subscribed", known(told));
    }
    if (stale) this.#stale(channel, stale);
  }

  /** Takes over from where messages follow; says whether that is not where we stand. */
  #settle(channel: Channel, position: Position, asked: Position | undefined): Omit<Stale, "channel"> | undefined {
    const had = channel.position;
    const isLater = !had || position.seq > had.seq;
    if (had?.epoch === position.epoch) {
      // Nothing is missed, or the gap that follows says what; another tab may have asked for more than we need.
      if (position.seq === had.seq || (!isLater && asked?.epoch === position.epoch && asked.seq <= position.seq)) return undefined;
      // The newest message comes, and whoever wants that has missed nothing.
      if (channel.options.latest) return isLater ? this.#move(channel, position) : undefined;
    }
    this.#move(channel, position);
    if (!had) return undefined;
    if (had.epoch !== position.epoch) return { reason: "epoch", position };
    return { reason: "lost", position, ...(isLater && { from: had.seq + 1, to: position.seq }) };
  }

  #move(channel: Channel, position: Position): undefined {
    channel.position = position;
    this.#positions.set(channel.name, position);
  }

  #unsubscribed(event: ServerEvent): void {
    if (event.id !== undefined) return;
    const channel = this.#channels.get(String(event.channel));
    if (!channel) return;
    this.#reset(channel, "refused");
    this.#tell(channel, "unsubscribed", known({ channel: channel.name, reason: textOf(event.reason) }));
    this.#stale(channel, { reason: "unsubscribed" });
  }

  /** What comes before `subscribed` is of a subscription that has ended. */
  #active(name: string): Channel | undefined {
    const channel = this.#channels.get(name);
    return channel?.phase === "active" ? channel : undefined;
  }

  #notification(event: ServerEvent): void {
    const { channel: name, seq, timestamp } = event;
    if (typeof name !== "string" || (seq !== undefined && seq !== null && !isNumber(seq))) return this.#malformed(event);
    const channel = this.#active(name);
    if (!channel) return;
    const message: Message = { channel: name, data: payloadOf(event), timestamp: isNumber(timestamp) ? timestamp : Date.now() };
    if (isNumber(seq) && channel.position) {
      const { epoch, seq: before } = channel.position;
      if (seq <= before) return;
      this.#move(channel, { epoch, seq });
      if (seq > before + 1) this.#stale(channel, { reason: "lost", from: before + 1, to: seq - 1, position: { epoch, seq: seq - 1 } });
      Object.assign(message, { seq, epoch });
      if (channel.unread !== undefined && seq > channel.countedTo) {
        channel.countedTo = seq;
        this.#setUnread(channel, channel.unread + 1);
      }
    }
    this.#tell(channel, "message", message);
  }

  #gap(event: ServerEvent): void {
    const { channel: name, from, to, reason } = event;
    if (typeof name !== "string" || !isNumber(from) || !isNumber(to) || to < from) return this.#malformed(event);
    const channel = this.#active(name);
    if (!channel?.position || to <= channel.position.seq) return;
    const gap = textOf(reason) ?? "unknown";
    const { epoch, seq: before } = channel.position;
    const position = { epoch, seq: to };
    this.#move(channel, position);
    this.#tell(channel, "gap", { channel: name, from, to, reason: gap });
    const { latest, maxRate } = channel.options;
    if (!((latest || maxRate) && BY_REQUEST.includes(gap))) this.#stale(channel, { reason: "gap", from: before + 1, to, gap, position });
    if (channel.unread !== undefined) this.#count(channel);
  }

  /** Where a poll is to go on: the same as what its messages and gaps say, unless one of them could not be read. */
  #standings(event: ServerEvent): void {
    for (const { channel: name, epoch, seq } of mapsOf(event.channels)) {
      const channel = this.#active(name);
      if (!channel?.position || !isNumber(epoch) || !isNumber(seq)) continue;
      const { epoch: ours, seq: before } = channel.position;
      if (epoch !== ours || seq <= before) continue;
      this.#move(channel, { epoch, seq });
      this.#stale(channel, { reason: "lost", from: before + 1, to: seq, position: { epoch, seq } });
    }
  }

  #read(event: ServerEvent): void {
    const { channel: name, epoch, seq } = event;
    if (typeof name !== "string" || !isNumber(seq)) return this.#malformed(event);
    const read: Read = known({ channel: name, epoch: numberOf(epoch), seq });
    const channel = this.#channels.get(name);
    if (!channel) return this.#link.emit("read", read);
    this.#tell(channel, "read", read);
    const { position } = channel;
    if (channel.unread === undefined || !position || epoch !== position.epoch) return;
    if (seq >= position.seq) {
      channel.countedTo = Math.max(channel.countedTo, seq);
      this.#setUnread(channel, 0);
    } else {
      this.#count(channel);
    }
  }

  #error(event: ServerEvent): void {
    const { id, command } = event;
    const name = textOf(event.channel);
    const error = errorOf(event);
    const isMeant = (channel: Channel): boolean => {
      if (id === undefined) return command === "subscribe" && channel.name === name;
      return channel.phase === "asked" && channel.id === id && (name ?? channel.name) === channel.name;
    };
    const meant = [...this.#channels.values()].filter(isMeant);
    for (const channel of meant) this.#refused(channel, error);
    // Else it may be the answer about a channel that has been given back, or asked for otherwise, meanwhile.
    if (meant.length === 0 && (command !== "subscribe" || id === undefined)) this.#link.emit("error", error);
  }

  #refused(channel: Channel, error: CampanileError): void {
    if (error.code === "already_subscribed") {
      if (channel.phase === "asked" && !channel.isClaimed && this.#link.mode === "commands") this.#claim(channel);
      return;
    }
    const again = (): void => {
      this.#reset(channel, "idle");
      this.#ask();
    };
    this.#reset(channel, "refused");
    const wasTooMany = channel.isTooMany;
    channel.isTooMany = error.code === "too_many_subscriptions";
    // Each connection tries it again, and that it is in vain is no news.
    if (!(wasTooMany && channel.isTooMany)) this.#tell(channel, "error", error);
    if ((error.code === "not_durable" || error.code === "no_user") && channel.options.unread) {
      // Better without the count than not at all.
      channel.options.unread = false;
      again();
    } else if (PASSING.includes(error.code)) {
      channel.retry = setTimeout(again, RETRY_MS_MIN + jitter(channel.failures++, RETRY_MS_MIN, RETRY_MS_MAX));
    }
  }

  /** Asks the server, one question at a time. */
  #count(channel: Channel): void {
    if (channel.counting !== "no") {
      channel.counting = "again";
      return;
    }
    channel.counting = "yes";
    void this.#link.countUnread(channel.name).then((told) => {
      const again = channel.counting === "again";
      channel.counting = "no";
      if (this.#channels.get(channel.name) !== channel) return;
      if (told) {
        const { position } = channel;
        const later = position && position.epoch === told.epoch ? Math.max(position.seq - told.last, 0) : 0;
        channel.countedTo = told.last + later;
        this.#setUnread(channel, told.unread + later);
        if (again) this.#count(channel);
      }
    });
  }

  #setUnread(channel: Channel, unread: number): void {
    if (channel.unread === unread) return;
    channel.unread = unread;
    this.#tell(channel, "unread", unread, { channel: channel.name, unread });
  }

  #stale(channel: Channel, stale: Omit<Stale, "channel">): void {
    this.#tell(channel, "stale", { channel: channel.name, ...stale });
  }

  /** The client's listeners first, then those of the handles. */
  #tell<K extends keyof SubscriptionEvents>(channel: Channel, event: K, value: SubscriptionEvents[K], ofClient: unknown = value): void {
    this.#link.emit(event, ofClient as ClientEvents[K]);
    for (const handle of [...channel.handles]) handle.emitter.emit(event, value);
  }

  #malformed(event: ServerEvent): void {
    this.#link.emit("error", new CampanileError("bad_event", `Fields of ${event.type} are missing or wrong.`));
  }
}

/** What a program holds of a channel. */
export class Handle<T = unknown> implements Subscription<T> {
  readonly emitter = new Emitter<SubscriptionEvents<any>>();
  #client: Client;
  #channel: Channel;
  #isActive: () => boolean;
  #release: () => void;
  #isReleased = false;

  constructor(client: Client, channel: Channel, isActive: () => boolean, release: () => void) {
    this.#client = client;
    this.#channel = channel;
    this.#isActive = isActive;
    this.#release = release;
  }

  get channel(): string {
    return this.#channel.name;
  }

  get position(): Position | undefined {
    return this.#channel.position && { ...this.#channel.position };
  }

  get active(): boolean {
    return !this.#isReleased && this.#isActive();
  }

  get unread(): number | undefined {
    return this.#channel.unread;
  }

  on<K extends keyof SubscriptionEvents<T>>(event: K, listener: (value: SubscriptionEvents<T>[K]) => void): Unlisten {
    return this.emitter.on(event, listener as (value: any) => void);
  }

  publish(data: unknown, options?: PublishOptions): Promise<Published> {
    return this.#client.publish(this.channel, data, options);
  }

  history(options?: HistoryOptions): Promise<History<T>> {
    return this.#client.history<T>(this.channel, options);
  }

  markRead(seq?: number): Promise<Read> {
    const { position } = this.#channel;
    if (!position && seq === undefined) return Promise.reject(badRequest("Nothing was handed out yet.", this.channel));
    return this.#client.markRead(this.channel, position ? { epoch: position.epoch, seq: seq ?? position.seq } : seq!);
  }

  presence(options?: PresenceOptions): Promise<Presence> {
    return this.#client.presence(this.channel, options);
  }

  unsubscribe(): void {
    if (this.#isReleased) return;
    this.#isReleased = true;
    this.#release();
  }
}

export function errorOf(event: ServerEvent): CampanileError {
  const { code, message, channel, command } = event;
  const more = { channel: textOf(channel), command: textOf(command) };
  return new CampanileError(textOf(code) ?? "bad_event", textOf(message) ?? "no reason was given", more);
}

/** A mistake that the server would refuse is told where it was made. */
export function checkName(name: unknown): void {
  const isGood = typeof name === "string" && name !== "" && bytesOf(name) <= 255 && !CONTROL.test(name) && !name.startsWith(SERVERS_OWN);
  if (isGood) return;
  throw badRequest(`A channel has 1 to 255 bytes, no control characters, and does not begin with ${SERVERS_OWN}.`, String(name));
}

function checkOptions(channel: string, { since, maxRate }: SubscribeOptions): void {
  if (since !== undefined && !(isNumber(since?.epoch) && isNumber(since.seq))) {
    throw badRequest("since is { epoch, seq }.", channel);
  }
  if (maxRate !== undefined && !(isNumber(maxRate) && maxRate >= 1 && maxRate <= 1000)) {
    throw badRequest("maxRate is a whole number, 1 to 1000.", channel);
  }
}

function wantedOf({ name, position, options: { latest, maxRate, unread } }: Channel): Wanted {
  return known({ channel: name, since: position, latest: latest || undefined, max_rate: maxRate, unread: unread || undefined });
}

function isSame(left: Position, right: Position): boolean {
  return left.epoch === right.epoch && left.seq === right.seq;
}
