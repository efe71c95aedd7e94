/**
 * The demo page: one state object, one `render()`; everything that happens changes the state and renders again.
 *
 * Three moments: Choose (`choose.js`: slots for the processor's roles), Wait (`wait.js`) and See (`see.js`); what the first one
 * does without is loaded later. A run has a phase: idle -> uploading -> following -> (ended), or refused (the upload was, or the
 * retry), or gone (the session is).
 *
 * The address says which session is shown: `?s=<id>`, so that Back, Forward and reload do what a person expects.
 * `#session=<id>&ticket=<ticket>` shows a session made elsewhere, read-only.
 *
 * Modules export `mount` and `render`, which get `api`:
 *   tryon       the client
 *   state       read only, below; `set(changes)` changes it and renders
 *   on(name, fn)  "connection" (connection, transport), as the client reports it; "gone" (id of a session that was erased); "render"
 *   say(text)   to a screen reader, queued
 *   act         what a person can do: begin, again, cancel, erase, leave, open, another
 *   use(name, act)  hands a module that is loaded later to `act`; says so if it cannot be had
 *   now()       the server's clock, in ms
 *   wire        the page's sockets and streams (wires.js), once run.js is there
 */

import { Problem, TryOn, randomText } from "../tryon.js";
import { announcer } from "./announcer.js";
import * as chip from "./chip.js";
import * as choose from "./choose.js";
import { $, age, attribute, clock, instant, part, show, text } from "./dom.js";
import { card } from "./errors.js";
import { NOT_LOADED, failureWords } from "./words.js";

const TITLE = document.title;
const SESSION_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const INTERRUPTED_MS = 2000; // for which an interruption is shown at least
const LINK_FRESH_MS = 120000; // links live 300 s by default
const NEWS_MS = 10000; // an older interruption is history
const PHOTO_GONE = "The photo is no longer there. Please choose it again.";

/** The state of one run; a new run begins with a fresh one. */
const fresh = () => ({
  run: {}, // identity: an answer for another run is dropped
  phase: "idle", // idle, uploading, following, refused, gone
  sent: 0, // part of the upload, 0..1
  id: null, // of the session that is followed
  ticket: null, // that shows it, if it was made elsewhere
  session: null,
  heardAt: null, // instant of its last news
  connection: "connecting",
  transport: null,
  shared: false, // made elsewhere, read-only
  ending: null, // { refused: Problem }, { gone: code, ready } or { receipt }: why the upload was refused, or the session is gone
  retryable: true,
  retryAt: 0, // by clock(): not before
  interruptedUntil: 0, // by clock()
  note: null, // { text, bad, beside }
  lost: null, // { title, text, again }: a part of the page, or the result, that did not come
  cancelling: false,
  deleting: false,
  goneMeanwhile: null, // the code, while an answer to the deletion is due
  receipt: null,
});

const tryon = new TryOn();
const announce = announcer($.announcer);
const listeners = {};
const state = {
  ...fresh(),
  slots: new Map(), // place (choose.js): { file, url, from, name, … }; stays for further runs
  params: {},
  processor: null,
  limits: null,
  online: navigator.onLine,
  shownConnection: null, // what the chip says, where it knows better than `connection`
  notice: null, // why nothing was taken, beside the slots: { title, text, part, … }
};

let following = null;
let upload = null; // AbortController
let idempotencyKey = null; // of the upload that may be repeated
let expiryTimer = 0;
let spoken = "";
let shown = null; // run.js, once it is loaded
let loading = null;
let waiting = null; // what this run does once run.js is there
let shownLost = null;
let mine = null; // history.js, once it is loaded

const api = {
  tryon,
  state,
  say: announce,
  wire: null,
  set(changes) {
    Object.assign(state, changes);
    render();
  },
  on(name, fn) {
    (listeners[name] ??= []).push(fn);
  },
  /** The server's clock; before anything was followed, this device's as it was when the page was opened. */
  now: () => following?.now() ?? performance.timeOrigin + clock(),
  load,
  use,
  remark,
  refreshLinks,
  act: { begin, again, cancel, erase, leave, open, another, abort: () => upload?.abort() },
};

function emit(name, ...news) {
  for (const fn of listeners[name] ?? []) fn(...news);
}

// --- a run ----------------------------------------------------------------------------------------------------------

function reset() {
  following?.close();
  following = null;
  upload?.abort();
  upload = null;
  clearTimeout(expiryTimer);
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close(); // it asks about the session that is left
  Object.assign(state, fresh(), { notice: null });
  shown?.clear();
  waiting = null;
  spoken = "";
}

