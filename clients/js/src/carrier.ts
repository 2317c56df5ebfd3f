// What all transports have in common.

import type { End } from "./backoff.js";
import type { Position, ServerEvent, TransportName } from "./types.js";

/** A channel as a request or a command asks for it, by the names of the protocol. */
export interface Wanted {
  channel: string;
  since?: Position;
  latest?: boolean;
  max_rate?: number;
  unread?: boolean;
}

/** One connection, or what stands for one. After `ended`, and after its own `close`, it calls nobody any more. */
export interface Carrier {
  readonly name: TransportName;
  /** Channels are asked for, and all else, by commands; if not, each request has what is wanted in its URL. */
  readonly takesCommands: boolean;
  send(command: object): void;
  /** What is wanted has changed: asks anew. `always`: also with the channels that it has asked for. Only where commands are not taken. */
  renew(always: boolean): void;
  close(): void;
}

export interface Hooks {
  /** The server has been reached, where no `connected` comes. */
  opened(): void;
  /** `asked`: how its channel was asked for, where that was in a request's URL. */
  event(event: ServerEvent, asked?: Wanted): void;
  /** Something came, if only a heartbeat. */
  heard(): void;
  /** Once. */
  ended(end: End): void;
  /** Something is wrong that ends nothing. */
  trouble(error: unknown): void;
}
