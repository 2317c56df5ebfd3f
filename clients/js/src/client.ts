import type { Carrier, Wanted } from "./carrier.js";
import { Channels, checkName } from "./channels.js";
import type { Link } from "./channels.js";
import { Codec, isNumber, mapsOf, numberOf, payloadOf } from "./codec.js";
import { Commands, failure } from "./commands.js";
import type { Command } from "./commands.js";
import { Connection, TIMING, TRANSPORTS } from "./connection.js";
import { Emitter } from "./emitter.js";
import { badRequest, known } from "./errors.js";
import type { CampanileError } from "./errors.js";
import { watchPage } from "./page.js";
import { Positions } from "./positions.js";
import { baseOf, Requests } from "./requests.js";
import { Tokens } from "./tokens.js";
import type {
  Client, ClientEvents, ConnectOptions, History, HistoryOptions, Message, Position, Presence, PresenceOptions, Published, PublishOptions, Read, ServerEvent,
  State, StateChange, SubscribeOptions, Subscription, TokenReason, TransportName, Unlisten, Unread,
} from "./types.js";

/** Of one `unread` command. */
const UNREAD_CHANNELS_MAX = 128;
/** A token that could not be replaced as it expires is asked for again so often, and then when the connection has ended. */
const REFRESHES_MAX = 3;
const REFRESH_AGAIN_MS = 5_000;

/** Connects, and stays connected until `close()`. In a page the address may be left out, or be a path. */
export function connect(address?: string, options: ConnectOptions = {}): Client {
  const client = new CampanileClient(address, options);
  client.connect();
  return client;
}

