"use strict";
// What the server says of itself, shown. Every text that comes from it (channels, reasons, URLs) goes in as text, never as HTML.
(() => {
  const CHANNEL = "$stats";
  const KEPT_SECONDS = 120;
  const RETRY_MS = [500, 1000, 2000, 5000];
  // A page that nobody sees keeps a place from others.
  const HIDDEN_MS = 60000;
  const TOKEN_KEY = "campanile-control-token";
  const $ = (id) => document.getElementById(id);

  // Numbers as people read them.
  const whole = new Intl.NumberFormat("en");
  const number = (value) => (value < 10 && value % 1 ? value.toFixed(1) : value < 10000 ? whole.format(Math.round(value)) : short(value));
  const short = (value) => {
    const units = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
    const [size, unit] = units.find(([size]) => value >= size) || [1, ""];
    return (value / size).toFixed(value / size < 100 && unit ? 1 : 0) + unit;
  };
  const plural = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;
  const bytes = (value) => {
    const units = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]];
    const [size, unit] = units.find(([size]) => value >= size) || [1, "B"];
    return (value / size).toFixed(unit === "B" || value / size >= 100 ? 0 : 1) + " " + unit;
  };
  const seconds = (value) => {
    if (value < 1e-3) return Math.round(value * 1e6) + " µs";
    if (value < 1) return (value * 1e3).toFixed(value < 0.1 ? 1 : 0) + " ms";
    return value.toFixed(value < 10 ? 1 : 0) + " s";
  };
  const span = (value) => {
    const units = [[86400, "d"], [3600, "h"], [60, "min"]];
    const [size, unit] = units.find(([size]) => value >= size) || [1, "s"];
    return Math.floor(value / size) + " " + unit;
  };

  const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

  const say = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };
  const show = (id, visible) => { $(id).hidden = !visible; };

  // Tables: a cell is a text, or { text, kind }, or { meter }.
  const cell = (content) => {
    const td = document.createElement("td");
    const { text, kind, meter } = typeof content === "object" ? content : { text: content, kind: "number" };
    if (meter !== undefined) {
      const element = document.createElement("meter");
      Object.assign(element, { min: 0, max: 1, high: 0.85, value: Math.min(1, meter) });
      element.textContent = Math.round(meter * 100) + " %";
      td.append(element, " " + element.textContent);
    } else if (kind === "name") {
      const name = document.createElement("bdi");
      name.textContent = text;
      td.append(name);
    } else {
      td.textContent = text;
    }
    if (kind) td.className = kind;
    return td;
  };
  const table = (id, rows, columns, empty) => {
    const lines = rows.map((cells) => {
      const tr = document.createElement("tr");
      tr.append(...cells.map(cell));
      return tr;
    });
    if (!lines.length) {
      const tr = document.createElement("tr");
      const td = cell({ text: empty, kind: "empty" });
      td.colSpan = columns;
      tr.append(td);
      lines.push(tr);
    }
    $(id).replaceChildren(...lines);
  };
  const name = (text) => ({ text, kind: "name" });

  // Charts: what has come since the page was opened.
  const color = (variable) => () => getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
  const charts = [];
  // Under a chart stands what is pointed at, or what is newest.
  const last = (column) => column[column.length - 1];
  const told = (value, axis) => (value === null || value === undefined ? "–" : axis(value));
  const chart = (id, series, axis, least) => {
    const place = $(id);
    const width = () => Math.max(200, place.clientWidth);
    const grid = { stroke: color("--line"), width: 1 };
    const axes = [
      { stroke: color("--soft"), grid, ticks: grid, space: 90, values: (_, ticks) => ticks.map(clock) },
      { stroke: color("--soft"), grid, ticks: grid, size: 62, values: (_, values) => values.map((value) => (value === null ? "" : axis(value))) },
    ];
    const options = {
      width: width(), height: 200, axes, legend: { live: true }, cursor: { drag: { x: false, y: false } },
      scales: {
        x: { range: (_, low, high) => [high - KEPT_SECONDS, high] },
        y: { range: (_, low, high) => [0, Math.max(least, (high || 0) * 1.1)] },
      },
      series: [{ label: "at", value: (plot, at) => told(at ?? last(plot.data[0]), clock) }].concat(series.map(([label, variable]) => (
        { label, stroke: color(variable), width: 2, points: { show: false }, value: (plot, value, index, at) => told(at === null ? last(plot.data[index]) : value, axis) }
      ))),
    };
    const made = { data: [[], ...series.map(() => [])] };
    made.plot = new uPlot(options, made.data, place);
    made.add = (at, values) => {
      made.data[0].push(at);
      values.forEach((value, index) => made.data[index + 1].push(value));
      while (made.data[0][0] < at - KEPT_SECONDS) made.data.forEach((column) => column.shift());
      made.plot.setData(made.data);
    };
    charts.push(made);
    new ResizeObserver(() => { if (made.plot.width !== width()) made.plot.setSize({ width: width(), height: 200 }); }).observe(place);
    return made;
  };
  const deliveries = chart("chart-deliveries", [["deliveries", "--accent"], ["messages", "--second"]], number, 4);
  const latency = chart("chart-latency", [["p99", "--accent"], ["p50", "--second"]], seconds, 0.0005);
  // A canvas does not follow the colours of its page by itself.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(({ plot }) => plot.redraw(false, true)));

  const shownRates = (counts, kind) => counts.map(({ name: reason, total, rate }) => ({ reason: `${kind} ${reason}`, total, rate }));

  const render = (stats) => {
    const { rates, latency: percentiles, memory, bus } = stats;
    say("version", stats.version);
    say("uptime", `up ${span(stats.uptime_seconds)}, ${stats.watchers} watching`);
    show("problem", stats.not_ready !== null);
    if (stats.not_ready !== null) say("problem", `Not ready: ${stats.not_ready}`);
    const isWell = stats.not_ready === null;
    state(isWell ? "good" : "bad", isWell ? stats.stage : "not ready");

    const wasThere = stats.closed.some(({ total }) => total > 0);
    show("story", stats.connections === 0 && isWell);
    say("story-title", wasThere ? "Nobody is connected now" : "Nobody is connected yet");
    if (stats.first_commands.length === 2) {
      say("first-subscribe", stats.first_commands[0]);
      say("first-publish", stats.first_commands[1]);
    }

    say("connections", number(stats.connections));
    say("connections-note", `of ${short(stats.connections_max)}; ${plural(stats.subscriptions, "subscription")}, ${plural(stats.channels, "channel")}`);
    say("deliveries", rates ? number(rates.deliveries) : "–");
    say("deliveries-note", rates ? `${number(rates.messages)} messages/s, ${bytes(rates.sent_bytes)}/s` : "");
    say("p99", percentiles ? seconds(percentiles.p99) : "–");
    say("latency-note", percentiles ? `p50 ${seconds(percentiles.p50)}, p99.9 ${seconds(percentiles.p999)}` : "nothing delivered now");
    say("memory", memory.resident_bytes === null ? "–" : bytes(memory.resident_bytes));
    say("memory-note", `bound of user memory ${bytes(memory.bytes_max)}`);
    say("lagging", number(stats.lagging));
    say("lagging-note", rates ? `slow subscriptions; ${number(rates.skipped)} messages/s skipped` : "slow subscriptions");

    const at = stats.unix_ms / 1000;
    deliveries.add(at, rates ? [rates.deliveries, rates.messages] : [null, null]);
    latency.add(at, percentiles ? [percentiles.p99, percentiles.p50] : [null, null]);

    const busiest = (stats.busiest || []).map((channel) => (
      [name(channel.name), number(channel.deliveries), number(channel.messages), number(channel.subscribers)]
    ));
    table("busiest", busiest, 4, stats.busiest === null ? "The bus has not answered in time" : "Nothing is delivered now");
    table("shards", stats.shards.map((shard, index) => [
      shard.closed_by.length ? { text: `${index} takes nobody in: ${shard.closed_by.join(", ")}`, kind: "bad" } : { text: String(index) },
      { meter: shard.busy }, seconds(shard.lag_seconds), number(shard.connections), number(shard.deliveries), number(shard.lagging),
    ]), 6, "");

    const slow = [
      [{ text: "Subscriptions behind, their sockets full" }, number(stats.lagging), ""],
      [{ text: "Messages skipped for them" }, rates ? number(rates.skipped) : "–", ""],
      [{ text: "Writes that the kernel did not take whole" }, rates ? number(rates.writes_blocked) : "–", ""],
    ].concat(stats.overruns.map((overrun) => [{ text: `Passed by the log: ${overrun.name}` }, number(overrun.rate), number(overrun.total)]));
    table("slow", slow, 3, "");
    const reasons = [...shownRates(stats.refused, "refused:"), ...shownRates(stats.closed, "closed:")];
    reasons.sort((a, b) => b.rate - a.rate || b.total - a.total);
    table("reasons", reasons.map(({ reason, rate, total }) => [{ text: reason }, number(rate), number(total)]), 3, "Nobody yet");

    say("bus-title", bus.kind === "redis" ? "Redis" : "Bus");
    const shownState = (isReady) => (isReady ? { text: "messages flow" } : { text: "no messages", kind: "bad" });
    const servers = bus.servers.map((server) => [
      name(server.url), shownState(server.is_ready), server.probe_age_seconds === null ? "not tried" : `${seconds(server.probe_age_seconds)} ago`,
    ]);
    table("servers", servers.length ? servers : [[{ text: `${bus.kind}: this server itself` }, shownState(bus.is_ready), ""]], 3, "");
    const parts = memory.parts.map((part) => (
      [{ text: part.name }, { meter: part.bytes_max ? part.bytes / part.bytes_max : 0 }, bytes(part.bytes), bytes(part.bytes_max)]
    ));
    if (memory.resident_bytes !== null) {
      parts.unshift([{ text: "the process, of that bound" }, { meter: memory.resident_bytes / memory.bytes_max }, bytes(memory.resident_bytes), bytes(memory.bytes_max)]);
    }
    table("parts", parts, 4, "");
  };

  // The connection.
  const state = (light, text) => {
    $("light").className = `light ${light}`;
    say("state-text", text);
  };
  let socket = null;
  let failures = 0;
  let timer = 0;

  const again = () => {
    clearTimeout(timer);
    timer = setTimeout(connect, RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]);
    failures += 1;
  };

  // A browser does not tell why an upgrade was refused; a plain request to the same path is refused for the same reason.
  const whyNot = async () => {
    const token = sessionStorage.getItem(TOKEN_KEY);
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    const answer = await fetch("stats", { headers, cache: "no-store" });
    const told = await answer.json().catch(() => ({}));
    return { status: answer.status, error: told.error || "" };
  };

  const lost = async () => {
    socket = null;
    if (document.hidden) return;
    state("bad", "Not connected");
    try {
      const { status, error } = await whyNot();
      if (status === 401) {
        show("login", true);
        say("login-why", sessionStorage.getItem(TOKEN_KEY) ? `The token was not taken: ${error}.` : "");
        state("", "Waiting for a token");
        sessionStorage.removeItem(TOKEN_KEY);
        $("token").focus();
        return;
      }
      // 426: a WebSocket would have been let in.
      if (status !== 426) state("bad", `Not connected: ${error}`);
      else if (failures > 1) state("bad", "The server is there, and no WebSocket gets to it; a proxy on the way?");
    } catch {
      state("bad", "The server does not answer. Trying again …");
    }
    again();
  };

  const connect = () => {
    clearTimeout(timer);
    if (socket) return;
    const token = sessionStorage.getItem(TOKEN_KEY);
    // What a token may hold and a subprotocol may not.
    const offered = token ? [`bearer.${token.replace(/[/=]/g, encodeURIComponent)}`] : [];
    const url = new URL("stats", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    let opened;
    try {
      opened = new WebSocket(url, ["campanile.v1.json", ...offered]);
    } catch {
      say("login-why", "A token has letters, digits and -._~+/= alone.");
      sessionStorage.removeItem(TOKEN_KEY);
      show("login", true);
      return;
    }
    socket = opened;
    let isOver = false;
    // Some browsers tell an error and no close.
    const over = () => {
      if (isOver) return;
      isOver = true;
      clearTimeout(silence);
      opened.close();
      lost();
    };
    let silence = setTimeout(over, 10000);
    opened.addEventListener("message", ({ data }) => {
      clearTimeout(silence);
      silence = setTimeout(over, 10000);
      const event = JSON.parse(data);
      if (event.type === "notification" && event.channel === CHANNEL) {
        failures = 0;
        show("login", false);
        render(event.data);
      }
    });
    opened.addEventListener("error", over);
    opened.addEventListener("close", over);
  };

  $("login").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(TOKEN_KEY, $("token").value.trim());
    $("token").value = "";
    failures = 0;
    connect();
  });
  let hiding = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) {
      hiding = setTimeout(() => socket && socket.close(), HIDDEN_MS);
    } else if (!socket && $("login").hidden) {
      failures = 0;
      connect();
    }
  });
  connect();
})();
