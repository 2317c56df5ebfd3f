export { connect } from "./client.js";
export { CampanileError } from "./errors.js";
export type * from "./types.js";
