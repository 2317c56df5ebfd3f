// What is seen of the bell: a button, a list that it opens, and what a screen reader is told. Whatever somebody has written goes in as text.

import { aboutOf, element, icon, written } from "./dom.js";
import type { Notice } from "./notice.js";
import { Toasts } from "./toasts.js";

/** Beyond it the badge says "99+". */
const BADGE_MAX = 99;
/** New notifications of so long a time are spoken of at once. */
const SPEAK_MS = 1000;

export interface Shown {
  notices: Notice[];
  unread: number;
  isUnread(notice: Notice): boolean;
  /** Whether it is to be said of each notice of which channel it is. */
  hasSeveralChannels: boolean;
  lamp: "live" | "waiting" | "refused";
  state: string;
}

export interface Actions {
  read(notice: Notice): void;
  readAll(): void;
  opened(isOpen: boolean): void;
}

interface Row {
  item: HTMLLIElement;
  entry: HTMLElement | null;
  about: HTMLElement | null;
  unread: HTMLElement | null;
}

export class View {
  #root: ShadowRoot;
  #actions: Actions;
  #opener = element("button", "opener");
  #badge = element("span", "badge");
  #lamps = [element("span", "lamp"), element("span", "lamp")];
  #panel = element("div", "panel");
  #heading = element("h2", "");
  #markAll = element("button", "mark-all");
  #list = element("ul", "");
  #nothing = element("p", "nothing");
  #state = element("span", "");
  #spoken = element("div", "spoken");
  #toasts: Toasts;
  #rows = new Map<string, Row>();
  #fresh: Notice[] = [];
  #speaking: ReturnType<typeof setTimeout> | undefined;
  #shown: Shown | null = null;
  #label = "Notifications";
  #outside = (event: Event): void => {
    if (!event.composedPath().includes(this.#root.host)) {
      this.close(false);
    }
  };

  constructor(root: ShadowRoot, actions: Actions) {
    this.#root = root;
    this.#actions = actions;
    const chosen = (notice: Notice | null): void => {
      this.open();
      if (notice !== null) {
        this.#rows.get(rowKey(notice))?.entry?.focus();
      }
    };
    this.#toasts = new Toasts(chosen, () => this.#opener.focus());
    this.#build();
  }

  get isOpen(): boolean {
    return !this.#panel.hidden;
  }

  set label(label: string) {
    this.#label = label;
    this.#heading.textContent = label;
  }

  render(shown: Shown): void {
    this.#shown = shown;
    const { unread } = shown;
    this.#badge.hidden = unread === 0;
    this.#badge.textContent = unread > BADGE_MAX ? `${BADGE_MAX}+` : String(unread);
    const count = unread === 0 ? "none unread" : `${unread} unread`;
    this.#opener.setAttribute("aria-label", `${this.#label}, ${count}${shown.lamp === "live" ? "" : ", not connected"}`);
    this.#lamps.forEach((lamp) => (lamp.className = `lamp ${shown.lamp}`));
    this.#state.textContent = shown.state;
    // Not `disabled`: whoever has just pressed it keeps the focus.
    this.#markAll.setAttribute("aria-disabled", String(unread === 0));
    if (this.isOpen) {
      this.#renderList(shown);
    }
  }

  /** Somebody is to notice it. */
  notify(notice: Notice): void {
    this.#fresh.push(notice);
    this.#speaking ??= setTimeout(() => this.#speak(), SPEAK_MS);
    this.#opener.classList.add("rings");
    if (!this.isOpen) {
      this.#toasts.show(notice, this.#shown?.hasSeveralChannels ?? false, this.#opener.getBoundingClientRect().bottom);
    }
  }

  /** Toasts of what has been read somewhere else go by themselves. */
  dropReadToasts(isUnread: (notice: Notice) => boolean): void {
    this.#toasts.keep(isUnread);
  }