function busy() {
  return state.phase === "uploading" || (state.phase === "following" && !state.session?.terminal);
}

/** Sends what is in the slots, and follows the session it becomes. */
function begin() {
  if (busy()) return;
  reset();
  idempotencyKey = randomText();
  history.pushState({ run: true }, "", location.pathname);
  send();
}

/** The files by role, and the session that has those which are not sent. */
async function parts(signal) {
  const pictures = choose.pictures();
  const source = pictures.find(({ slot }) => slot.from)?.slot.from ?? null;
  const of = (all, name) => all.filter(({ role }) => role === name);
  // The server copies every role that is not sent: only right where no role of the source was emptied.
  const whole = source?.inputs.every(({ role }) => of(pictures, role).length > 0) ?? false;
  const copied = (role) => of(pictures, role).length === of(source.inputs, role).length && of(pictures, role).every(({ slot }) => slot.from);
  const inputs = {};
  for (const { role, slot } of pictures) {
    if (whole && copied(role)) continue;
    slot.file ??= await fetched(slot, role, signal);
    (inputs[role] ??= []).push(slot.file);
  }
  return { inputs, from: whole ? source.session_id : null };
}

async function fetched({ from, at }, name, signal) {
  const { inputs } = await tryon.read(from.session_id, { signal }); // with a fresh link
  const { link } = inputs.find(({ role, index }) => role === name && index === at);
  const response = await fetch(link, { credentials: "omit", signal }).catch(() => null);
  signal.throwIfAborted();
  if (!response?.ok) throw new Problem(response ? { status: response.status, code: "not_found" } : { code: "network" });
  const blob = await response.blob();
  return new File([blob], name, { type: blob.type });
}

async function send() {
  const { run } = state;
  Object.assign(state, { phase: "uploading", sent: 0, ending: null, retryAt: 0 });
  upload = new AbortController();
  render();
  const params = Object.keys(state.params).length > 0 ? state.params : null;
  const onProgress = (part) => run === state.run && api.set({ sent: part });
  try {
    const { signal } = upload;
    const { inputs, from } = await parts(signal);
    const session = await tryon.upload(null, { inputs, params, from, idempotencyKey, signal, onProgress });
    if (run !== state.run) return;
    choose.sent(session);
    history.replaceState({ run: true }, "", address(session.session_id));
    onceLoaded(() => watch(session));
  } catch (error) {
    if (run !== state.run) return;
    if (error.name === "AbortError") leave();
    else if (error.code === "not_found" && [...state.slots.values()].some((slot) => slot.from)) withoutSource();
    else if (error instanceof Problem) refused(error);
    else throw error;
  }
}

/** The session that had a photo was erased meanwhile: sent again if the photo is still here. */
function withoutSource() {
  let lost = false;
  for (const [role, slot] of state.slots) {
    slot.from = null;
    if (!slot.file) lost = state.slots.delete(role);
  }
  if (!lost) send();
  else leave({ title: PHOTO_GONE });
}

function refused(problem) {
  if (problem.code !== "network") idempotencyKey = randomText(); // only an upload without an answer is the same again
  Object.assign(state, {
    phase: "refused",
    ending: { refused: problem },
    retryable: problem.retryable,
    retryAt: problem.retryAfter === null ? 0 : clock() + problem.retryAfter * 1000,
  });
  render();
}

/** Follows a session, or the session of that id, once run.js is there. */
function watch(session, { ticket = null } = {}) {
  Object.assign(state, { phase: "following", id: session.session_id ?? session, ticket });
  if (session.session_id) heard(session);
  following = tryon.follow(session, {
    ticket,
    onEvent: (event) => {
      if (event.event === "requeued" && api.now() - Date.parse(event.at) < NEWS_MS) interrupted();
    },
    onSession: (news) => {
      heard(news);
      render();
    },
    onConnection: (connection, transport) => {
      api.set({ connection, transport });
      emit("connection", connection, transport);
    },
    onGone: (code) => {
      if (state.deleting) state.goneMeanwhile = code; // the receipt is on its way
      else gone(code);
    },
  });
  api.wire.relay(following);
  render();
}

/** A worker was lost: that is said for long enough to be read, and nothing falls back without it. */
function interrupted() {
  state.interruptedUntil = clock() + INTERRUPTED_MS;
  setTimeout(render, INTERRUPTED_MS + 20);
}

