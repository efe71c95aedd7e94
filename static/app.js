/**
 * The demo page: one state object, one `render()`; everything that happens changes the state and renders again.
 *
 * Views: `start` (drop zones) and `run` (one session). Phases of a run: uploading -> following -> (ended), or refused
 * (the upload was, or the retry), or gone (the session is). `#session=<id>&ticket=<ticket>` shows a session made elsewhere,
 * read-only.
 */

import { announcer } from "./announcer.js";
import { noPictureWords, onArrive, onChoose, surelyNoPicture } from "./photos.js";
import { Problem, TryOn, randomText } from "./tryon.js";
import { CONNECTIONS, duration, failureWords, fromNow, goneWords, kilobytes, moment, problemWords, receiptWords, sentence, sessionHeadline } from "./words.js";

const TITLE = document.title;
const LINK_FRESH_MS = 120000; // links live 300 s by default; older than that, a download asks for a new one first
const IMAGE_TRIES = 3;
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const MINE_FRESH_MS = 240000; // the thumbnails' links
const MINE = 5;
const PHOTO_GONE = "The photo is no longer there. Please choose it again.";
const SESSION_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** localStorage, or memory where it is blocked. */
const storage = {
  memory: new Map(),
  get(name) {
    try {
      return localStorage.getItem(name);
    } catch {
      return this.memory.get(name) ?? null;
    }
  },
  set(name, value) {
    try {
      if (value === null) localStorage.removeItem(name);
      else localStorage.setItem(name, value);
    } catch {
      this.memory.set(name, value);
    }
  },
};

const $ = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const [stepCreated, stepProcessing, stepEnd] = $.steps.children;
const tryon = new TryOn();
const announce = announcer($.announcer);

const NEVER = { clock: -Infinity, wall: -Infinity };

const fresh = () => ({
  phase: "idle", // idle, uploading, following, refused, gone
  image: null, // File or Blob, while we have it
  imageUrl: null, // blob: URL of it
  noPreview: false, // the browser cannot show it; the server's copy may do
  sent: 0, // part of the upload, 0..1
  session: null,
  sessionAt: NEVER, // when it was last heard of
  connection: "connecting",
  shared: false, // made elsewhere, read-only
  problem: null, // { title, text, fine }: why the upload was refused or the session is gone
  retryable: true,
  retryAt: 0, // by clock(): not before
  times: {}, // ms after creation at which a step was reached, as far as it was seen
  note: null, // { text, bad, beside }: something to know, under the headline or beside a button below
  cancelling: false,
  deleting: false,
  goneMeanwhile: null, // the code, while an answer to the deletion is due
  receipt: null,
});

let state = fresh();
let notice = null; // shown above the drop zones
let garment = null; // File; stays for further photos
let garmentUrl = null;
let following = null;
let upload = null; // AbortController
let idempotencyKey = null; // of the upload that may be repeated
let expiryTimer = 0;
let spoken = ""; // the headline that was announced last
let mine = { at: NEVER, sessions: [] }; // this browser's last sessions, and when they were read

// --- actions ------------------------------------------------------------------------------------------------------

function reset() {
  following?.close();
  following = null;
  upload?.abort();
  upload = null;
  clearTimeout(expiryTimer);
  if (state.imageUrl) URL.revokeObjectURL(state.imageUrl);
  for (const image of [$.photo, $.garment, $.veil, $.result]) clearImage(image);
  state = fresh();
  notice = null;
  spoken = "";
}

function busy() {
  return state.phase === "uploading" || (state.phase === "following" && !state.session?.terminal);
}

/** Whether a photo may be added: one at a time, and none to another person's session. */
function accepts() {
  return !busy() && !state.shared;
}

