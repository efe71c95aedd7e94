/** Wait: one line beneath the photo, a thin bar; and what went wrong, if it did. */

import { $, attribute, clock, show, text } from "./dom.js";
import { trouble } from "./troubles.js";
import { duration, interruptedWords, moment, range, remaining, sessionHeadline } from "./words.js";

const FREEZE_MS = 3000; // a time to the end that is older than this is not counted down
const LATE = { factor: 1.5, seconds: 5 }; // over what was expected at first
const UNKNOWN_SECONDS = 60; // expected where nothing is known
const COUNTED_SECONDS = 100; // a longer wait is a time of day
const LATE_WORDS = "Taking longer than usual. You can close this page.";

let expected = { key: "", at: 0, seconds: 0 }; // of the state that the session is in

export function mount(api) {
  const { act, state } = api;
  $.again.addEventListener("click", () => $.again.getAttribute("aria-disabled") !== "true" && act.again());
  $.stop.addEventListener("click", () => (state.phase === "uploading" ? act.abort() : act.cancel()));
  $.new.addEventListener("click", () => act.another($.new.dataset.role || firstRole(state)));
}

function firstRole({ processor }) {
  return processor?.roles[0]?.name ?? "person";
}

/** "photo", "garment", "shoes picture" */
function called(role, state) {
  if (role === firstRole(state)) return "photo";
  return role === "garment" ? role : `${role.replaceAll("_", " ")} picture`;
}

export function headline(api) {
  const { state } = api;
  const wrong = trouble(api);
  if (wrong) return wrong.title;
  if (state.phase === "uploading") return state.sent < 1 ? "Uploading your photo" : "Checking your photo";
  const { session } = state;
  if (!session) return "Looking for your try\u2011on";
  return !session.terminal && interrupted(state) ? interruptedWords(session, state.limits) : sessionHeadline(session);
}

function interrupted({ interruptedUntil, session }) {
  return clock() < interruptedUntil || (session.status === "created" && session.attempt > 0);
}

/** The part of the bar that is full, or null where it is unknown. */
function part({ phase, session, sent, interruptedUntil }) {
  if (phase === "uploading") return sent;
  if (session?.status !== "processing" || clock() < interruptedUntil) return null;
  return session.progress;
}

export function render(api) {
  const { state } = api;
  const { phase, session, shared } = state;
  const wrong = trouble(api);
  const ended = Boolean(session?.terminal);
  const troubled = wrong !== null || session?.status === "cancelled";
  attribute($.under, "data-kind", wrong && phase !== "gone" ? "problem" : "");
  text($.message, wrong?.text ?? "");
  show($.message, Boolean(wrong?.text));
  text($.reference, wrong?.fine ?? "");
  show($.reference, Boolean(wrong?.fine));
  note($.note, state, "headline");

  const full = part(state);
  show($.bar, !(ended || phase === "gone" || phase === "refused"));
  $.bar.classList.toggle("unknown", full === null);
  const percent = full === null ? null : Math.round(full * 100);
  if ($.bar.dataset.part !== String(full)) {
    $.bar.dataset.part = String(full);
    $.bar.firstElementChild.style.setProperty("--part", full ?? 0);
    attribute($.bar, "aria-valuenow", percent);
  }
  attribute($.bar, "aria-valuetext", percent === null ? headline(api) : `${percent} %`);

  const running = phase === "following" && session !== null && !ended && !shared;
  show($.stop, phase === "uploading" || running);
  text($.stop, phase === "uploading" ? "Cancel upload" : state.cancelling ? "Cancelling" : "Cancel");
  attribute($.stop, "aria-disabled", running && state.cancelling);

  const mayRun = !shared && (phase === "refused" || (phase === "following" && ended));
  const again = mayRun && troubled && (wrong?.retryable ?? true);
  show($.again, again);
  show($.new, !shared && (mayRun || phase === "gone"));
  const role = troubled ? (wrong?.part ?? firstRole(state)) : firstRole(state);
  attribute($.new, "data-role", role);
  text($.new, troubled && phase !== "gone" ? `Choose another ${called(role, state)}` : "New photo");
  $.new.classList.toggle("primary", phase === "gone" ? state.receipt === null : troubled && !again);
  countdown(state);
  tick(api);
}

export function note(element, state, beside) {
  const found = state.note?.beside === beside ? state.note : null;
  show(element, found !== null);
  text(element, found?.text ?? "");
  element.classList.toggle("bad", found?.bad ?? false);
}

function countdown({ phase, retryAt }) {
  const left = Math.ceil((retryAt - clock()) / 1000);
  const waiting = phase === "refused" && left > 0;
  attribute($.again, "aria-disabled", waiting); // stays in the tab order, unlike `disabled`
  text($.again, waiting ? againWords(left, Date.now()) : "Try again");
}

/** "Try again in 12 s", "Try again today at 17:05"; `left` in s, `now` in ms. */
export function againWords(left, now) {
  return left < COUNTED_SECONDS ? `Try again in ${left} s` : `Try again ${moment(new Date(now + left * 1000), now)}`;
}

/** The time beside the headline. */
export function tick(api) {
  const { state } = api;
  if (state.phase === "refused") countdown(state);
  text($["meta-time"], timeWords(api));
}

/** Returns the time left or taken, or why none is said. */
export function timeWords({ state }) {
  const { phase, session, processor } = state;
  if (phase !== "following" || !session) return "";
  const begun = Date.parse(session.created_at);
  if (session.terminal) {
    const took = duration(Date.parse(session.updated_at) - begun);
    return session.status === "completed" ? `in ${took}` : `after ${took}`;
  }
  if (!state.online) return "You are offline. It goes on without you.";
  if (late(session, processor, clock())) return LATE_WORDS;
  if (interrupted(state) || session.eta_seconds == null) return "";
  if (session.status === "created") return `usually ${range(session.eta_seconds, processor?.typical_seconds ?? session.eta_seconds / 3)}`;
  const since = Math.min(clock() - state.heardAt.clock, FREEZE_MS);
  const left = session.eta_seconds - since / 1000;
  return remaining(left, session.progress);
}

/** Returns whether a session takes longer than was expected when it came into its state. `now`: by clock(). */
export function late(session, processor, now) {
  const { status, attempt, eta_seconds } = session;
  const key = `${session.session_id} ${status} ${attempt}`;
  const guess = eta_seconds ?? processor?.typical_seconds ?? null;
  if (expected.key !== key) expected = { key, at: now, seconds: guess };
  expected.seconds ??= guess;
  const seconds = expected.seconds ?? UNKNOWN_SECONDS;
  return now - expected.at > 1000 * Math.max(seconds * LATE.factor, seconds + LATE.seconds);
}
