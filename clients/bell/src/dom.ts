// How elements of the bell are made.

import type { Notice } from "./notice.js";

const SVG = "http://www.w3.org/2000/svg";

/** Drawn, not typed: a letter for a bell is a box where its font is missing. */
const PATHS = {
  bell: "M12 3a1.4 1.4 0 0 1 1.4 1.4v.5A6.3 6.3 0 0 1 18.3 11v4.1l1.6 2.3a.7.7 0 0 1-.6 1.1H4.7a.7.7 0 0 1-.6-1.1l1.6-2.3V11a6.3 6.3 0 0 1 4.9-6.1v-.5A1.4 1.4 0 0 1 12 3Zm-2.3 17h4.6a2.3 2.3 0 0 1-4.6 0Z",
  close: "M6 6l12 12M18 6 6 18",
  check: "M4 12.5l5 5L20 6.5",
};

export function icon(name: keyof typeof PATHS): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", name);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

export function element<K extends keyof HTMLElementTagNameMap>(tag: K, className: string): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  made.className = className;
  if (made instanceof HTMLButtonElement) {
    made.type = "button";
  }
  return made;
}

/** What somebody has written, in whatever direction its own letters go. */
export function written(className: string, text: string): HTMLElement {
  const made = element("span", className);
  made.dir = "auto";
  made.textContent = text;
  return made;
}

export function aboutOf(notice: Notice, showsChannel: boolean): string {
  const time = timeOf(notice.time);
  // Marks keep the direction of one name from what stands beside it.
  return showsChannel ? `\u2068${notice.channel}\u2069, ${time}` : time;
}

/** Today by the clock, else by the day. */
function timeOf(time: number): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) {
    return "";
  }
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday
    ? date.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" })
    : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}