/** Takes a picture that was chosen, dropped, pasted or photographed. */
function arrive(file, kind, others = 0) {
  if (!accepts()) return;
  if (surelyNoPicture(file)) {
    complain(noPictureWords(file));
    return;
  }
  if (kind === "garment") {
    setGarment(file);
    idempotencyKey = randomText();
  }
  if (kind === "garment" && state.phase === "idle") {
    notice = null;
    announce("Garment added. Now add your photo.");
    render();
  } else if (kind === "garment") {
    withGarment();
  } else {
    begin(file);
    if (others > 0) remark(`One photo at a time: “${file.name}” was taken.`);
  }
}

/** Says above the drop zones why nothing was taken. */
function complain(text) {
  if (state.phase !== "idle") startOver();
  notice = text;
  render();
}

/** Says something on the screen and to screen readers: under the headline, or `beside` the button "erase". */
function remark(text, { bad = false, beside = "headline" } = {}) {
  state.note = { text, bad, beside };
  announce(text);
  render();
}

function setGarment(file) {
  if (garmentUrl) URL.revokeObjectURL(garmentUrl);
  garment = file;
  garmentUrl = file ? URL.createObjectURL(file) : null;
}

/** Uploads the photo (with the garment, if any) and follows the session it becomes. `from`: a session that has the photo. */
function begin(image, from = null) {
  leaveHash();
  reset();
  idempotencyKey = randomText();
  state.image = image;
  state.from = from;
  state.imageUrl = URL.createObjectURL(image);
  send();
}

async function send() {
  const asked = state;
  Object.assign(state, { phase: "uploading", sent: 0, problem: null, retryAt: 0 });
  upload = new AbortController();
  render();
  const onProgress = (part) => {
    asked.sent = part;
    render();
  };
  try {
    const { image, from } = state;
    const session = await tryon.upload(from ? null : image, { garment, from, idempotencyKey, signal: upload.signal, onProgress });
    if (asked !== state) return;
    storage.set("tryon.session", session.session_id);
    watch(session);
  } catch (error) {
    if (asked !== state) return;
    if (error.name === "AbortError") startOver();
    else if (error.code === "not_found" && state.from) {
      state.from = null; // erased meanwhile: the photo itself is still here
      send();
    } else if (error instanceof Problem) refused(error);
    else throw error;
  }
}

function refused(problem) {
  const words = problemWords(problem);
  if (problem.code !== "network") idempotencyKey = randomText(); // only an upload without an answer is the same again
  state.phase = "refused";
  state.problem = { ...words, fine: problem.status >= 500 && problem.requestId ? `Reference: ${problem.requestId}` : "" };
  state.retryable = problem.retryable;
  state.retryAt = problem.retryAfter === null ? 0 : clock() + problem.retryAfter * 1000;
  render();
}

/** Follows a session, or the session of that id. */
function watch(session, { ticket = null } = {}) {
  state.phase = "following";
  if (typeof session === "object") heard(session);
  following = tryon.follow(session, {
    ticket,
    onSession: (news) => {
      heard(news);
      render();
    },
    onConnection: (connection) => {
      state.connection = connection;
      render();
    },
    onGone: (code) => {
      if (state.deleting) state.goneMeanwhile = code; // the receipt is on its way
      else gone(code);
    },
  });
  render();
}

function heard(session) {
  const before = state.session;
  state.session = session;
  state.sessionAt = instant();
  if (session.terminal && !before?.terminal) state.note = null;
  if (!before || before.seq !== session.seq || !(session.status in state.times)) {
    const step = session.terminal ? "end" : session.status;
    if (step !== "processing" || before?.status === "created") {
      state.times[step] = Date.parse(session.updated_at) - Date.parse(session.created_at);
    }
  }
  clearTimeout(expiryTimer);
  const left = Date.parse(session.expires_at) - serverNow();
  expiryTimer = setTimeout(refreshLinks, Math.min(Math.max(left, 0) + 6000, LONGEST_TIMER_MS));
}

function gone(code) {
  const { shared } = state;
  reset();
  if (!shared) storage.set("tryon.session", null);
  if (code === "not_found" && !shared) {
    render(); // a kept session that is no longer there is no reason to bother anyone
    return;
  }
  Object.assign(state, { phase: "gone", shared, problem: goneWords(code), connection: "finished" });
  render();
}

