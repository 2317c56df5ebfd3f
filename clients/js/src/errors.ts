/**
 * `code` is one of the protocol's error codes (docs/protocol.md, section 10), or one of the client's own:
 * - `disconnected`: the connection ended before the answer came; the command may have been carried out or not.
 * - `timeout`: no connection or no answer in time.
 * - `no_commands`: event streams and polling carry no commands.
 * - `closed`: `close()` was called, or the client has given up.
 * - `refused`: the server did not take the connection, or ended it; `status` is the HTTP status or the close code.
 * - `unreachable`: the server could not be reached.
 * - `token_failed`: the token provider threw or did not answer in time.
 * - `storage_failed`: positions cannot be kept.
 * - `bad_event`: what came is no event of the protocol.
 * - `bad_request`: an argument that the protocol does not allow.
 */
export class CampanileError extends Error {
  declare readonly code: string;
  declare readonly channel?: string;
  /** Which command failed. */
  declare readonly command?: string;
  /** An HTTP status, or a close code. */
  declare readonly status?: number;

  constructor(code: string, message: string, more: { channel?: string; command?: string; status?: number; cause?: unknown } = {}) {
    super(message);
    Object.assign(this, known({ name: "CampanileError", code, ...more }));
  }
}

export function badRequest(message: string, channel?: string): CampanileError {
  return new CampanileError("bad_request", message, { channel });
}

/** Without the fields that are undefined: what is not known is not there. */
export function known<T extends object>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as T;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
