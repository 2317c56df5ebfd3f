import type { Carrier, Hooks } from "./carrier.js";
import { textOf } from "./codec.js";
import type { Codec } from "./codec.js";
import { delayInReason } from "./backoff.js";
import type { End } from "./backoff.js";
import { messageOf } from "./errors.js";
import type { ServerEvent, WebSocketClass, WebSocketLike } from "./types.js";

/** After `error` comes `close`, but not where a page's Content-Security-Policy forbids the socket. */
const CLOSE_AFTER_ERROR_MS = 300;

/** The given class, else the global one, else that of the package `ws`, which only Node finds. */
export async function findWebSocket(given: WebSocketClass | undefined): Promise<WebSocketClass | undefined> {
  const found = given ?? (globalThis as { WebSocket?: WebSocketClass }).WebSocket;
  if (found) return found;
  // In a variable, so that no bundler follows it.
  const name = "ws";
  try {
    const module = await import(/* @vite-ignore */ /* webpackIgnore: true */ name);
    return module.WebSocket ?? module.default;
  } catch {
    return undefined;
  }
}

export class Socket implements Carrier {
  readonly name = "websocket";
  readonly takesCommands = true;
  #socket: WebSocketLike | undefined;
  #codec: Codec;
  #hooks: Hooks | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(WebSocket: WebSocketClass, url: string, token: string | undefined, codec: Codec, hooks: Hooks) {
    this.#codec = codec;
    this.#hooks = hooks;
    const protocols = [`campanile.v1.${codec.format}`, ...(token === undefined ? [] : [`bearer.${token}`])];
    try {
      this.#socket = new WebSocket(url, protocols);
    } catch (error) {
      // A token that is no token, or a page that may not have sockets. Whoever made this must have it first.
      queueMicrotask(() => this.#end({ reason: messageOf(error), impossible: true }));
      return;
    }
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onmessage = ({ data }) => this.#receive(data);
    this.#socket.onerror = (event) => {
      const reason = textOf(event?.message) ?? "the WebSocket failed";
      this.#timer ??= setTimeout(() => this.#end({ reason }), CLOSE_AFTER_ERROR_MS);
    };
    this.#socket.onclose = ({ code, reason }) => {
      const retryInMs = delayInReason(code, String(reason));
      this.#end({ code, reason: String(reason) || `closed with ${code}`, retryInMs });
    };
  }

  send(command: object): void {
    // 1: open. What is sent as it closes is answered by its end.
    if (this.#socket?.readyState === 1) this.#socket.send(this.#codec.encode(command));
  }

  renew(): void {}

  close(): void {
    this.#hooks = undefined;
    clearTimeout(this.#timer);
    const socket = this.#socket;
    if (!socket) return;
    // Not null: the package ws throws an error that nobody listens to.
    socket.onmessage = socket.onerror = socket.onclose = () => {};
    try {
      socket.close(1000);
    } catch {
      // It is being closed already.
    }
  }

  #receive(data: unknown): void {
    const hooks = this.#hooks;
    if (!hooks) return;
    hooks.heard();
    let event: unknown;
    try {
      event = this.#codec.decode(data);
    } catch (cause) {
      return hooks.trouble(cause);
    }
    hooks.event(event as ServerEvent);
  }

  #end(end: End): void {
    const hooks = this.#hooks;
    this.close();
    hooks?.ended(end);
  }
}
