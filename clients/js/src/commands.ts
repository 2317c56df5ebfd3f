// Commands that wait for their answers: docs/protocol.md, section 4.

import { errorOf } from "./channels.js";
import { CampanileError } from "./errors.js";
import type { ServerEvent } from "./types.js";

/** Without a connection a program may go on asking; not without end. */
const WAITING_MAX = 1_000;

export interface Command {
  type: string;
  channel?: string;
  [field: string]: unknown;
}

interface Waiting {
  command: Command;
  /** It does no harm to send it twice. */
  isRepeatable: boolean;
  isSent: boolean;
  resolve(answer: ServerEvent): void;
  reject(error: CampanileError): void;
  timer: ReturnType<typeof setTimeout>;
}

export class Commands {
  #timeoutMs: number;
  #waiting = new Map<number, Waiting>();
  #lastId = 0;

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
  }

  nextId(): number {
    return ++this.#lastId;
  }

  /** `send`: undefined while there is no connection. */
  ask(command: Command, isRepeatable: boolean, send: ((command: object) => void) | undefined): Promise<ServerEvent> {
    if (this.#waiting.size >= WAITING_MAX) {
      return Promise.reject(failure("busy", `${WAITING_MAX} commands wait already`, command));
    }
    const id = this.nextId();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(failure("timeout", `no answer within ${this.#timeoutMs} ms`, command));
      }, this.#timeoutMs);
      const waiting = { command: { ...command, id }, isRepeatable, isSent: send !== undefined, resolve, reject, timer };
      this.#waiting.set(id, waiting);
      send?.(waiting.command);
    });
  }

  /** Takes an event that answers one of them. */
  receive(event: ServerEvent): boolean {
    const waiting = typeof event.id === "number" ? this.#waiting.get(event.id) : undefined;
    if (!waiting?.isSent) return false;
    this.#take(event.id as number, waiting);
    if (event.type === "error") waiting.reject(errorOf({ command: waiting.command.type, channel: waiting.command.channel, ...event }));
    else waiting.resolve(event);
    return true;
  }

  /** A connection that takes commands is there. */
  send(send: (command: object) => void): void {
    for (const waiting of [...this.#waiting.values()]) {
      if (waiting.isSent) continue;
      waiting.isSent = true;
      send(waiting.command);
    }
  }

  /** The connection has ended: what may be sent again waits for the next one. */
  ended(): void {
    for (const [id, waiting] of [...this.#waiting]) {
      if (!waiting.isSent) continue;
      waiting.isSent = false;
      if (waiting.isRepeatable) continue;
      this.#take(id, waiting);
      waiting.reject(failure("disconnected", "the connection ended first; it may have been carried out", waiting.command));
    }
  }

  fail(code: string, message: string): void {
    for (const [id, waiting] of [...this.#waiting]) {
      this.#take(id, waiting);
      waiting.reject(failure(code, message, waiting.command));
    }
  }

  #take(id: number, waiting: Waiting): void {
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
  }
}

export function failure(code: string, message: string, { type, channel }: Command): CampanileError {
  return new CampanileError(code, `${type}: ${message}`, { command: type, channel });
}
