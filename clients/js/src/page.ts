// What a page tells of itself; nothing of it is there in Node.

export interface PageHooks {
  online(): void;
  offline(): void;
  /** Shown again; `thawed`: out of the back/forward cache, where connections are lost without a word. */
  shown(thawed: boolean): void;
  /** Hidden or left, perhaps for ever. */
  hidden(): void;
}

export function isOffline(): boolean {
  return typeof navigator !== "undefined" && navigator.onLine === false;
}

/** Returns what ends the listening. */
export function watchPage(hooks: PageHooks): () => void {
  if (typeof addEventListener !== "function") return () => {};
  const ends: (() => void)[] = [];
  const listen = (target: EventTarget, event: string, listener: (event: any) => void): void => {
    target.addEventListener(event, listener);
    ends.push(() => target.removeEventListener(event, listener));
  };
  listen(globalThis, "online", hooks.online);
  listen(globalThis, "offline", hooks.offline);
  listen(globalThis, "pageshow", (event: PageTransitionEvent) => event.persisted && hooks.shown(true));
  listen(globalThis, "pagehide", hooks.hidden);
  if (typeof document !== "undefined") {
    listen(document, "visibilitychange", () => (document.visibilityState === "hidden" ? hooks.hidden() : hooks.shown(false)));
  }
  return () => ends.forEach((end) => end());
}
