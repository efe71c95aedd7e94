/** Replay: how this try-on went, from its history, in a few seconds. */

import { Problem } from "../tryon.js";
import { $, show, text } from "./dom.js";
import { duration, failureWords, sentence } from "./words.js";

const LONGEST_MS = 6000;
const SHORTEST_MS = 2500;
const NAMES = { created: "Sent", processing: "Started", requeued: "Interrupted, starting again", completed: "Your result is ready" };

export async function play(api) {
  const { session, ticket } = api.state;
  if ($.frame.dataset.replay) return;
  $.frame.dataset.replay = "yes"; // the result is hidden meanwhile
  try {
    const { events } = await api.tryon.history(session, { ticket });
    await run(api, session, events);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (api.state.session?.session_id === session.session_id) api.remark(failureWords("replay", error), { bad: true });
  } finally {
    delete $.frame.dataset.replay;
    if (api.state.session?.session_id === session.session_id) {
      $.bar.dataset.part = "";
      api.set({});
    }
  }
}

async function run(api, session, events) {
  const begun = Date.parse(session.created_at);
  const took = Math.max(1, Date.parse(session.updated_at) - begun);
  const shown = Math.min(Math.max(took, SHORTEST_MS), LONGEST_MS);
  const first = performance.now();
  show($.bar, true);
  $.bar.classList.remove("unknown");
  for (let passed = 0; passed < shown; passed = performance.now() - first) {
    if (api.state.session?.session_id !== session.session_id) return;
    const at = (passed / shown) * took;
    const last = events.findLast((event) => Date.parse(event.at) - begun <= at) ?? events[0];
    text($["meta-time"], `${NAMES[last.event] ?? sentence(last.event)} · ${duration(at)}`);
    $.bar.firstElementChild.style.setProperty("--part", passed / shown);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
