// What a program that is typed may write, and what it may not; only compiled.

import { CampanileError, connect } from "@campanile/client";
import type { Client, ConnectOptions, Message, Position, Stale, Subscription } from "@campanile/client";

interface News {
  title: string;
}

const options: ConnectOptions = {
  token: async (reason) => (reason === "connect" ? "a.b.c" : null),
  storage: { getItem: () => null, setItem: () => {} },
  onStale: ({ channel, reason }: Stale) => void [channel, reason === "gap"],
  timing: { backoffMax: 5_000 },
};
const client: Client = connect("https://host", options);
const news: Subscription<News> = client.subscribe<News>("news", { latest: true }, (message: Message<News>) => void message.data.title);
const unlisten: () => void = news.on("message", ({ data, seq }) => void [data.title.length, seq?.toFixed()]);
news.on("unread", (count: number) => count);
client.on("state", ({ state, retryInMs }) => void (state === "waiting" && retryInMs?.toFixed()));
client.on("error", (error) => void [error instanceof CampanileError, error.code, error.status]);
const position: Position | undefined = news.position;

export async function all(): Promise<void> {
  const { messages, more } = await news.history({ limit: 10, ...(position && { before: position }) });
  void [messages[0]?.data.title, more, (await client.unread(["news"]))[0]?.unread, (await news.presence()).subscribers];
  await news.publish({ title: "Ding" }, { idempotencyKey: "k" });
  unlisten();
  // @ts-expect-error: no such event
  client.on("messages", () => {});
  // @ts-expect-error: no such transport
  connect("https://host", { transports: ["pigeon"] });
  // @ts-expect-error: a position has both
  client.subscribe("news", { since: { seq: 1 } });
}
