/** A card that says what went wrong: a title, the cause with its fix, and what to do next. */

import { make } from "./dom.js";

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
