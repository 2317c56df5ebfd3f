// <campanile-bell>: a notification bell for a page. README.md beside this folder tells how it is used.

import { connect } from "../../js/src/index.js";
import type { Client, ConnectOptions, StateChange, Unlisten } from "../../js/src/types.js";
import css from "./bell.css";
import { Feed } from "./feed.js";
import { Memory } from "./memory.js";
import type { Notice } from "./notice.js";
import { View } from "./view.js";

/** Changes of so long a time are drawn at once. */
const DRAW_MS = 30;

/** What the page around is told: `event.detail` of `campanile-state`. */
export interface BellState {
  state: StateChange["state"];
  /** For people. */
  text: string;
}

/** Where pages are made on a server there are no elements; the module can be imported there all the same. */
const Element: typeof HTMLElement = globalThis.HTMLElement ?? (class {} as typeof HTMLElement);

export class CampanileBell extends Element {
  static observedAttributes = ["url", "channel", "user", "label"];

  /** What `connect` of the client takes: `token` above all. Set it before the bell is in the page, or call `restart`. */
  options: ConnectOptions = {};
  /** A client that the page has anyway. The bell never closes it. */
  client: Client | null = null;
  /** Several channels, in place of the attribute. */
  channels: string[] | null = null;

  #view: View;
  #feed: Feed | null = null;
  #memory: Memory | null = null;
  #own: Client | null = null;
  #unlisten: Unlisten[] = [];
  #change: StateChange = { state: "connecting" };
  #troubles = new Map<string, string>();
  #starting = false;
  #drawing: ReturnType<typeof setTimeout> | undefined;
  #ticking: ReturnType<typeof setInterval> | undefined;
  #retryAt = 0;
  #toldUnread = -1;
  #toldState = "";

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    // Unlike a style element, this needs no leave of the page's Content-Security-Policy.
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(css);
    root.adoptedStyleSheets = [sheet];
    this.#view = new View(root, {
      read: (notice) => this.#feed?.read(notice),
      readAll: () => this.markAllRead(),
      opened: (isOpen) => {
        this.#draw();
        this.dispatchEvent(new CustomEvent(isOpen ? "campanile-open" : "campanile-close"));
      },
    });
    this.#view.label = "Notifications";
  }

  get unread(): number {
    return this.#feed?.unread ?? 0;
  }

  /** The newest first. */
  get notices(): readonly Notice[] {
    return this.#feed?.notices ?? [];
  }

  open(): void {
    this.#view.open();
  }

  close(): void {
    this.#view.close();
  }

  markAllRead(): void {
    this.#feed?.readAll();
  }

  /** With what the properties say now. */
  restart(): void {
    if (!this.isConnected || this.#starting) {
      return;
    }
    this.#starting = true;
    // Attributes and properties are set one after the other.
    queueMicrotask(() => {
      this.#starting = false;
      this.#stop();
      if (this.isConnected) {
        this.#start();
      }
    });
  }

  connectedCallback(): void {
    this.restart();
  }

  disconnectedCallback(): void {
    this.#stop();
  }

  attributeChangedCallback(name: string, before: string | null, now: string | null): void {
    if (name === "label") {
      this.#view.label = now || "Notifications";
      this.#later();
    } else if (before !== now) {
      this.restart();
    }
  }

  #start(): void {
    const user = this.getAttribute("user") ?? this.options.user;
    const address = this.getAttribute("url") ?? "";
    const client = this.client ?? connect(address === "" ? undefined : address, { ...this.options, ...(user ? { user } : {}) });
    this.#own = this.client === null ? client : null;
    this.#change = { state: client.state };
    this.#unlisten.push(
      client.on("state", (change) => {
        this.#change = change;
        this.#retryAt = Date.now() + (change.retryInMs ?? 0);
        this.#later();
      }),
    );
    const channels = this.channels ?? [this.getAttribute("channel") ?? "news"];
    this.#memory = new Memory(() => this.#later());
    // An address by itself does not say who of the people at this browser it was.
    const place = `${address} ${user ?? ""}`;
    this.#feed = new Feed(client, this.#memory, place, [...new Set(channels)], {
      onNotice: (notice) => {
        this.#view.notify(notice);
        this.dispatchEvent(new CustomEvent("campanile-notice", { detail: notice }));
      },
      onChange: () => this.#later(),
      onTrouble: (channel, text) => {
        text === "" ? this.#troubles.delete(channel) : this.#troubles.set(channel, text);
        this.#later();
      },
    });
    this.#ticking = setInterval(() => {
      if (this.#change.state === "waiting") {
        this.#draw();
      }
    }, 1000);
    this.#later();
  }

  #stop(): void {
    clearTimeout(this.#drawing);
    clearInterval(this.#ticking);
    this.#drawing = undefined;
    this.#unlisten.splice(0).forEach((unlisten) => unlisten());
    this.#view.stop();
    this.#feed?.close();
    this.#memory?.close();
    this.#own?.close();
    this.#feed = null;
    this.#memory = null;
    this.#own = null;
    this.#troubles.clear();
  }

  #later(): void {
    this.#drawing ??= setTimeout(() => this.#draw(), DRAW_MS);
  }

  #draw(): void {
    clearTimeout(this.#drawing);
    this.#drawing = undefined;
    const feed = this.#feed;
    if (feed === null) {
      return;
    }
    const { unread } = feed;
    const { state } = this.#change;
    const trouble = [...this.#troubles.values()][0];
    const isRefused = state === "closed" || trouble !== undefined;
    const text = state !== "closed" && trouble !== undefined ? trouble : this.#stateText(feed.isLive);
    this.#view.render({
      notices: feed.notices,
      unread,
      isUnread: (notice) => feed.isUnread(notice),
      hasSeveralChannels: feed.inboxes.length > 1,
      lamp: isRefused ? "refused" : feed.isLive ? "live" : "waiting",
      state: text,
    });
    this.#view.dropReadToasts((notice) => feed.isUnread(notice));
    this.#tell(unread, text);
  }

  #tell(unread: number, text: string): void {
    if (unread !== this.#toldUnread) {
      this.#toldUnread = unread;
      this.dispatchEvent(new CustomEvent("campanile-unread", { detail: unread }));
    }
    if (text !== this.#toldState) {
      this.#toldState = text;
      const detail: BellState = { state: this.#change.state, text };
      this.dispatchEvent(new CustomEvent("campanile-state", { detail }));
    }
  }

  #stateText(isLive: boolean): string {
    const { state, transport, error } = this.#change;
    const why = error === undefined ? "" : ` (${error.message})`;
    switch (state) {
      case "connecting":
        return "Connecting";
      case "connected":
        if (!isLive) {
          return "Subscribing";
        }
        return transport === "websocket" || transport === undefined ? "Live" : `Live, by ${transport === "sse" ? "event stream" : "polling"}`;
      case "waiting": {
        const seconds = Math.ceil((this.#retryAt - Date.now()) / 1000);
        return `${seconds > 1 ? `Connecting again in ${seconds} s` : "Connecting again"}${why}`;
      }
      case "offline":
        return "Offline: this device has no network";
      case "closed":
        return `Not connected${why}`;
    }
  }
}

/** Once for a page, however often it is asked for. */
export function defineBell(): void {
  if (globalThis.customElements?.get("campanile-bell") === undefined) {
    globalThis.customElements?.define("campanile-bell", CampanileBell);
  }
}