/** Retries: a refused upload is sent again; a failed or cancelled session needs no new upload. */
async function again() {
  if (busy()) return;
  if (state.phase === "refused" && !state.session) {
    send();
    return;
  }
  const asked = state;
  try {
    const session = await tryon.retry(state.session.session_id);
    if (asked !== state) return;
    const { image, imageUrl } = state;
    state.imageUrl = null; // it lives on
    reset();
    Object.assign(state, { image, imageUrl });
    storage.set("tryon.session", session.session_id);
    watch(session);
  } catch (error) {
    if (asked !== state) return;
    if (!(error instanceof Problem)) throw error;
    if (error.status === 404) startOver(PHOTO_GONE);
    else refused(error);
  }
}

/** The same photo with another garment: the file we still have, else the one the server has. */
async function withGarment() {
  const asked = state;
  const from = state.session?.session_id;
  let { image } = state;
  try {
    image ??= await fetchImage("input");
  } catch {
    if (asked === state) startOver(PHOTO_GONE);
    return;
  }
  if (asked === state) begin(image, from);
}

async function cancel() {
  const asked = state;
  if (state.cancelling) return;
  Object.assign(state, { cancelling: true, note: null });
  render();
  try {
    await tryon.cancel(state.session.session_id); // that it has happened is pushed, as everything else
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (asked !== state) return;
    state.cancelling = false;
    remark(failureWords("cancel", error), { bad: true });
  }
}

/** Erases the session now and shows the receipt. */
async function erase() {
  const asked = state;
  if (state.deleting) return;
  Object.assign(state, { deleting: true, note: null });
  render();
  try {
    const receipt = await tryon.remove(state.session.session_id);
    if (asked !== state) return;
    reset();
    storage.set("tryon.session", null);
    Object.assign(state, { phase: "gone", receipt, problem: receiptWords(receipt), connection: "finished" });
    render();
  } catch (error) {
    if (asked !== state) return;
    if (!(error instanceof Problem)) throw error;
    state.deleting = false;
    if (error.status === 404 || state.goneMeanwhile) gone(state.goneMeanwhile ?? "erased"); // erased, by an answer that was lost
    else remark(failureWords("erase", error), { bad: true, beside: "erase" });
  }
}

