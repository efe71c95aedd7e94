/** Share: a link to the result alone, which ends with the try-on. Copied, sent, or shown as a QR code. */

import { make, part } from "./dom.js";
import { failureWords, fromNow } from "./words.js";

export async function open(dialog, api) {
  const { tryon, state } = api;
  const { run } = state;
  let given;
  try {
    given = await tryon.share(state.session.session_id);
  } catch (error) {
    if (run === state.run) api.remark(failureWords("share", error), { bad: true });
    return;
  }
  if (run !== state.run) return; // something else is on the screen
  const link = new URL(given.link, tryon.base || location.href).href;
  const field = make("input", { className: "share-link", readOnly: true, value: link, "aria-label": "Link to the result" });
  field.addEventListener("focus", () => field.select());
  const copy = make("button", { type: "button", className: "button primary" }, "Copy link");
  copy.addEventListener("click", async () => {
    field.select();
    const copied = await navigator.clipboard?.writeText(link).then(() => true, () => false);
    copy.textContent = copied ? "Copied" : "Press Ctrl+C";
    api.say(copied ? "Link copied." : "Press Control C to copy the link.");
  });
  const actions = [make("button", { className: "button" }, "Close"), copy];
  if (navigator.share) {
    const send = make("button", { type: "button", className: "button" }, "Send");
    send.addEventListener("click", () => navigator.share({ title: "My try\u2011on", url: link }).catch(() => {}));
    actions.splice(1, 0, send);
  }
  const qr = make("div", { className: "qr", id: "qr" });
  const left = fromNow(Date.parse(given.expires_at) - api.now());
  dialog.replaceChildren(
    make(
      "form",
      { method: "dialog" },
      make("h2", { id: "share-title" }, "Share the result"),
      make("p", {}, `Anyone with this link sees the result, never your photo. It ends ${left}.`),
      qr,
      field,
      make("div", { className: "actions" }, ...actions),
    ),
  );
  dialog.showModal();
  copy.focus();
  part("qr").then(({ mount }) => mount(qr).show(link), () => {}); // the link is there without
}
