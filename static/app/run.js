/** The views of a run, from the upload to the end: loaded with the first one. */

import * as extras from "./extras.js";
import * as frame from "./frame.js";
import * as see from "./see.js";
import * as wait from "./wait.js";

export { clear } from "./frame.js";
export { trouble } from "./troubles.js";
export { headline } from "./wait.js";

export function mount(api) {
  for (const part of [frame, wait, see, extras]) part.mount(api);
}

export function render(api) {
  for (const part of [frame, wait, see]) part.render(api);
}

/** Shows the parts that change with time alone. */
export function tick(api) {
  const { phase, session } = api.state;
  if (phase === "refused" || (phase === "following" && !session?.terminal)) wait.tick(api);
  if (phase === "following") see.tick(api);
}
