import type { Unlisten } from "./types.js";

type Listener = (value: any) => void;

/** Listeners by event. What one of them throws is reported as the page reports any error, and keeps nothing from the others. */
export class Emitter<Events> {
  #listeners = new Map<keyof Events, Set<Listener>>();

  on<K extends keyof Events>(event: K, listener: (value: Events[K]) => void): Unlisten {
    // The same function may listen twice, and each has its own end.
    const own: Listener = (value) => listener(value);
    let listeners = this.#listeners.get(event);
    if (!listeners) this.#listeners.set(event, (listeners = new Set()));
    listeners.add(own);
    return () => {
      listeners.delete(own);
    };
  }

  emit<K extends keyof Events>(event: K, value: Events[K]): void {
    // A copy: whoever is added while it is told begins with the next one.
    for (const listener of [...(this.#listeners.get(event) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        (globalThis.reportError ?? console.error)(error);
      }
    }
  }
}
