// Everything that a program using the client can name. What the server says in its own words is in docs/protocol.md.

import type { CampanileError } from "./errors.js";

/** Where a message stands in its channel. Numbers of different epochs cannot be compared. */
export interface Position {
  epoch: number;
  seq: number;
}

/** How the client talks to the server, best first. */
export type TransportName = "websocket" | "sse" | "polling";

/**
 * - `connecting`: on the way, for the first time or again.
 * - `connected`: messages flow.
 * - `waiting`: the next attempt comes after a delay (`retryInMs`).
 * - `offline`: the browser says that there is no network; goes on by itself when there is one.
 * - `closed`: for good: by `close()`, or because coming back would end the same way (`error` says why). `connect()` begins anew.
 */
export type State = "connecting" | "connected" | "waiting" | "offline" | "closed";

export interface StateChange {
  state: State;
  /** What carries the messages; only in `connected`. */
  transport?: TransportName;
  /** Milliseconds to the next attempt; only in `waiting`. */
  retryInMs?: number;
  /** Why the last connection or attempt ended; in `waiting`, `offline` and `closed`. */
  error?: CampanileError;
}

/** One message of a channel. */
export interface Message<T = unknown> {
  channel: string;
  /** Absent where the message has no number: it was published past the stream of a durable channel. */
  seq?: number;
  /** Of `seq`. */
  epoch?: number;
  /** Bytes are a `Uint8Array`, in both formats. */
  data: T;
  /** When the server received it, Unix milliseconds. */
  timestamp: number;
}

/**
 * What the application knows of a channel may be wrong: messages were missed and will not come. Load the state anew from where it is kept.
 * - `gap`: the server named messages that it did not send; `from`, `to` and `gap` say which, and why.
 * - `epoch`: numbering began again; how many messages were missed cannot be told.
 * - `lost`: the server cannot say what was missed since the kept position.
 * - `unsubscribed`: the server ended the subscription (`not_allowed`).
 */
export interface Stale {
  channel: string;
  reason: "gap" | "epoch" | "lost" | "unsubscribed";
  /** First and last number that was missed, where they are known. */
  from?: number;
  to?: number;
  /** The server's reason where there was a `gap`: `overrun`, `outage`, `inbox`, `expired`, `dropped`, `refused`, … */
  gap?: string;
  /** From where messages follow. */
  position?: Position;
}

export interface Gap {
  channel: string;
  from: number;
  to: number;
  reason: string;
}

export interface Subscribed {
  channel: string;
  position: Position;
  /** Everything after the kept position follows. */
  recovered: boolean;
  /** Messages a second at most, where there is such a limit. */
  maxRate?: number;
  unread?: number;
}

export interface Unsubscribed {
  channel: string;
  /** Only if the server ended the subscription by itself. */
  reason?: string;
}

/** How far this user has read a channel. */
export interface Read {
  channel: string;
  epoch?: number;
  seq: number;
}

export interface Unread {
  channel: string;
  epoch?: number;
  /** The number of the newest message. */
  last: number;
  /** How far this user has read. */
  read: number;
  /** Messages after `read` that are still kept. */
  unread: number;
}

export interface History<T = unknown> {
  channel: string;
  /** Of the numbers. Absent: nothing of the channel is or was kept. */
  epoch?: number;
  /** Only for `since`: nothing is missing between that position and the first message. */
  recovered?: boolean;
  /** Oldest first. */
  messages: Message<T>[];
  /** There are more that way: go on `since` the last one, or `before` the first one. */
  more: boolean;
}

export interface Presence {
  channel: string;
  /** Subscriptions on all servers: a user with two connections counts twice. */
  subscribers: number;
  /** Names of users, a page of them; only if they were asked for. */
  members?: string[];
  more?: boolean;
  partial?: boolean;
}

export interface Published {
  channel: string;
  /** The message's number, where the bus knew it when it answered. */
  seq?: number;
  /** It was published before with the same idempotency key. */
  repeated: boolean;
}

export interface SubscribeOptions {
  /** Begin after this position. Beats the position that is kept in `storage`. */
  since?: Position;
  /** Begin with the newest message: for what has a present state, as a price. */
  latest?: boolean;
  /** At most so many messages a second, the newest of them: 1 to 1000. */
  maxRate?: number;
  /** Keep count of what this user has not read (durable channels, connections with a user). */
  unread?: boolean;
}

export interface HistoryOptions {
  /** 1 to 256; 100 unless given. */
  limit?: number;
  /** The messages that follow this position. */
  since?: Position;
  /** The last messages before this position. Not beside `since`. */
  before?: Position;
}

export interface PresenceOptions {
  /** The names of users, too. */
  members?: boolean;
  /** With `members`: those behind this name, the last one of the page before. */
  after?: string;
  /** With `members`: 1 to 256; 100 unless given. */
  limit?: number;
}

export interface PublishOptions {
  /** 1 to 256 bytes. A durable channel publishes the same key once in ten minutes, so the message may be sent again safely. */
  idempotencyKey?: string;
}

/** Removes the listener. Calling it again does nothing. */
export type Unlisten = () => void;

export interface ClientEvents {
  state: StateChange;
  /** Every message of every channel. */
  message: Message;
  stale: Stale;
  gap: Gap;
  subscribed: Subscribed;
  unsubscribed: Unsubscribed;
  read: Read;
  /** The count of a subscription with `unread` has changed. */
  unread: { channel: string; unread: number };
  /** What went wrong and is no command's answer. The client goes on by itself unless `state` says `closed`. */
  error: CampanileError;
  /** Every event of the server as it came, also of types that the client does not know. */
  event: ServerEvent;
}

