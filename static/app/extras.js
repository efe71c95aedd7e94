/** The parts that the page can do without at first: its view of the connection, the slider, and what is behind the scenes. */

import { $, part, style } from "./dom.js";
import { watch } from "./truth.js";
import { wires } from "./wires.js";

export function mount(api) {
  api.wire = wires(); // before the first session is followed: that waits for run.js
  watch(api, { wire: api.wire, onConnection: (shownConnection) => api.set({ shownConnection }) });
  api.on("gone", api.wire.forget);
  behind(api);
  slider(api);
}

/** The panel that the chip opens. */
function behind(api) {
  let panel = null;
  $.chip.addEventListener("click", () =>
    api.use("behind", async ({ mount: opened }) => {
      await style("behind");
      panel ??= opened($.behind, api);
      panel.toggle($.chip);
    }),
  );
}

/** The slider, as soon as photo and result are both there. */
function slider(api) {
  let made = null;
  const wanted = () => api.state.phase === "following" && api.state.session?.status === "completed" && there($.photo) && there($.result);
  const look = async () => {
    if (!wanted()) {
      (await made)?.end();
      return;
    }
    made ??= Promise.all([part("compare"), style("compare")])
      .then(([module]) => module.mount($.frame, api, { before: $.photo, after: $.result }))
      .catch(() => (made = null)); // the result is there without; the next rendering asks again
    const found = await made;
    if (wanted()) found?.begin();
  };
  api.on("render", look);
  for (const image of [$.photo, $.result]) image.addEventListener("load", look);
}

function there(image) {
  return !image.hidden && image.complete && image.naturalWidth > 0;
}
