/** What went wrong, in one form everywhere: a title, the cause with its fix, the part that is meant, and what to do next. */

import { make } from "./dom.js";

/** Which picture a failed session's code is about. */
const PARTS = {
  person_not_found: "person",
  pose_not_supported: "person",
  garment_not_found: "garment",
};

const TITLES = {
  person_not_found: "No person was found",
  pose_not_supported: "This pose does not work",
  garment_not_found: "The garment was not found",
  unreadable_image: "A picture could not be read",
  moderated_input: "A picture was refused",
  moderated_output: "The result was refused",
  input_lost: "The picture got lost",
  backend_busy: "Very busy right now",
  backend_cold: "It was still starting up",
  backend_unreachable: "Not available right now",
  timeout: "It took too long",
  worker_lost: "It was interrupted too often",
};

/** `{ title, text, part, retryable }` of a failed session. `part`: a role, or null where no picture is to blame. */
export function failure(session) {
  const { code = "", message = "", retryable = true } = session.error ?? {};
  const named = (session.inputs ?? []).some(({ role }) => role === PARTS[code]);
  return { title: TITLES[code] ?? "That did not work out", text: message, part: named ? PARTS[code] : null, retryable };
}

/** The role of a refused part: `image` stands for the first one. */
export function partOf(part, roles) {
  if (part === "image") return roles?.[0]?.name ?? "person";
  return part;
}

/** Fills the card beside the slots: `{ title, text, actions: [{ label, run }] }`, or null for none. */
export function card(root, problem) {
  root.hidden = problem === null;
  if (problem === null) {
    root.replaceChildren();
    return;
  }
  const { title, text = "", actions = [] } = problem;
  const buttons = actions.map(({ label, run, id = "" }, n) => {
    const button = make("button", { type: "button", className: n === 0 ? "button primary" : "button", id }, label);
    button.addEventListener("click", run);
    return button;
  });
  root.replaceChildren(
    make("p", { className: "problem-title" }, title),
    ...(text ? [make("p", {}, text)] : []),
    ...(buttons.length > 0 ? [make("div", { className: "actions" }, ...buttons)] : []),
  );
}
