// What the page works out before it connects: which channel, which address, what is typed in a terminal. No document here, so that it is tested by itself.

/** What src/control/demo.rs writes into the page. */
export interface Server {
  version: string;
  /** Where clients get in. A host of null is any address of the server. */
  listen: { host: string | null; port: number }[];
  auth: "none" | "query" | "jwt";
  /** Whether the server lists the pages from where browsers may connect. */
  origins: boolean;
  /** The control port, as it is reached on the host itself. */
  control: string;
  control_token: boolean;
  /** How a Redis client publishes to the channel of this page, where one can without more ado. */
  redis: { command: string; channel: string } | null;
}

const CHANNEL_BYTES_MAX = 255;
const PAYLOAD = '{"title":"Ding","body":"from a terminal"}';
/** What `campanile publish` takes without being told. */
const CONTROL_DEFAULT = "127.0.0.1:9090";

/** Null: no such channel can be. */
export function channelOf(query: URLSearchParams): string | null {
  const channel = query.get("channel") ?? "news";
  const bytes = new TextEncoder().encode(channel).length;
  return bytes === 0 || bytes > CHANNEL_BYTES_MAX || /[\u0000-\u001f\u007f-\u009f]/.test(channel) ? null : channel;
}

/** Null: none that a browser gets in by. */
export function addressOf(server: Server, page: { hostname: string }): string | null {
  const bare = page.hostname.replace(/^\[|\]$/g, "");
  // Where the page came from there is a way to; then any address of this host, then one that may be reached from here.
  const ways = [
    server.listen.find(({ host }) => host === bare),
    server.listen.find(({ host }) => host === null),
    server.listen[0],
  ];
  const way = ways.find((found) => found !== undefined);
  if (way === undefined) {
    return null;
  }
  const host = way.host ?? bare;
  return `ws://${host.includes(":") ? `[${host}]` : host}:${way.port}/ws`;
}

export interface TerminalCommand {
  about: string;
  text: string;
}

export function commandsOf(server: Server, channel: string): TerminalCommand[] {
  const control = server.control === CONTROL_DEFAULT ? "" : ` --control ${quoted(server.control)}`;
  const token = server.control_token ? "CAMPANILE_CONTROL_TOKEN=… " : "";
  // What begins with a dash would be taken for an option.
  const options = channel.startsWith("-") ? `${control} --` : control;
  const commands = [{ about: "campanile", text: `${token}campanile publish${options} ${quoted(channel)} '${PAYLOAD}'` }];
  if (!server.control.startsWith("unix:")) {
    const body = JSON.stringify({ channel, data: JSON.parse(PAYLOAD) as unknown });
    const header = server.control_token ? ' -H "Authorization: Bearer …"' : "";
    commands.push({ about: "any HTTP client", text: `curl${header} -d ${quoted(body)} http://${server.control}/publish` });
  }
  if (server.redis !== null) {
    commands.push({ about: "any Redis client; -u says where Redis is", text: `redis-cli ${server.redis.command} ${quoted(server.redis.channel)} '${PAYLOAD}'` });
  }
  return commands;
}

/** For a shell, whatever it is. */
export function quoted(text: string): string {
  return /^[\w@%+:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** What keeps a browser from connecting, as far as the page can know; what is likely first. */
export function hintsOf(server: Server, address: string | null, page: { protocol: string; origin: string; hostname: string }, token: string): string[] {
  if (address === null) {
    return [
      "This server takes clients only from a proxy or on a unix socket, where no browser gets in. " +
        "Put the bell into a page behind that proxy: clients/bell says how.",
    ];
  }
  const hints = [];
  if (page.protocol === "https:") {
    hints.push(
      `This page came by https, and a browser does not let such a page connect to ${address}. Open it by http on the host of the server, ` +
        "or put the bell into a page of yours, with the wss: address of your proxy.",
    );
  }
  if (server.origins) {
    hints.push(`The server lists the pages from where browsers may connect, and this one may be missing: add --origins ${page.origin}`);
  }
  if (server.auth === "jwt" && token !== "") {
    hints.push("The token may have expired, or may be signed with another key: campanile token --inspect TOKEN explains it on the host of the server.");
  }
  hints.push(
    `Does the server run, and can ${new URL(address.replace("ws:", "http:")).host} be reached from here? Through an SSH tunnel, forward that port beside this page's. ` +
      "The browser's console (F12) says what it does not allow.",
  );
  return hints;
}
