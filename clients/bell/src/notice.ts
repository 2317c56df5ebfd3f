// What of a message is shown. A message is whatever its publisher likes: nothing of it is taken for more than text, and links lead to web pages only.

import type { Message } from "../../js/src/types.js";

/** One line of the list. */
export interface Notice {
  /** The same for the same message in every tab. */
  key: string;
  /** `gap`: not a message, but the place where some may be missing. It is never unread. */
  kind: "message" | "gap";
  channel: string;
  /** What `seq` is counted in; 0 where the message has no number. */
  epoch: number;
  seq: number | null;
  /** When the server received it, Unix milliseconds. */
  time: number;
  title: string;
  body: string;
  /** `https:` or `http:`, or empty. */
  link: string;
}


const TITLE_LETTERS_MAX = 200;
const BODY_LETTERS_MAX = 1000;
const LINK_LETTERS_MAX = 2000;

const TITLES = ["title", "subject", "headline"];
const BODIES = ["body", "text", "message", "description"];
const LINKS = ["url", "link", "href"];

export function noticeOf(message: Message): Notice {
  const { channel, timestamp: time } = message;
  const [title, body, link] = textsOf(message.data);
  if (message.seq === undefined || message.epoch === undefined) {
    return { key: `${time} ${title} ${body}`, kind: "message", channel, epoch: 0, seq: null, time, title, body, link };
  }
  const { epoch, seq } = message;
  return { key: `${epoch}:${seq}`, kind: "message", channel, epoch, seq, time, title, body, link };
}

/** `place`: two gaps at one place are one. */
export function gapNotice(channel: string, place: string, time: number, title: string): Notice {
  return { key: `gap ${place}`, kind: "gap", channel, epoch: 0, seq: null, time, title, body: "", link: "" };
}

function textsOf(data: unknown): [title: string, body: string, link: string] {
  if (data instanceof Uint8Array) {
    return [`${data.byteLength} bytes`, "", ""];
  }
  if (typeof data !== "object" || data === null) {
    return [shortened(plain(String(data)), TITLE_LETTERS_MAX) || "(empty)", "", ""];
  }
  const fields = data as Record<string, unknown>;
  const title = shortened(plain(firstText(fields, TITLES)), TITLE_LETTERS_MAX);
  const body = shortened(plain(firstText(fields, BODIES)), BODY_LETTERS_MAX);
  if (title === "" && body === "") {
    return [shortened(plain(jsonOf(data)), TITLE_LETTERS_MAX), "", linkOf(fields)];
  }
  return title === "" ? [shortened(body, TITLE_LETTERS_MAX), "", linkOf(fields)] : [title, body, linkOf(fields)];
}

function firstText(fields: Record<string, unknown>, names: string[]): string {
  for (const name of names) {
    const value = Object.hasOwn(fields, name) ? fields[name] : undefined;
    if ((typeof value === "string" && value !== "") || typeof value === "number") {
      return String(value);
    }
  }
  return "";
}

function linkOf(fields: Record<string, unknown>): string {
  const text = firstText(fields, LINKS);
  if (text === "" || text.length > LINK_LETTERS_MAX) {
    return "";
  }
  try {
    const url = new URL(text, globalThis.document?.baseURI);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : "";
  } catch {
    return "";
  }
}

/** MessagePack has numbers that JSON has not. */
function jsonOf(data: object): string {
  try {
    return JSON.stringify(data, (_, value: unknown) => (typeof value === "bigint" ? value.toString() : value)) ?? "";
  } catch {
    return "(data)";
  }
}

/** Without control characters, which look like nothing or, in some fonts, like anything. Line breaks stay. */
function plain(text: string): string {
  return text.replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/gu, " ").trim();
}

/** Never half a letter. */
function shortened(text: string, letters: number): string {
  if (text.length <= letters) {
    return text;
  }
  return `${Array.from(text.slice(0, 2 * letters)).slice(0, letters - 1).join("")}…`;
}
