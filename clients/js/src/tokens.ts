import { textOf } from "./codec.js";
import { CampanileError, messageOf } from "./errors.js";
import type { TokenProvider, TokenReason } from "./types.js";

/** A token that ends sooner than that is not worth connecting with. */
const MARGIN_MS = 10_000;

/** The token that is used, and where the next one comes from. */
export class Tokens {
  #source: string | TokenProvider | undefined;
  #timeoutMs: number;
  #current: string | undefined;
  /** Why the next one is asked for, if the current one is of no use any more. */
  #reason: TokenReason | undefined = "connect";

  constructor(source: string | TokenProvider | undefined, timeoutMs: number) {
    this.#source = source;
    this.#timeoutMs = timeoutMs;
  }

  get canRenew(): boolean {
    return typeof this.#source === "function";
  }

  /** Whose token it is, as far as it can be read. */
  get user(): string {
    return textOf(claims(this.#current).sub) ?? "";
  }

  /** The current one is not taken any more. */
  spoil(reason: TokenReason): void {
    this.#reason = reason;
  }

  replace(token: string): void {
    this.#current = token;
    this.#reason = undefined;
    if (!this.canRenew) this.#source = token;
  }

  /** The current token, or a new one. */
  async get(): Promise<string | undefined> {
    const source = this.#source;
    if (typeof source !== "function") return (this.#current = source);
    const expires = claims(this.#current).exp;
    if (typeof expires === "number" && expires * 1000 < Date.now() + MARGIN_MS) this.#reason ??= "expired";
    if (this.#reason === undefined) return this.#current;
    this.#current = (await this.#ask(source, this.#reason)) ?? undefined;
    this.#reason = undefined;
    return this.#current;
  }

  async #ask(source: TokenProvider, reason: TokenReason): Promise<string | null> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no token within ${this.#timeoutMs} ms`)), this.#timeoutMs);
    });
    try {
      return await Promise.race([(async () => source(reason))(), late]);
    } catch (cause) {
      throw new CampanileError("token_failed", `The token provider failed: ${messageOf(cause)}`, { cause });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** What a JSON Web Token says; whether it is true is for the server to find out. */
function claims(token = ""): { exp?: unknown; sub?: unknown } {
  try {
    return Object(JSON.parse(atob(token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/"))));
  } catch {
    return {};
  }
}
