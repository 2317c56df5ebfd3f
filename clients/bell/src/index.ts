// What `import "@campanile/bell"` brings: the element, defined.

import { defineBell } from "./bell.js";

defineBell();

export { type BellState, CampanileBell } from "./bell.js";
export type { Notice } from "./notice.js";