function saveReceipt() {
  const blob = new Blob([JSON.stringify(state.receipt, null, 2)], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `receipt-${state.receipt.session_id.slice(-6)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

async function fetchImage(name) {
  const session = await following.refresh();
  const response = await fetch(session.links[name], { credentials: "omit" });
  if (!response.ok) throw new Error(`no ${name}`);
  const blob = await response.blob();
  return new File([blob], name, { type: blob.type });
}

function startOver(text = null) {
  leaveHash();
  reset();
  storage.set("tryon.session", null);
  notice = text;
  render();
}

/** Links expire. New ones come with the session, read again; a session that is gone says so. */
async function refreshLinks() {
  const asked = state;
  try {
    await following?.refresh();
  } catch (error) {
    if (asked === state && (error.status === 404 || error.status === 401)) gone(error.code);
  }
}

// --- where we are ---------------------------------------------------------------------------------------------------

function leaveHash() {
  if (location.hash) history.pushState(null, "", location.pathname);
}

/** Shows the session in the address, else this browser's last session, else the drop zones. */
function enter() {
  reset();
  const hash = new URLSearchParams(location.hash.slice(1));
  const id = hash.get("session");
  const ticket = hash.get("ticket");
  const kept = storage.get("tryon.session");
  if (id !== null) {
    state.shared = ticket !== null;
    if (!SESSION_ID.test(id)) {
      state.shared = true;
      gone("not_found");
      return;
    }
    watch(id, { ticket });
  } else if (SESSION_ID.test(kept ?? "")) {
    watch(kept);
  }
  render();
}

/** This browser's last sessions, below the drop zones. One that never made any asks nothing. */
async function readMine() {
  if (storage.get("tryon.token") === null || age(mine.at) < 1000) return;
  mine.at = instant();
  try {
    mine.sessions = (await tryon.list({ limit: MINE })).sessions;
    if (state.phase === "idle") renderMine();
  } catch (error) {
    if (!(error instanceof Problem)) throw error; // no list is no harm
  }
}

function open(session) {
  reset();
  storage.set("tryon.session", session.session_id);
  watch(session.session_id);
}

// --- rendering -----------------------------------------------------------------------------------------------------

function announceHeadline(text) {
  if (text !== spoken) announce(text);
  spoken = text;
}

/** Milliseconds of a clock that cannot be set; in a sleep it may stand still. */
function clock() {
  return performance.now();
}

function instant() {
  return { clock: clock(), wall: Date.now() };
}

/** Milliseconds since an instant by the clock that went further: one may have stood still, the other been set back. */
function age(then) {
  return Math.max(clock() - then.clock, Date.now() - then.wall);
}

/** The server's clock; before anything was followed, this device's as it was when the page was opened. */
function serverNow() {
  return following?.now() ?? performance.timeOrigin + clock();
}

function render() {
  const { phase } = state;
  const run = phase !== "idle";
  if (!run && $.start.hidden) readMine();
  const focused = document.activeElement;
  $.start.hidden = run;
  $.run.hidden = !run;
  document.body.dataset.phase = phase;
  document.body.dataset.status = state.session?.status ?? "";
  if (run) renderRun();
  else renderStart();
  renderKeeps();
  if (focused?.closest("[hidden]")) (run ? $.headline : $["photo-input"]).focus({ preventScroll: true });
}

function renderStart() {
  document.title = TITLE;
  $.notice.hidden = notice === null;
  $.notice.textContent = notice ?? "";
  $["garment-zone"].classList.toggle("filled", garment !== null);
  $["garment-remove"].hidden = garment === null;
  $["garment-preview"].hidden = garment === null;
  if (garmentUrl) $["garment-preview"].src = garmentUrl;
  else $["garment-preview"].removeAttribute("src");
  $["garment-hint"].textContent = garment ? "Added. Now add your photo." : "Optional. Add it before your photo.";
  renderMine();
}

function renderMine() {
  const alive = mine.sessions.filter(({ expires_at }) => Date.parse(expires_at) > serverNow());
  $.mine.hidden = alive.length === 0;
  const key = JSON.stringify(alive.map(({ session_id, seq, links }) => [session_id, seq, links.input]));
  if ($["mine-list"].dataset.key === key) return;
  $["mine-list"].dataset.key = key;
  $["mine-list"].replaceChildren(
    ...alive.map((session) => {
      const picture = Object.assign(new Image(), { src: session.links.output ?? session.links.input, alt: "" });
      picture.setAttribute("aria-hidden", "true");
      picture.addEventListener("error", () => picture.remove());
      const words = `${sessionHeadline(session)}, from ${moment(new Date(session.created_at), serverNow())}`;
      const button = Object.assign(document.createElement("button"), { type: "button", title: words });
      button.setAttribute("aria-label", words);
      button.dataset.status = session.status;
      button.append(picture);
      button.addEventListener("click", () => open(session));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
}

function headline() {
  if (state.problem) return state.problem.title;
  if (state.phase === "uploading") return "Uploading your photo";
  return state.session ? sessionHeadline(state.session) : "Looking for your session";
}

function renderRun() {
  const { phase, session, shared } = state;
  const text = headline();
  const ended = Boolean(session?.terminal);
  $.headline.textContent = text;
  const message = state.problem?.text ?? (session?.status === "failed" ? session.error?.message : null) ?? "";
  announceHeadline(message ? `${text}. ${message}` : text);
  $.message.textContent = message;
  $.message.hidden = !message;
  renderNote($.note, "headline");
  $.reference.textContent = state.problem?.fine ?? "";
  $.reference.hidden = !state.problem?.fine;
  document.title = `${text} · ${TITLE}`;
  $.shared.hidden = !shared;

  const chip = phase === "following" ? state.connection : null;
  $.chip.hidden = chip === null;
  if (chip) {
    $.chip.dataset.connection = chip;
    [$["chip-text"].textContent, $.chip.title] = CONNECTIONS[chip];
  }

  renderSteps();
  renderBar();
  renderTimes();
  renderPictures();

  const canRun = !shared && (phase === "refused" || (phase === "following" && ended));
  const failed = session?.status === "failed" || session?.status === "cancelled";
  const retryable = phase === "refused" ? state.retryable : failed && (session.error?.retryable ?? true);
  $.again.hidden = !(canRun && retryable);
  renderCountdown();
  const running = phase === "following" && session !== null && !ended && !shared;
  $.stop.hidden = !(phase === "uploading" || running);
  $.stop.textContent = phase === "uploading" ? "Cancel upload" : state.cancelling ? "Cancelling" : "Cancel";
  $.stop.setAttribute("aria-disabled", String(running && state.cancelling));
  renderReceipt();
  $.new.hidden = !(canRun || (phase === "gone" && !shared));
  $.new.textContent = phase === "refused" || failed ? "Choose another photo" : "New photo";
  $.new.classList.toggle("primary", canRun && !retryable && session?.status !== "completed");
  $["with-garment"].hidden = !(canRun && session?.status === "completed" && !session.links.garment);
  const output = session?.status === "completed" ? session.links.output : null;
  $.download.hidden = !output;
  if (output) {
    $.download.href = output;
    $.download.download = `try-on-${session.session_id.slice(-6)}${extension(output)}`;
  } else {
    $.download.removeAttribute("href");
  }
}

function renderNote(element, beside) {
  const note = state.note?.beside === beside ? state.note : null;
  element.hidden = note === null;
  element.textContent = note?.text ?? "";
  element.classList.toggle("bad", note?.bad ?? false);
}

function extension(link) {
  return /\.[a-z0-9]{2,5}$/.exec(new URL(link, location.href).pathname)?.[0] ?? "";
}

function renderReceipt() {
  const { receipt } = state;
  $.receipt.hidden = $["save-receipt"].hidden = receipt === null;
  if (receipt === null || $.receipt.dataset.signature === receipt.signature) return;
  $.receipt.dataset.signature = receipt.signature;
  const row = (...cells) => {
    const line = document.createElement("li");
    line.append(...cells.map(([tag, text]) => Object.assign(document.createElement(tag), { textContent: text })));
    return line;
  };
  const names = { person: "Photo", garment: "Garment", result: "Result" };
  const { files, key_id, signature } = receipt;
  $["receipt-files"].replaceChildren(
    ...files.map((file) => row(["span", names[file.role] ?? sentence(file.role)], ["span", kilobytes(file.bytes)], ["code", file.sha256])),
    row(["span", "Signed"], ["span", key_id], ["code", signature]),
  );
}

const END_NAMES = { failed: "Failed", cancelled: "Cancelled" };

function renderSteps() {
  const { session } = state;
  const status = session?.status ?? null;
  const seen = { created: status !== null, processing: status === "processing" || (session?.terminal && session.attempt > 0), end: session?.terminal };
  const current = session?.terminal ? "end" : status;
  for (const step of [stepCreated, stepProcessing, stepEnd]) {
    const name = step.dataset.step;
    step.classList.toggle("done", Boolean(seen[name]) && name !== current);
    step.classList.toggle("now", name === current);
    if (name === current) step.setAttribute("aria-current", "step");
    else step.removeAttribute("aria-current");
    const time = name === "created" ? 0 : state.times[name];
    step.querySelector(".step-time").textContent = seen[name] && time > 0 ? duration(time) : "";
  }
  stepEnd.querySelector(".step-name").textContent = END_NAMES[status] ?? "Completed";
  $.steps.dataset.end = session?.terminal ? status : "";
}

function renderBar() {
  const { phase, session } = state;
  let part = null;
  if (phase === "uploading") part = state.sent;
  else if (session?.terminal) part = session.status === "completed" ? 1 : session.progress ?? 0;
  else if (session?.status === "processing") part = session.progress;
  const percent = part === null ? null : Math.round(part * 100);
  $.bar.hidden = phase === "gone" || phase === "refused" || Boolean(session?.terminal);
  $.bar.classList.toggle("unknown", part === null);
  $.bar.classList.toggle("upload", phase === "uploading");
  $.bar.style.setProperty("--part", part ?? 0);
  if (percent === null) {
    $.bar.removeAttribute("aria-valuenow");
    $.bar.setAttribute("aria-valuetext", headline());
  } else {
    $.bar.setAttribute("aria-valuenow", percent);
    $.bar.setAttribute("aria-valuetext", `${percent} %`);
  }
  $["meta-percent"].textContent = percent === null || $.bar.hidden ? "" : `${percent} %`;
}

function renderTimes() {
  const { phase, session } = state;
  let text = "";
  if (phase === "following" && session) {
    if (session.terminal) {
      const took = duration(Date.parse(session.updated_at) - Date.parse(session.created_at));
      text = session.status === "completed" ? `Done in ${took}` : `Ended after ${took}`;
    } else {
      text = duration(serverNow() - Date.parse(session.created_at));
      if (session.eta_seconds != null) {
        const left = session.eta_seconds - (clock() - state.sessionAt.clock) / 1000;
        text += left >= 1 ? ` · about ${duration(Math.ceil(left) * 1000).replace(".0", "")} left` : " · almost there";
      }
      if (session.attempt > 1) text += ` · attempt ${session.attempt}`;
    }
  } else if (phase === "uploading" && state.sent >= 1) {
    text = "Checking the photo";
  }
  $["meta-time"].textContent = text;
}

function renderCountdown() {
  const left = Math.ceil((state.retryAt - clock()) / 1000);
  const waiting = state.phase === "refused" && left > 0;
  $.again.setAttribute("aria-disabled", String(waiting)); // stays in the tab order, unlike `disabled`
  $.again.textContent = waiting ? `Try again in ${left} s` : "Try again";
}

function renderPictures() {
  const { phase, session } = state;
  $.pictures.hidden = phase === "gone" || (phase === "following" && !session);
  const input = (state.noPreview && session?.links.input) || (state.imageUrl ?? session?.links.input ?? null);
  show($.photo, input);
  show($.veil, phase === "uploading" || (session && session.status !== "completed") ? input : null);
  show($.garment, (!state.shared && state.image && garmentUrl) || session?.links.garment || null);
  const completed = session?.status === "completed";
  show($.result, completed ? session.links.output : null);
  const trouble = phase === "refused" || session?.status === "failed" || session?.status === "cancelled";
  $.trouble.toggleAttribute("hidden", !trouble); // an SVG element has no `hidden` property
  $["result-frame"].classList.toggle("working", busy());
  $["result-caption"].textContent = completed ? "Result" : trouble ? "No result" : "Result, in a moment";
}

/** Shows a picture by a signed link or blob URL; a link whose path is shown already is left alone: only its signature is new. */
function show(image, url) {
  if (!url) {
    if (image.dataset.path) clearImage(image);
    return;
  }
  const path = url.split("?")[0];
  if (image.dataset.path === path && image.dataset.stale !== "true") return;
  if (image.dataset.path !== path) image.dataset.tries = "0";
  image.dataset.path = path;
  image.dataset.stale = "false";
  image.src = url;
}

function clearImage(image) {
  image.hidden = true;
  image.classList.remove("ready");
  image.removeAttribute("src");
  for (const name of ["path", "stale", "tries"]) delete image.dataset[name];
  if (image === $.photo) $["photo-missing"].hidden = true;
}

for (const image of [$.photo, $.garment, $.veil, $.result]) {
  image.addEventListener("load", () => {
    image.hidden = false;
    requestAnimationFrame(() => image.classList.add("ready"));
    if (image === $.photo) {
      $["photo-missing"].hidden = true;
      const shape = image.naturalWidth / image.naturalHeight; // both frames take the photo's shape, within reason
      $.pictures.style.setProperty("--shape", Math.min(Math.max(shape, 0.62), 1.6));
    }
  });
  image.addEventListener("error", () => {
    image.hidden = true;
    const local = image.dataset.path?.startsWith("blob:");
    const tries = Number(image.dataset.tries) + 1;
    image.dataset.tries = tries;
    if (image === $.photo) {
      $["photo-missing"].hidden = false;
      $["photo-missing"].textContent = local ? `No preview: ${state.image?.name ?? "photo"}` : "The photo could not be loaded";
    }
    if (local && image === $.photo) {
      state.noPreview = true;
      render();
    }
    if (local || image === $.veil || !image.dataset.path || tries > IMAGE_TRIES) return;
    image.dataset.stale = "true";
    setTimeout(refreshLinks, 1000 * (tries - 1));
  });
}

function renderKeeps() {
  const { session } = state;
  const until = session && state.phase === "following" ? new Date(session.expires_at) : null;
  const left = until ? until - serverNow() : 0;
  $.erase.hidden = until === null || state.shared || left <= 0;
  $.erase.setAttribute("aria-disabled", String(state.deleting)); // stays in the tab order, unlike `disabled`
  $.erase.textContent = state.deleting ? "Deleting" : "Delete now";
  renderNote($["erase-note"], "erase");
  let text = "Your photo is erased automatically. Nothing of it stays.";
  if (until && left > 0) {
    text = `${state.shared ? "This photo" : "Your photo"} and the result are erased ${moment(until, serverNow())}, ${fromNow(left)}.`;
  } else if (until) {
    text = "The time of this photo is over; it is being erased.";
  }
  if ($.keeps.textContent !== text) $.keeps.textContent = text;
}

// --- wiring ---------------------------------------------------------------------------------------------------------

onChoose($["photo-input"], (file) => arrive(file, "photo"));
onChoose($["garment-input"], (file) => arrive(file, "garment"));
onChoose($["with-garment-input"], (file) => arrive(file, "garment"));
onArrive({
  zones: new Map([
    [$["photo-zone"], "photo"],
    [$["garment-zone"], "garment"],
    [$["with-garment"], "garment"],
  ]),
  fallback: "photo",
  curtain: $.curtain,
  accepts,
  onFile: arrive,
  onWords: complain,
});
$["garment-remove"].addEventListener("click", () => {
  setGarment(null);
  render();
  $["garment-input"].focus();
});
$.again.addEventListener("click", () => {
  if ($.again.getAttribute("aria-disabled") !== "true") again();
});
$.stop.addEventListener("click", () => (state.phase === "uploading" ? upload?.abort() : cancel()));
$.erase.addEventListener("click", () => state.deleting || $["erase-dialog"].showModal());
$["erase-dialog"].addEventListener("close", () => {
  const sure = $["erase-dialog"].returnValue === "yes";
  $["erase-dialog"].returnValue = "";
  if (sure && state.session && state.phase === "following") erase();
});
$["save-receipt"].addEventListener("click", saveReceipt);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && state.phase === "idle" && age(mine.at) > MINE_FRESH_MS) readMine();
});
$.new.addEventListener("click", () => startOver());
for (const link of [$.home, $.own]) {
  link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    if (state.shared) {
      leaveHash();
      enter();
    } else if (!busy()) {
      startOver();
    }
  });
}
$.download.addEventListener("click", async (event) => {
  if (age(state.sessionAt) < LINK_FRESH_MS) return;
  event.preventDefault();
  await refreshLinks();
  if (!$.download.hidden && age(state.sessionAt) < LINK_FRESH_MS) $.download.click();
  else remark(failureWords("download", {}), { bad: true });
});
addEventListener("hashchange", enter);
setInterval(() => {
  if (state.phase === "following" && !state.session?.terminal) renderTimes();
  if (state.phase === "refused") renderCountdown();
  renderKeeps();
}, 250);

enter();
readMine();
