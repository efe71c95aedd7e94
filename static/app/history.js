/** My try-ons: this browser's last sessions. One that never made any asks nothing. */

import { Problem } from "../tryon.js";
import { $, age, instant, make, show } from "./dom.js";
import { moment, sessionHeadline } from "./words.js";

const MOST = 12;
const FRESH_MS = 240000; // the thumbnails' links

let readAt = { clock: -Infinity, wall: -Infinity };
let sessions = [];
let key = "";

export function mount(api) {
  api.on("render", () => api.state.phase === "idle" && render(api));
}

export function stale() {
  return age(readAt) > FRESH_MS;
}

export async function read(api) {
  if (!known() || age(readAt) < 1000) return;
  readAt = instant();
  try {
    ({ sessions } = await api.tryon.list({ limit: MOST }));
    render(api);
  } catch (error) {
    if (!(error instanceof Problem)) throw error; // no list is no harm
  }
}

function known() {
  try {
    return localStorage.getItem("tryon.token") !== null;
  } catch {
    return true; // blocked: the token lives as long as the page
  }
}

function render(api) {
  const alive = sessions.filter(({ expires_at }) => Date.parse(expires_at) > api.now());
  show($.mine, alive.length > 0);
  const now = JSON.stringify(alive.map(({ session_id, seq, links }) => [session_id, seq, links.input]));
  if (key === now) return;
  key = now;
  $["mine-list"].replaceChildren(...alive.map((session) => make("li", {}, thumbnail(session, api))));
}

function thumbnail(session, api) {
  const { status, links, session_id, created_at } = session;
  const picture = make("img", { src: links.output ?? links.input, alt: "", "aria-hidden": "true", loading: "lazy" });
  picture.addEventListener("error", () => picture.remove());
  const words = `${sessionHeadline(session)}, from ${moment(new Date(created_at), api.now())}`;
  const button = make("button", { type: "button", title: words, "aria-label": words, "data-status": status }, picture);
  button.addEventListener("click", () => api.act.open(session_id));
  return button;
}
