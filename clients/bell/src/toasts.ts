// Notifications that show themselves for some seconds, three at most and on a phone one: what comes beyond that is told as a number. They do not go while
// somebody points at them, has the focus in them, or is in another tab.

import { aboutOf, element, icon, written } from "./dom.js";
import type { Notice } from "./notice.js";

const TOASTS_MAX = 3;
/** As in bell.css: there they stand below the bell, and cover what is behind them. */
const PHONE = "(max-width: 30rem)";
const TOAST_MS = 7000;
const LOOK_MS = 500;

interface Toast {
  notice: Notice;
  element: HTMLElement;
  leftMs: number;
}

export class Toasts {
  readonly element = element("div", "toasts");
  #chosen: (notice: Notice | null) => void;
  #leave: () => void;
  #toasts: Toast[] = [];
  #more = 0;
  #moreElement = element("div", "toast");
  #moreText = written("title", "");
  #clock: ReturnType<typeof setInterval> | undefined;

  /**
   * `chosen` is called with the notice that was pressed; null: with what is behind the number. `leave` puts the focus elsewhere, when the last toast
   * was dismissed.
   */
  constructor(chosen: (notice: Notice | null) => void, leave: () => void) {
    this.#chosen = chosen;
    this.#leave = leave;
    this.element.setAttribute("part", "toasts");
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", "New notifications");
    this.element.hidden = true;
    const show = element("button", "show");
    show.append(this.#moreText);
    show.addEventListener("click", () => this.#chosen(null));
    this.#moreElement.append(
      show,
      dismissal("Dismiss all", () => {
        this.clear();
        this.#leave();
      }),
    );
  }

  /** `bellBottom` is where the bell ends, in pixels from the top of the window. */
  show(notice: Notice, showsChannel: boolean, bellBottom: number): void {
    const isAbove = bellBottom > 0 && bellBottom < innerHeight / 2;
    this.element.style.setProperty("--bell-bottom", `${isAbove ? bellBottom : 0}px`);
    if (this.#toasts.length >= (matchMedia(PHONE).matches ? 1 : TOASTS_MAX)) {
      this.#more += 1;
    } else {
      const toast = { notice, element: this.#made(notice, showsChannel), leftMs: TOAST_MS };
      this.#toasts.push(toast);
      this.element.append(toast.element);
    }
    this.#arrange();
    this.#clock ??= setInterval(() => this.#tick(), LOOK_MS);
  }

  keep(isKept: (notice: Notice) => boolean): void {
    this.#remove(this.#toasts.filter((toast) => !isKept(toast.notice)));
  }

  clear(): void {
    this.#remove([...this.#toasts]);
  }

  #made(notice: Notice, showsChannel: boolean): HTMLElement {
    const toast = element("div", "toast");
    const show = element("button", "show");
    const about = element("span", "about");
    about.textContent = aboutOf(notice, showsChannel);
    show.append(written("title", notice.title), ...(notice.body === "" ? [] : [written("body", notice.body)]), about);
    show.addEventListener("click", () => this.#chosen(notice));
    const dismiss = dismissal("Dismiss", () => {
      this.#remove(this.#toasts.filter((other) => other.element === toast));
      const next = this.#toasts[0]?.element.querySelector<HTMLElement>(".dismiss");
      next ? next.focus() : this.#leave();
    });
    toast.append(show, dismiss);
    return toast;
  }

  #tick(): void {
    if (document.hidden || this.element.matches(":hover, :focus-within")) {
      return;
    }
    this.#toasts.forEach((toast) => (toast.leftMs -= LOOK_MS));
    this.#remove(this.#toasts.filter((toast) => toast.leftMs <= 0));
  }

  #remove(toasts: Toast[]): void {
    toasts.forEach((toast) => toast.element.remove());
    this.#toasts = this.#toasts.filter((toast) => !toasts.includes(toast));
    if (this.#toasts.length === 0) {
      this.#more = 0;
      clearInterval(this.#clock);
      this.#clock = undefined;
    }
    this.#arrange();
  }

  #arrange(): void {
    this.element.hidden = this.#toasts.length === 0;
    if (this.#more > 0) {
      this.#moreText.textContent = `and ${this.#more} more`;
      this.element.append(this.#moreElement);
    } else {
      this.#moreElement.remove();
    }
  }
}

function dismissal(label: string, dismissed: () => void): HTMLButtonElement {
  const dismiss = element("button", "dismiss");
  dismiss.setAttribute("aria-label", label);
  dismiss.append(icon("close"));
  dismiss.addEventListener("click", dismissed);
  return dismiss;
}
