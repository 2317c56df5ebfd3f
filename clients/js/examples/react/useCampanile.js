// One client for the whole page, and what React asks of it.
import { useEffect, useState, useSyncExternalStore } from "react";
import { connect } from "@campanile/client";

export function createCampanile(address, options) {
  const client = connect(address, options);
  return {
    client,
    subscribeState: (changed) => client.on("state", changed),
    readState: () => client.state,
  };
}

/**
 * The newest messages of a channel, newest first; whether they may be incomplete; and how the connection is.
 * @param {ReturnType<typeof createCampanile>} campanile
 * @param {string} channel
 */
export function useCampanile(campanile, channel, { limit = 50, history = true } = {}) {
  const [messages, setMessages] = useState([]);
  const [isStale, setStale] = useState(false);
  const state = useSyncExternalStore(campanile.subscribeState, campanile.readState);

  useEffect(() => {
    let isCurrent = true;
    setMessages([]);
    setStale(false);
    const add = (more) => {
      if (isCurrent) {
        setMessages((known) => merged(known, more, limit));
      }
    };
    const subscription = campanile.client.subscribe(channel, {}, (message) => add([message]));
    const unlisten = subscription.on("stale", () => setStale(true));
    if (history) {
      // Without it the list begins empty, which is all that can be done about it.
      subscription.history({ limit }).then((page) => add(page.messages), () => {});
    }
    return () => {
      isCurrent = false;
      unlisten();
      subscription.unsubscribe();
    };
  }, [campanile, channel, limit, history]);

  return { messages, isStale, state };
}

/** History and live messages overlap. */
function merged(known, more, limit) {
  const place = (message) => (message.seq === undefined ? `${message.timestamp} ${JSON.stringify(message.data)}` : `${message.epoch}:${message.seq}`);
  const all = new Map([...known, ...more].map((message) => [place(message), message]));
  return [...all.values()].sort((one, other) => other.timestamp - one.timestamp || (other.seq ?? 0) - (one.seq ?? 0)).slice(0, limit);
}
