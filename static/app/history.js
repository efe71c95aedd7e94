/** My try-ons: this browser's last sessions. Loaded by a browser that has made some; live while one of them runs and is seen. */

import { Problem } from "../tryon.js";
import { $, age, instant, make, show } from "./dom.js";
import { moment, sessionHeadline } from "./words.js";

const MOST = 12;
const FRESH_MS = 240000; // the thumbnails' links

let readAt = { clock: -Infinity, wall: -Infinity };
let sessions = [];
let key = "";
let mounted = false;
let watching = null; // all sessions, over one connection

export function stale() {
  return age(readAt) > FRESH_MS;
}

export async function read(api) {
  if (age(readAt) < 1000) return;
  if (!mounted) mount(api);
  mounted = true;
  readAt = instant();
  try {
    const listed = (await api.tryon.list({ limit: MOST })).sessions;
    const known = new Map(sessions.map((session) => [session.session_id, session])); // what was pushed meanwhile is newer
    sessions = listed.map((session) => (known.get(session.session_id)?.seq > session.seq ? known.get(session.session_id) : session));
    render(api);
    follow(api);
  } catch (error) {
    if (!(error instanceof Problem)) throw error; // no list is no harm
  }
}

function mount(api) {
  api.on("render", () => {
    if (api.state.phase === "idle") render(api);
    else if (watching) follow(api); // a run has a connection of its own
  });
  document.addEventListener("visibilitychange", () => follow(api));
}

/** Follows the sessions while one of them lives and the list is seen; the connection is closed otherwise. */
async function follow(api) {
  const wanted = () => api.state.phase === "idle" && document.visibilityState === "visible" && sessions.some(({ terminal }) => !terminal);
  if (!wanted()) {
    watching?.close();
    watching = null;
    return;
  }
  if (watching) return;
  const { watchAll } = await import("../tryon-watch.js").catch(() => ({})); // without it the list is as it was read
  if (!watchAll || watching || !wanted()) return;
  const onSession = (session) => {
    const at = sessions.findIndex(({ session_id }) => session_id === session.session_id);
    if (at < 0) sessions = [session, ...sessions].slice(0, MOST);
    else sessions[at] = session;
    if (api.state.phase === "idle") render(api);
  };
  const onEnded = (id, reason) => {
    if (["deleted", "expired", "erased"].includes(reason)) sessions = sessions.filter(({ session_id }) => session_id !== id);
    if (api.state.phase === "idle") render(api);
    follow(api);
  };
  watching = watchAll(api.tryon, { onSession, onEnded });
  watching.done.catch(() => {}); // closed, or refused: no list is no harm
}

function render(api) {
  const alive = sessions.filter(({ expires_at }) => Date.parse(expires_at) > api.now());
  show($.mine, alive.length > 0);
  const now = JSON.stringify(alive.map(({ session_id, seq, links }) => [session_id, seq, links.input]));
  if (key === now) return;
  key = now;
  const focused = $["mine-list"].contains(document.activeElement) ? document.activeElement.dataset.id : null;
  $["mine-list"].replaceChildren(...alive.map((session) => make("li", {}, thumbnail(session, api))));
  if (focused) $["mine-list"].querySelector(`[data-id="${focused}"]`)?.focus({ preventScroll: true });
}

function thumbnail(session, api) {
  const { status, links, session_id, created_at } = session;
  const picture = make("img", { src: links.output ?? links.input, alt: "", "aria-hidden": "true", loading: "lazy" });
  picture.addEventListener("error", () => picture.remove());
  const words = `${sessionHeadline(session)}, from ${moment(new Date(created_at), api.now())}`;
  const button = make("button", { type: "button", title: words, "aria-label": words, "data-status": status, "data-id": session_id }, picture);
  button.addEventListener("click", () => api.act.open(session_id));
  return button;
}