function heard(session) {
  const before = state.session;
  Object.assign(state, { session, heardAt: instant(), transport: following?.transport ?? state.transport });
  if (session.terminal && !before?.terminal) state.note = null;
  expireLater();
}

/** Reads the session again when it has expired: by then the server has erased it. */
function expireLater() {
  clearTimeout(expiryTimer);
  const left = Date.parse(state.session.expires_at) - api.now();
  expiryTimer = setTimeout(refreshLinks, Math.min(Math.max(left, 0) + 6000, LONGEST_TIMER_MS));
}

function gone(code) {
  const { shared, session, id } = state;
  if (code === "not_found" && session) code = Date.parse(session.expires_at) <= api.now() ? "expired" : "erased";
  const ready = session?.status === "completed";
  reset();
  Object.assign(state, { phase: "gone", shared, ending: { gone: code, ready }, connection: "finished" });
  emit("gone", id);
  render();
}

/** Retries: a refused upload is sent again; a failed or cancelled session needs no new upload. */
async function again() {
  if (busy()) return;
  const { run, session } = state;
  if (state.phase === "refused" && !session) {
    send();
    return;
  }
  try {
    const next = await tryon.retry(session.session_id);
    if (run !== state.run) return;
    reset();
    history.pushState({ run: true }, "", address(next.session_id));
    watch(next);
  } catch (error) {
    if (run !== state.run) return;
    if (!(error instanceof Problem)) throw error;
    if (error.status === 404) leave({ title: PHOTO_GONE });
    else refused(error);
  }
}

async function cancel() {
  const { run } = state;
  if (state.cancelling) return;
  api.set({ cancelling: true, note: null });
  try {
    await tryon.cancel(state.session.session_id); // that it has happened is pushed, as everything else
  } catch (error) {
    if (run === state.run) api.set({ cancelling: false });
    if (!(error instanceof Problem)) throw error;
    if (run === state.run) remark(failureWords("cancel", error), { bad: true });
  }
}

/** Erases the session now and shows the receipt. */
async function erase() {
  const { run, session } = state;
  if (state.deleting) return;
  api.set({ deleting: true, note: null });
  try {
    const receipt = await tryon.remove(session.session_id);
    if (run !== state.run) return;
    choose.clear();
    reset();
    Object.assign(state, { phase: "gone", receipt, ending: { receipt }, connection: "finished" });
    emit("gone", session.session_id);
    history.replaceState(null, "", location.pathname);
    render();
    $.headline.focus({ preventScroll: true });
  } catch (error) {
    if (run === state.run) api.set({ deleting: false });
    if (!(error instanceof Problem)) throw error;
    if (run !== state.run) return;
    if (error.status === 404 || state.goneMeanwhile) gone(state.goneMeanwhile ?? "erased"); // erased, by an answer that was lost
    else remark(failureWords("erase", error), { bad: true, beside: "erase" });
  }
}

/** Back to the slots with the pictures of this run, but for the role that is to be replaced. */
async function another(role) {
  const { run } = state;
  if (state.session && age(state.heardAt) > LINK_FRESH_MS) await refreshLinks();
  if (run !== state.run) return;
  const { session } = state;
  if (session) choose.keep(session);
  choose.clear(role);
  leave();
  choose.focus(role);
}

/** Says something on the screen and to screen readers: under the headline, or `beside` the button "erase". */
function remark(words, { bad = false, beside = "headline" } = {}) {
  state.note = { text: words, bad, beside };
  announce(words);
  render();
}

/**
 * Links expire. New ones come with the session, read again; a session that is gone says so, and one that cannot be read
 * now is read again later. Resolves to whether they came.
 */
async function refreshLinks() {
  const { run } = state;
  try {
    await following?.refresh();
    return true;
  } catch (error) {
    if (run !== state.run) return false;
    if (error.status === 404 || error.status === 401) gone(error.code);
    else if (state.session) expireLater();
    return false;
  }
}

// --- the address ----------------------------------------------------------------------------------------------------

function address(id) {
  return `${location.pathname}?s=${id}`;
}

/** Back to the slots. `notice`: why. */
function leave(notice = null) {
  if (location.search || location.hash) history.pushState(null, "", location.pathname);
  else if (history.state?.run) history.replaceState(null, "", location.pathname);
  enter();
  if (notice) api.set({ notice });
}

function open(id) {
  history.pushState({ run: true }, "", address(id));
  enter();
}