  open(): void {
    if (this.isOpen) {
      return;
    }
    const { left, right } = this.#opener.getBoundingClientRect();
    // Where there is more room.
    this.#panel.classList.toggle("from-start", (left + right) / 2 < document.documentElement.clientWidth / 2);
    this.#panel.hidden = false;
    this.#opener.setAttribute("aria-expanded", "true");
    this.#toasts.clear();
    if (this.#shown !== null) {
      this.#renderList(this.#shown);
    }
    this.#list.scrollTop = 0;
    this.#panel.focus();
    document.addEventListener("pointerdown", this.#outside);
    this.#actions.opened(true);
  }

  close(returnsFocus = true): void {
    if (!this.isOpen) {
      return;
    }
    this.#panel.hidden = true;
    this.#opener.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", this.#outside);
    if (returnsFocus) {
      this.#opener.focus();
    }
    this.#actions.opened(false);
  }

  /** Nothing of it waits for anything any more. */
  stop(): void {
    clearTimeout(this.#speaking);
    this.#speaking = undefined;
    this.#fresh = [];
    this.#toasts.clear();
    document.removeEventListener("pointerdown", this.#outside);
  }

  #build(): void {
    const opener = this.#opener;
    opener.setAttribute("part", "button");
    opener.setAttribute("aria-haspopup", "dialog");
    opener.setAttribute("aria-expanded", "false");
    opener.setAttribute("aria-controls", "panel");
    this.#badge.setAttribute("part", "badge");
    this.#badge.setAttribute("aria-hidden", "true");
    this.#badge.hidden = true;
    opener.append(icon("bell"), this.#badge, this.#lamps[0]!);
    opener.addEventListener("click", () => (this.isOpen ? this.close() : this.open()));
    opener.addEventListener("animationend", () => opener.classList.remove("rings"));

    const panel = this.#panel;
    panel.id = "panel";
    panel.setAttribute("part", "panel");
    panel.setAttribute("role", "dialog");
    panel.setAttribute("aria-labelledby", "heading");
    panel.tabIndex = -1;
    panel.hidden = true;
    this.#heading.id = "heading";
    this.#markAll.append(icon("check"), "Mark all as read");
    this.#markAll.addEventListener("click", () => {
      if (this.#markAll.getAttribute("aria-disabled") !== "true") {
        this.#actions.readAll();
      }
    });
    const shut = element("button", "shut");
    shut.setAttribute("aria-label", "Close");
    shut.append(icon("close"));
    shut.addEventListener("click", () => this.close());
    const head = element("div", "head");
    head.append(this.#heading, this.#markAll, shut);

    // A list without markers is a list to Safari only if it says so.
    this.#list.setAttribute("role", "list");
    this.#nothing.textContent = "Nothing yet. What is published from now on comes here.";
    const state = element("p", "state");
    state.append(this.#lamps[1]!, this.#state);
    panel.append(head, this.#list, this.#nothing, state);
    panel.addEventListener("keydown", (event) => this.#pressed(event));

    this.#spoken.setAttribute("role", "status");
    this.#spoken.setAttribute("aria-live", "polite");
    this.#root.append(opener, panel, this.#toasts.element, this.#spoken);
  }

  #pressed(event: KeyboardEvent): void {
    if (event.key === "Escape") {
      event.stopPropagation();
      this.close();
      return;
    }
    const entries = [...this.#list.querySelectorAll<HTMLElement>(".entry")];
    const at = entries.indexOf(this.#root.activeElement as HTMLElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: entries.length - 1 }[event.key];
    if (to !== undefined && entries.length > 0) {
      event.preventDefault();
      entries[Math.max(0, Math.min(to, entries.length - 1))]!.focus();
    }
  }

  #renderList(shown: Shown): void {
    this.#nothing.hidden = shown.notices.length > 0;
    this.#list.hidden = shown.notices.length === 0;
    const wanted = new Set(shown.notices.map(rowKey));
    const focused = this.#root.activeElement;
    let losesFocus = false;
    for (const [key, row] of this.#rows) {
      if (!wanted.has(key)) {
        losesFocus ||= row.entry !== null && row.entry === focused;
        row.item.remove();
        this.#rows.delete(key);
      }
    }
    let before = this.#list.firstElementChild;
    for (const notice of shown.notices) {
      const key = rowKey(notice);
      let row = this.#rows.get(key);
      if (row === undefined) {
        row = this.#row(notice, shown.hasSeveralChannels);
        this.#rows.set(key, row);
      }
      if (row.item === before) {
        before = before.nextElementSibling;
      } else {
        this.#list.insertBefore(row.item, before);
      }
      const isUnread = shown.isUnread(notice);
      row.item.classList.toggle("unread", isUnread);
      if (row.unread !== null) {
        row.unread.textContent = isUnread ? "Unread. " : "";
      }
      if (row.about !== null) {
        row.about.textContent = aboutOf(notice, shown.hasSeveralChannels);
      }
    }
    if (losesFocus) {
      this.#panel.focus();
    }
  }

  #row(notice: Notice, showsChannel: boolean): Row {
    const item = element("li", notice.kind === "gap" ? "gap" : "");
    if (notice.kind === "gap") {
      item.textContent = showsChannel ? `${notice.title} (${notice.channel})` : notice.title;
      return { item, entry: null, about: null, unread: null };
    }
    const entry = notice.link === "" ? element("button", "entry") : element("a", "entry");
    if (entry instanceof HTMLAnchorElement) {
      entry.href = notice.link;
      entry.target = "_blank";
      entry.rel = "noopener noreferrer";
    }
    const unread = element("span", "spoken");
    const text = element("span", "text");
    const title = written("title", notice.title);
    const about = element("span", "about");
    text.append(unread, title, ...(notice.body === "" ? [] : [written("body", notice.body)]), about);
    entry.append(element("span", "dot"), text);
    entry.addEventListener("click", () => this.#actions.read(notice));
    item.append(entry);
    return { item, entry, about, unread };
  }

  #speak(): void {
    this.#speaking = undefined;
    const fresh = this.#fresh;
    this.#fresh = [];
    this.#opener.classList.remove("rings");
    const unread = this.#shown?.unread ?? 0;
    const [first] = fresh;
    if (first !== undefined) {
      const news = fresh.length === 1 ? `New notification: ${first.title}` : `${fresh.length} new notifications`;
      this.#spoken.textContent = `${news}. ${unread} unread.`;
    }
  }
}

function rowKey(notice: Notice): string {
  return `${notice.key} ${notice.channel}`;
}