export interface SubscriptionEvents<T = unknown> {
  message: Message<T>;
  stale: Stale;
  gap: Gap;
  subscribed: Subscribed;
  unsubscribed: Unsubscribed;
  read: Read;
  unread: number;
  /** The server does not let this client have the channel now: `not_allowed`, `too_many_subscriptions`, … */
  error: CampanileError;
}

/** One holder's share of a channel. Several `subscribe` of a channel share one subscription of the server; it ends with the last of them. */
export interface Subscription<T = unknown> {
  readonly channel: string;
  /** The last position that was handed out; what a resume begins after. */
  readonly position: Position | undefined;
  /** Messages flow now. */
  readonly active: boolean;
  /** What this user has not read, where `unread` was asked for and the server has told. */
  readonly unread: number | undefined;
  on<K extends keyof SubscriptionEvents<T>>(event: K, listener: (value: SubscriptionEvents<T>[K]) => void): Unlisten;
  publish(data: unknown, options?: PublishOptions): Promise<Published>;
  history(options?: HistoryOptions): Promise<History<T>>;
  /** Without a number: everything that was handed out. */
  markRead(seq?: number): Promise<Read>;
  presence(options?: PresenceOptions): Promise<Presence>;
  unsubscribe(): void;
}

export interface Client {
  readonly state: State;
  readonly transport: TransportName | undefined;
  /** The server's name for this connection. */
  readonly clientId: string | undefined;
  on<K extends keyof ClientEvents>(event: K, listener: (value: ClientEvents[K]) => void): Unlisten;
  /** Also before there is a connection; kept over reconnects. */
  subscribe<T = unknown>(channel: string, options?: SubscribeOptions, listener?: (message: Message<T>) => void): Subscription<T>;
  publish(channel: string, data: unknown, options?: PublishOptions): Promise<Published>;
  history<T = unknown>(channel: string, options?: HistoryOptions): Promise<History<T>>;
  /** Up to and with this number. Never goes back. */
  markRead(channel: string, position: Position | number): Promise<Read>;
  /** Up to 128 channels. */
  unread(channels: string[]): Promise<Unread[]>;
  presence(channel: string, options?: PresenceOptions): Promise<Presence>;
  /** Another token in place of the present one, of the same user; without one the token provider is asked. */
  refresh(token?: string): Promise<void>;
  /** Tries now what else would be tried later, and begins anew after `closed`. */
  connect(): void;
  /** Ends the connection, stores positions, removes what the client listens to in the page. Subscriptions stay for a later `connect()`. */
  close(): void;
}

/** Why a token is asked for. */
export type TokenReason = "connect" | "expiring" | "expired" | "refused";

/** `null`: connect without a token. A provider that throws is asked again later. */
export type TokenProvider = (reason: TokenReason) => string | null | Promise<string | null>;

/** `localStorage` and `sessionStorage` are such. */
export interface PositionStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/** The part of a `WebSocket` that is used; the `ws` package has it, too. */
export interface WebSocketLike {
  binaryType: string;
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(data: any): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike;

/** All in milliseconds. */
export interface Timing {
  /** How long an attempt may take until the server has said `connected`. 10,000. */
  connectTimeout?: number;
  /** How long the answer to a `ping` may take. 10,000. */
  pongTimeout?: number;
  /** How long a command may wait for its connection and its answer. 15,000. */
  commandTimeout?: number;
  /** How long the token provider may take. 30,000. */
  tokenTimeout?: number;
  /** The first reconnect comes within this time, each further one within twice the time before. 1,000. */
  backoffMin?: number;
  /** … but not more than this. 60,000. */
  backoffMax?: number;
  /** How long event streams or polling are used before WebSocket is tried again; doubled each time, up to 16 times. 60,000. */
  upgradeAfter?: number;
}

export interface ConnectOptions {
  /** A JSON Web Token, or a function that gets one; only with a function can the client go on when a token has expired. */
  token?: string | TokenProvider;
  /** For servers that believe names (`auth = "query"`). */
  user?: string;
  /** `json` unless given. `msgpack` loads `@msgpack/msgpack`. */
  format?: "json" | "msgpack";
  /** Which to use, in this order. `["websocket", "sse", "polling"]`. */
  transports?: TransportName[];
  /** Where positions are kept over page loads: `sessionStorage` for this tab, `localStorage` for the browser. */
  storage?: PositionStorage;
  /** Under which key. `campanile:` and the server's address unless given. */
  storageKey?: string;
  /** Called for whatever cannot be recovered; the same as `on("stale")`. */
  onStale?: (stale: Stale) => void;
  /** One event stream for all tabs of a browser. `true` unless given. */
  shareStream?: boolean;
  /** Cookies with requests for event streams and polling, as for `fetch`. `same-origin`. */
  credentials?: "omit" | "same-origin" | "include";
  /** Node 20 has none: give it the class of `ws`, or have `ws` installed. */
  WebSocket?: WebSocketClass;
  fetch?: typeof fetch;
  timing?: Timing;
}

/** An event of the server: docs/protocol.md, section 5. */
export interface ServerEvent {
  type: string;
  [field: string]: unknown;
}