/** Shows the session in the address, else the slots. */
function enter() {
  reset();
  const hash = new URLSearchParams(location.hash.slice(1));
  const id = hash.get("session") ?? new URLSearchParams(location.search).get("s");
  const ticket = hash.get("ticket");
  if (id !== null && SESSION_ID.test(id)) {
    Object.assign(state, { phase: "following", shared: ticket !== null });
    onceLoaded(() => watch(id, { ticket }));
  } else if (id !== null) {
    gone("not_found");
  }
  render();
}

// --- rendering ------------------------------------------------------------------------------------------------------

function render() {
  const { phase, session } = state;
  const run = phase !== "idle";
  if (!run && $.choose.hidden) readMine();
  const focused = document.activeElement;
  show($.choose, !run);
  show($.run, run);
  attribute(document.body, "data-phase", phase);
  attribute(document.body, "data-status", session?.status ?? "");
  attribute(document.body, "data-moment", run ? (session?.status === "completed" ? "see" : "wait") : "choose");
  chip.render(api);
  choose.render(api);
  if (run) renderRun();
  else document.title = TITLE;
  emit("render");
  if (focused?.closest("[hidden]")) (run ? $.headline : $["choose-title"]).focus({ preventScroll: true });
}

function renderRun() {
  show($.shared, state.shared);
  renderLost();
  if (!shown) {
    if (!state.lost) load();
    return;
  }
  const words = shown.headline(api);
  text($.headline, words);
  const { title = "", text: cause = "" } = shown.trouble(api) ?? {};
  speak([title || words, cause].filter(Boolean).join(". "));
  document.title = `${words} · ${TITLE}`;
  shown.render(api);
}

function renderLost() {
  const { lost } = state;
  if (lost === shownLost) return;
  shownLost = lost;
  const focused = $.lost.contains(document.activeElement);
  card($.lost, lost && { ...lost, actions: [{ label: "Try again", run: lost.again }] });
  if (focused) ($.lost.querySelector("button") ?? $.headline).focus({ preventScroll: true });
}

/** Loads what a run shows: with the first picture that is chosen, so that nothing waits for it. Never rejects. */
function load() {
  loading ??= part("run").then(
    (module) => {
      shown = module;
      shown.mount(api);
      waiting?.();
      waiting = null;
      api.set({ lost: null });
    },
    () => {
      loading = null;
      if (state.phase !== "idle") api.set({ lost: { ...NOT_LOADED, again: loadAgain } });
    },
  );
  return loading;
}

/** Does what needs run.js, for this run alone; the page's sockets are wrapped there, before anything is followed. */
function onceLoaded(act) {
  if (shown) return act();
  waiting = act;
  load();
}

/** Where a module of run.js is what the browser remembers as missing, only a new page helps; its address has the session. */
async function loadAgain() {
  await load();
  if (shown || !(location.search || location.hash)) return;
  if (await tryon.limits().then(() => true, () => false)) location.reload();
}

async function use(name, act) {
  const module = await part(name).catch(() => null);
  const words = `${NOT_LOADED.title}. ${NOT_LOADED.text}`;
  if (module) {
    if (state.note?.text === words) api.set({ note: null });
    await act(module);
  } else if (state.phase === "idle") {
    api.set({ notice: NOT_LOADED });
  } else {
    remark(words, { bad: true });
  }
}

/** Shows this browser's try-ons; one that never made any loads and asks nothing. */
async function readMine() {
  let known = true;
  try {
    known = localStorage.getItem("tryon.token") !== null;
  } catch {
    // blocked: the token lives as long as the page
  }
  if (known) mine ??= await part("history").catch(() => null); // without it the page does all the rest
  mine?.read(api);
}

function speak(words) {
  if (words !== spoken) announce(words);
  spoken = words;
}

// --- wiring ---------------------------------------------------------------------------------------------------------

choose.mount(api);

for (const link of [$.home, $.own]) {
  link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    leave();
  });
}
addEventListener("popstate", enter); // also for a changed hash
addEventListener("online", () => {
  api.set({ online: true });
  if (!shown) state.lost?.again();
});
addEventListener("offline", () => api.set({ online: false }));
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && state.phase === "idle" && mine?.stale()) mine.read(api);
});
setInterval(() => shown?.tick(api), 250);

/** Asks for roles and limits; without an answer the server alone judges. */
function learn() {
  tryon.processor().then((processor) => api.set({ processor }), () => {});
  tryon.limits().then((limits) => api.set({ limits }), () => {});
}

enter();
readMine();
learn();
