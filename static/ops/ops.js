/** The operator's page: follows the stream, and asks before it does anything. */

import { drawActions, drawState } from "./panels.js";
import { SessionTable } from "./sessions.js";
import { say } from "./values.js";

const SILENT_MS = 8000; // a state comes every second
const BACKOFF_MS = [500, 1000, 2000, 4000, 8000];
const ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

const byId = (id) => document.getElementById(id);
const table = new SessionTable(ask);
let actions = [];
let stream = null;
let failures = 0;
let silence = 0;

// --- the stream --------------------------------------------------------------------------------------------------------

const FRAMES = {
  overview(frame) {
    say(byId("operator"), frame.operator);
    table.reset(frame.sessions);
    actions = frame.actions;
    drawActions(actions);
    FRAMES.state(frame);
  },
  state({ state }) {
    table.move(state.now, state.places);
    drawState(state);
    trouble(state.troubles.join(" "));
  },
  sessions({ changed, gone }) {
    table.change(changed, gone);
  },
  actions({ actions: news }) {
    const ids = new Set(news.map((each) => each.id));
    actions = [...news, ...actions.filter((each) => !ids.has(each.id))].sort((a, b) => b.id - a.id).slice(0, 50);
    drawActions(actions);
  },
  bye() {
    lost();
  },
};

function connect() {
  stream = new EventSource("/ops/events");
  stream.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    failures = 0;
    clearTimeout(silence);
    silence = setTimeout(lost, SILENT_MS);
    if (frame.type !== "bye") connection("live", "Live");
    FRAMES[frame.type]?.(frame);
  };
  stream.onerror = lost;
  silence = setTimeout(lost, SILENT_MS);
}

async function lost() {
  if (stream === null) return;
  clearTimeout(silence);
  stream.close();
  stream = null;
  connection("reconnecting", "Reconnecting");
  const pause = BACKOFF_MS[Math.min(failures++, BACKOFF_MS.length - 1)];
  await new Promise((resolve) => setTimeout(resolve, pause * (0.75 + Math.random() / 2)));
  try {
    const answer = await fetch("/ops/api/overview", { cache: "no-store" });
    if (answer.status === 401 || answer.status === 404) return location.reload(); // the sign-in is over
  } catch {
    // no network, or no server: the stream tries again
  }
  connect();
}

function connection(state, text) {
  byId("chip").dataset.connection = state;
  say(byId("chip-text"), text);
  document.body.classList.toggle("stale", state !== "live");
}

function trouble(text) {
  const line = byId("trouble");
  line.hidden = !text;
  say(line, text);
}

// --- actions -----------------------------------------------------------------------------------------------------------

const QUESTIONS = {
  redrive: {
    title: () => "Get it going again?",
    text: ({ status }) =>
      status === "processing"
        ? "It is taken from its worker and waits for another one. The attempt does not count."
        : status === "created"
          ? "It is put into the queue again, at its old place."
          : "A new session runs over its own copy of the photos. It belongs to the same client, and is erased at the same time.",
    yes: "Re-drive",
  },
  cancel: {
    title: () => "Cancel this session?",
    text: ({ status }) => (status === "processing" ? "Its worker is asked to stop. Its client sees that it was cancelled." : "It leaves the queue. Its client sees that it was cancelled."),
    yes: "Cancel it",
  },
  erase: {
    title: () => "Erase it for good?",
    text: () => "Photos, results and every try-on made from the same photos are erased now. Its client is told that they were deleted. This cannot be undone.",
    yes: "Erase it",
    danger: true,
  },
};

async function ask(action, session) {
  const dialog = byId("confirm");
  const { title, text, yes, danger } = QUESTIONS[action];
  say(byId("confirm-title"), title(session));
  say(byId("confirm-text"), text(session));
  say(byId("confirm-id"), session.session_id);
  const button = byId("confirm-yes");
  say(button, yes);
  button.className = `button ${danger ? "danger" : "primary"}`;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue === "yes") await act(action, session.session_id);
}

async function act(action, id) {
  report(`${QUESTIONS[action].yes}: asked for ${id}…`);
  try {
    const answer = await fetch(`/ops/api/sessions/${encodeURIComponent(id)}/${action}`, { method: "POST" });
    const body = await answer.json();
    if (!answer.ok) return report(`Not done: ${body.detail ?? body.title}`, true);
    if (body.session) table.change([body.session], []);
    else table.remove(id);
    report(`Session ${id}: ${body.outcome}${body.new_session_id ? ` by ${body.new_session_id}` : ""}.`);
  } catch {
    report("No answer: look at the list of actions before you try again.", true);
  }
}

function report(text, bad = false) {
  const line = byId("said");
  line.classList.toggle("bad", bad);
  say(line, text);
}

// --- the search --------------------------------------------------------------------------------------------------------

byId("wanted").addEventListener("input", () => table.want(byId("wanted").value.trim()));
byId("search").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = byId("wanted").value.trim();
  if (table.want(text) || !ID.test(text)) return;
  try {
    const answer = await fetch(`/ops/api/sessions/${text}`, { cache: "no-store" });
    const body = await answer.json();
    if (answer.ok) table.show(body);
    else report(answer.status === 404 ? "No living session has this id." : body.detail, true);
  } catch {
    report("The search got no answer.", true);
  }
});

connect();
