// What the tests look at from inside.

export { delayInReason, jitter, judge, retryAfter } from "../src/backoff.js";
export { Parser } from "../src/event_stream.js";
export { baseOf, Requests } from "../src/requests.js";
