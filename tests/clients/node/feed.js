// Prints what npm's `eventsource` hears at a URL: feed.js URL. Called by tests/whole/feeds.rs; python/feed.py is its twin.

import { EventSource } from "eventsource";

const source = new EventSource(process.argv[2]);
source.onmessage = (event) => {
  const { channel, data } = JSON.parse(event.data);
  console.log("got", channel, data.n, event.lastEventId);
};
source.addEventListener("position", (event) => console.log("position", event.lastEventId));
source.addEventListener("subscribed", (event) => console.log("subscribed", event.data));
