/** See: the result in the photo's place; save it, share it, go on, or have it erased. */

import { $, age, attribute, make, save, show, text } from "./dom.js";
import { failureWords, fromNow, kilobytes, moment, sentence } from "./words.js";
import { note } from "./wait.js";

const LINK_FRESH_MS = 120000; // links live 300 s by default; older than that, a download asks for a new one first
const NAMES = { person: "Photo", garment: "Garment", result: "Result" };

export function mount(api) {
  const { act, state } = api;
  $.download.addEventListener("click", async (event) => {
    if (age(state.heardAt) < LINK_FRESH_MS) return;
    event.preventDefault();
    await api.refreshLinks();
    if (!$.download.hidden && age(state.heardAt) < LINK_FRESH_MS) $.download.click();
    else api.remark(failureWords("download", {}), { bad: true });
  });
  $["garment-again"].addEventListener("click", () => act.another(secondRole(state)));
  $.erase.addEventListener("click", () => state.deleting || $["erase-dialog"].showModal());
  $["erase-dialog"].addEventListener("close", () => {
    const sure = $["erase-dialog"].returnValue === "yes";
    $["erase-dialog"].returnValue = "";
    if (sure && state.session && state.phase === "following") act.erase();
  });
  $["save-receipt"].addEventListener("click", () => {
    const blob = new Blob([JSON.stringify(state.receipt, null, 2)], { type: "application/json" });
    save(blob, `receipt-${state.receipt.session_id.slice(-6)}.json`);
  });
  let sharing = false;
  $.share.addEventListener("click", async () => {
    if (sharing) return;
    sharing = true;
    await api.use("share", ({ open }) => open($["share-dialog"], api)).finally(() => (sharing = false));
  });
  $.replay.addEventListener("click", () => api.use("replay", ({ play }) => play(api)));
}

function secondRole({ processor }) {
  return processor?.roles[1]?.name ?? "garment";
}

export function render(api) {
  const { state } = api;
  const { session, shared, phase } = state;
  const completed = phase === "following" && session?.status === "completed";
  const output = completed ? session.links.output : null;
  show($.download, Boolean(output));
  if (output) {
    attribute($.download, "href", output);
    attribute($.download, "download", `try-on-${session.session_id.slice(-6)}${extension(output)}`);
  } else {
    $.download.removeAttribute("href");
  }
  show($.share, completed && !shared);
  show($.replay, completed);
  show($["garment-again"], completed && !shared && (state.processor?.roles.length ?? 2) > 1);
  text($["garment-again"], `Another ${secondRole(state).replaceAll("_", " ")}`);
  receipt(state.receipt);
  tick(api);
}

/** When it is erased, and by whom. */
export function tick(api) {
  const { state } = api;
  const { session } = state;
  const until = session && state.phase === "following" ? new Date(session.expires_at) : null;
  const left = until ? until - api.now() : 0;
  show($.erase, until !== null && !state.shared && left > 0);
  attribute($.erase, "aria-disabled", state.deleting); // stays in the tab order, unlike `disabled`
  text($.erase, state.deleting ? "Deleting" : "Delete now");
  note($["erase-note"], state, "erase");
  let words = "";
  if (until && left > 0) words = `Erased ${moment(until, api.now())}, ${fromNow(left)}.`;
  else if (until) words = "Its time is up; it is being erased.";
  text($.keeps, words);
  show($.small, words !== "");
}

function extension(link) {
  return /\.[a-z0-9]{2,5}$/.exec(new URL(link, location.href).pathname)?.[0] ?? "";
}

function receipt(given) {
  show($.receipt, given !== null);
  show($["save-receipt"], given !== null);
  $["save-receipt"].classList.toggle("primary", given !== null);
  if (given === null || $.receipt.dataset.signature === given.signature) return;
  $.receipt.dataset.signature = given.signature;
  const row = (...cells) => make("li", {}, ...cells.map(([tag, words]) => make(tag, {}, words)));
  const { files, key_id, signature } = given;
  $["receipt-files"].replaceChildren(
    ...files.map((file) => row(["span", NAMES[file.role] ?? sentence(file.role)], ["span", kilobytes(file.bytes)], ["code", file.sha256])),
    row(["span", "Signed"], ["span", key_id], ["code", signature]),
  );
}