class CampanileClient implements Client {
  #state: State = "closed";
  #transport: TransportName | undefined;
  #clientId: string | undefined;
  #emitter = new Emitter<ClientEvents>();
  #codec: Codec;
  #tokens: Tokens;
  #requests: Requests;
  #positions: Positions;
  #commands: Commands;
  #channels: Channels;
  #connection: Connection;
  /** The connection that is there. */
  #carrier: Carrier | undefined;
  #unwatch: (() => void) | undefined;
  #refreshTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(address: string | undefined, options: ConnectOptions) {
    const timing = { ...TIMING, ...options.timing };
    const base = baseOf(address);
    const { format = "json", transports = TRANSPORTS } = options;
    checkOptions(transports, format);
    this.#codec = new Codec(format);
    this.#tokens = new Tokens(options.token, timing.tokenTimeout);
    this.#requests = new Requests(base, options);
    this.#commands = new Commands(timing.commandTimeout);
    const report = (error: CampanileError): void => this.#emitter.emit("error", error);
    this.#positions = new Positions(options.storage, options.storageKey ?? `campanile:${base}`, report);
    this.#channels = new Channels(this.#link(), this.#positions);
    this.#connection = new Connection({
      requests: this.#requests,
      codec: this.#codec,
      tokens: this.#tokens,
      timing,
      options,
      wish: () => this.#channels.wanted(),
      began: (carrier, clientId) => this.#began(carrier, clientId),
      ended: () => this.#ended(),
      event: (event, asked) => this.#event(event, asked),
      state: (change) => this.#changed(change),
      error: report,
    });
    if (options.onStale) this.on("stale", options.onStale);
  }

  get state(): State {
    return this.#state;
  }

  get transport(): TransportName | undefined {
    return this.#transport;
  }

  get clientId(): string | undefined {
    return this.#clientId;
  }

  on<K extends keyof ClientEvents>(event: K, listener: (value: ClientEvents[K]) => void): Unlisten {
    return this.#emitter.on(event, listener);
  }

  connect(): void {
    this.#unwatch ??= watchPage({
      online: () => this.#connection.check(true),
      offline: () => this.#connection.check(false),
      shown: (isThawed) => this.#connection.check(isThawed),
      hidden: () => this.#positions.flush(),
    });
    this.#connection.connect();
  }

  close(): void {
    this.#connection.close();
  }

  subscribe<T>(channel: string, options: SubscribeOptions = {}, listener?: (message: Message<T>) => void): Subscription<T> {
    const handle = this.#channels.subscribe(this, channel, options) as Subscription<T>;
    if (listener) handle.on("message", listener);
    return handle;
  }

  async publish(channel: string, data: unknown, { idempotencyKey }: PublishOptions = {}): Promise<Published> {
    checkName(channel);
    if (data === undefined) throw badRequest("data is undefined.", channel);
    if (data instanceof Uint8Array && this.#codec.format === "json") {
      throw badRequest('Bytes need format: "msgpack".', channel);
    }
    const answer = await this.#ask({ type: "publish", channel, data, idempotency_key: idempotencyKey }, idempotencyKey !== undefined);
    return known({ channel, seq: numberOf(answer.seq), repeated: answer.repeated === true });
  }

  async history<T>(channel: string, { limit, since, before }: HistoryOptions = {}): Promise<History<T>> {
    checkName(channel);
    const answer = await this.#ask({ type: "history", channel, limit, since: plain(since), before: plain(before) }, true);
    const epoch = numberOf(answer.epoch);
    return known({
      channel,
      epoch,
      recovered: flagOf(answer.recovered),
      messages: mapsOf(answer.messages).map(({ seq, timestamp, ...payload }) => ({ channel, seq, epoch, data: payloadOf(payload) as T, timestamp })),
      more: answer.more === true,
    });
  }

  async markRead(channel: string, position: Position | number): Promise<Read> {
    checkName(channel);
    const { epoch, seq } = typeof position === "number" ? { epoch: undefined, seq: position } : position;
    const answer = await this.#ask({ type: "mark_read", channel, epoch, seq }, true);
    // The connection that marks is not told otherwise, and its counts follow, too.
    this.#channels.receive({ ...answer, type: "read" }, undefined);
    return known({ channel, epoch: numberOf(answer.epoch), seq: Number(answer.seq) });
  }

  async unread(channels: string[]): Promise<Unread[]> {
    if (channels.length === 0 || channels.length > UNREAD_CHANNELS_MAX) {
      throw badRequest(`unread takes 1 to ${UNREAD_CHANNELS_MAX} channels.`);
    }
    channels.forEach(checkName);
    const answer = await this.#ask({ type: "unread", channels }, true);
    return mapsOf(answer.channels).filter(isUnread);
  }

  async presence(channel: string, { members, after, limit }: PresenceOptions = {}): Promise<Presence> {
    checkName(channel);
    const answer = await this.#ask({ type: "presence", channel, members, after, limit }, true);
    const names = Array.isArray(answer.members) ? answer.members.filter((name) => typeof name === "string") : undefined;
    return known({
      channel,
      subscribers: Number(answer.subscribers),
      members: names,
      more: flagOf(answer.more),
      partial: flagOf(answer.partial),
    });
  }

  async refresh(token?: string): Promise<void> {
    await this.#refresh("expiring", token);
  }

  #began(carrier: Carrier, clientId: string | undefined): void {
    this.#carrier = carrier;
    this.#clientId = clientId;
    this.#channels.began();
    if (carrier.takesCommands) this.#commands.send((command) => carrier.send(command));
    else this.#commands.fail("no_commands", NO_COMMANDS);
  }

  #ended(): void {
    this.#carrier = this.#clientId = undefined;
    clearTimeout(this.#refreshTimer);
    this.#commands.ended();
  }

  #changed(change: StateChange): void {
    this.#state = change.state;
    this.#transport = change.transport;
    if (change.state === "closed") {
      this.#unwatch?.();
      this.#unwatch = undefined;
      this.#positions.flush();
      this.#commands.fail("closed", change.error?.message ?? CLOSED);
    }
    this.#emitter.emit("state", change);
  }

  #event(event: ServerEvent, asked: Wanted | undefined): void {
    this.#emitter.emit("event", event);
    if (this.#commands.receive(event)) return;
    if (event.type === "expiring") this.#expiring(1);
    else this.#channels.receive(event, asked);
  }

  #expiring(tries: number): void {
    // A token that was given as a text is all there is.
    if (!this.#tokens.canRenew) return;
    this.#refresh("expiring", undefined).catch((error: CampanileError) => {
      this.#emitter.emit("error", error);
      if (tries < REFRESHES_MAX && this.#carrier) this.#refreshTimer = setTimeout(() => this.#expiring(tries + 1), REFRESH_AGAIN_MS);
    });
  }

  async #refresh(reason: TokenReason, given: string | undefined): Promise<void> {
    if (given === undefined) this.#tokens.spoil(reason);
    else this.#tokens.replace(given);
    const token = await this.#tokens.get();
    if (token === undefined) throw badRequest("There is no token to refresh with.");
    const carrier = this.#carrier;
    // The next connection begins with it anyway.
    if (!carrier) return;
    if (carrier.takesCommands) {
      await this.#ask({ type: "refresh", token }, false);
      this.#channels.retryRefused();
    } else {
      this.#requests.token = token;
      this.#channels.retryRefused();
      carrier.renew(true);
    }
  }

  #ask(command: Command, isRepeatable: boolean): Promise<ServerEvent> {
    const carrier = this.#carrier;
    if (this.#state === "closed") return Promise.reject(failure("closed", CLOSED, command));
    if (carrier && !carrier.takesCommands) return Promise.reject(failure("no_commands", NO_COMMANDS, command));
    return this.#commands.ask(command, isRepeatable, carrier && ((what) => carrier.send(what)));
  }

  #link(): Link {
    const client = this;
    return {
      get mode() {
        if (!client.#carrier) return "none";
        return client.#carrier.takesCommands ? "commands" : "requests";
      },
      send: (command) => {
        const id = client.#commands.nextId();
        client.#carrier?.send({ ...command, id });
        return id;
      },
      renew: (always) => client.#connection.renew(always),
      // Where it cannot be told, the count goes on from what was known.
      countUnread: (channel) => client.unread([channel]).then(([told]) => told, () => undefined),
      emit: (event, value) => client.#emitter.emit(event, value),
    };
  }
}

const CLOSED = "the client is closed; connect() opens it";
const NO_COMMANDS = "event streams and polling carry no commands";

function checkOptions(transports: string[], format: string): void {
  if (transports.length === 0 || !transports.every((name) => TRANSPORTS.includes(name as TransportName))) {
    throw badRequest(`transports are of ${TRANSPORTS}.`);
  }
  if (format !== "json" && format !== "msgpack") throw badRequest("format is json or msgpack.");
}

/** A message may be given where a position is wanted. */
function plain(position: Position | undefined): Position | undefined {
  return position && { epoch: position.epoch, seq: position.seq };
}

function flagOf(value: unknown): boolean | undefined {
  return typeof value === "boolean" ? value : undefined;
}

function isUnread(value: unknown): value is Unread {
  const { channel, last, read, unread } = Object(value) as Record<string, unknown>;
  return typeof channel === "string" && isNumber(last) && isNumber(read) && isNumber(unread);
}
