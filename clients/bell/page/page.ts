// The page at /demo of the control port.

import { type BellState, CampanileBell, defineBell } from "../src/bell.js";
import { addressOf, channelOf, commandsOf, hintsOf, type Server } from "./server.js";

/** Where a token is kept: as long as the tab is there, and in no URL. */
const TOKEN_KEY = "campanile-demo-token";
/** Someone who connects within this time needs no advice. */
const PATIENCE_MS = 4000;

function find<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

defineBell();
const server = JSON.parse(find("server").textContent ?? "null") as Server;
const query = new URLSearchParams(location.search);
const channel = channelOf(query);
const address = addressOf(server, location);
const bell = document.querySelector("campanile-bell") as CampanileBell;
const user = query.get("user") ?? "";
const token = rememberedToken();

showChannel();
showCommands();
showIdentity();
prepareRing();
prepareChannelForm();
listen();
begin();

/** `#token=…` brings one, too; it does not stay in the address. */
function rememberedToken(): string {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  try {
    if (given !== null) {
      sessionStorage.setItem(TOKEN_KEY, given);
      history.replaceState(null, "", location.pathname + location.search);
    }
    return sessionStorage.getItem(TOKEN_KEY) ?? "";
  } catch {
    return given ?? "";
  }
}

function begin(): void {
  if (channel === null || address === null) {
    bell.remove();
  }
  if (channel === null) {
    showHints(["The channel in the address of this page cannot be: 1 to 255 bytes without control characters. Choose another one below."]);
    return;
  }
  if (address === null) {
    showHints(hintsOf(server, null, location, token));
    return;
  }
  find("address").textContent = address;
  find("where").hidden = false;
  bell.channels = [channel];
  bell.setAttribute("url", address);
  if (server.auth === "query" && user !== "") {
    bell.setAttribute("user", user);
  }
  if (server.auth === "jwt" && token !== "") {
    bell.options = { token };
  }
  // The bell begins by itself when this script has ended, unless it is not there any more.
  if (server.auth !== "none" && (server.auth === "query" ? user : token) === "") {
    find("state").textContent = server.auth === "query" ? "Waiting for a name" : "Waiting for a token";
    bell.remove();
  }
}

function listen(): void {
  const state = find("state");
  let advice: ReturnType<typeof setTimeout> | undefined;
  bell.addEventListener("campanile-state", (event) => {
    const { detail } = event as CustomEvent<BellState>;
    const isLive = detail.state === "connected" && detail.text.startsWith("Live");
    state.textContent = detail.text;
    find("lamp").className = `lamp ${isLive ? "live" : ""}`;
    if (isLive) {
      clearTimeout(advice);
      advice = undefined;
      find("trouble").hidden = true;
    } else if (detail.state === "closed") {
      showHints(hintsOf(server, address, location, token));
    } else {
      advice ??= setTimeout(() => showHints(hintsOf(server, address, location, token)), PATIENCE_MS);
    }
  });
  bell.addEventListener("campanile-unread", (event) => {
    const { detail: unread } = event as CustomEvent<number>;
    document.title = unread === 0 ? "Campanile" : `(${unread > 99 ? "99+" : unread}) Campanile`;
  });
}

function showChannel(): void {
  find("channel").textContent = channel ?? "none";
  const twin = new URL(location.href);
  twin.hash = "";
  const link = find<HTMLAnchorElement>("twin");
  link.href = twin.href;
  // So that the new tab has the token of this one.
  link.rel = "opener";
}

function showCommands(): void {
  const commands = channel === null ? [] : commandsOf(server, channel);
  for (const { about, text } of commands) {
    const line = document.createElement("div");
    line.className = "command";
    const label = document.createElement("p");
    label.textContent = `With ${about}:`;
    const row = document.createElement("div");
    row.className = "row";
    const pre = document.createElement("pre");
    const code = document.createElement("code");
    code.textContent = text;
    pre.append(code);
    row.append(pre, copyButton(text, about));
    line.append(label, row);
    find("commands").append(line);
  }
}

function copyButton(text: string, about: string): HTMLElement {
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "copy";
  copy.textContent = "Copy";
  copy.setAttribute("aria-label", `Copy the command for ${about}`);
  // There is no clipboard for a page that came by http from another host.
  copy.hidden = navigator.clipboard === undefined;
  copy.addEventListener("click", () => {
    const tell = (told: string): void => {
      copy.textContent = told;
      setTimeout(() => (copy.textContent = "Copy"), 1500);
    };
    navigator.clipboard.writeText(text).then(() => tell("Copied"), () => tell("Not allowed"));
  });
  return copy;
}

function showIdentity(): void {
  if (server.auth === "none") {
    return;
  }
  const isQuery = server.auth === "query";
  const form = find<HTMLFormElement>("identity-form");
  const input = find<HTMLInputElement>("identity-value");
  find("identity").hidden = false;
  find("identity-heading").textContent = isQuery ? "Who you are" : "This server asks for a token";
  find("identity-text").textContent = isQuery
    ? "This server believes names. It keeps for each of them what is read of durable channels, in every tab and on every device."
    : "Make one on the host of the server, with its settings, and paste it here. It stays in this tab.";
  form.querySelector("label")!.textContent = isQuery ? "Name" : "Token";
  if (isQuery) {
    input.value = user;
    input.maxLength = 250;
  } else {
    find("identity-command").hidden = false;
    find("identity-command").firstElementChild!.textContent = "campanile token --sub ann";
    input.type = "password";
    input.value = token;
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = input.value.trim();
    if (isQuery) {
      query.set("user", given);
      location.search = query.toString();
      return;
    }
    try {
      sessionStorage.setItem(TOKEN_KEY, given);
      location.reload();
    } catch {
      location.hash = `token=${encodeURIComponent(given)}`;
      location.reload();
    }
  });
}

function prepareRing(): void {
  const isPossible = channel !== null && !server.control_token;
  find("ring").hidden = !isPossible;
  find("ring-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const data = { title: find<HTMLInputElement>("ring-title").value, body: find<HTMLInputElement>("ring-body").value };
    void ring({ channel, data }).then((told) => (find("ring-answer").textContent = told));
  });
}

async function ring(message: unknown): Promise<string> {
  try {
    const answer = await fetch("/publish", { method: "POST", body: JSON.stringify(message), headers: { "content-type": "application/json" } });
    const told = (await answer.json()) as { seq?: number; error?: string };
    return answer.ok ? `Published${told.seq === undefined ? "" : ` as number ${told.seq}`}` : `Not published: ${told.error ?? answer.status}`;
  } catch {
    return "Not published: the server does not answer";
  }
}

function prepareChannelForm(): void {
  const input = find<HTMLInputElement>("channel-value");
  input.value = channel ?? "news";
  find("channel-form").addEventListener("submit", (event) => {
    event.preventDefault();
    query.set("channel", input.value);
    location.search = query.toString();
  });
}

function showHints(hints: string[]): void {
  const lines = hints.map((hint) => {
    const line = document.createElement("li");
    line.textContent = hint;
    return line;
  });
  find("hints").replaceChildren(...lines);
  find("trouble").hidden = false;
}
