/**
 * Behind the scenes: what goes over the wire of this page, and switches that break it, so that anyone can watch it recover.
 *
 * A panel beside the page, opened from the connection chip. It shows the session on the screen alone, and draws while it is open,
 * once per painted frame at most.
 */

import * as code from "./code.js";
import { make, show, text } from "./dom.js";
import { OURS } from "./wires.js";

const ROWS = 60;
const ASK_MS = 5000; // between two measurements of the round trip, while the panel is open
const NAMES = { ws: "WebSocket", sse: "Event stream", "long-poll": "Long poll", poll: "Poll" };
const TABS = ["Wire", "Code"];
const ARROWS = { in: "↓", out: "↑", note: "·" };
const SAID = { in: "received", out: "sent", note: "note" };

/**
 * Sums up the frames, oldest first, as `{ seq, lastIn, lost, reconnects, recovery }`. `lost`: when the connection went, while it is
 * gone. `recovery`: the last one, `{ took, missed, via }`, in ms and events.
 */
export function story(frames) {
  const told = { seq: null, lastIn: null, lost: null, reconnects: 0, recovery: null };
  let over = false; // the session has ended: its connection closes for good
  const back = (at, via, missed) => {
    if (told.lost === null) return;
    told.recovery = { took: at - told.lost, missed, via };
    told.reconnects += 1;
    told.lost = null;
  };
  for (const { at, way, via, type, seq, text: words, body } of frames) {
    if (way === "in") {
      told.lastIn = at;
      if (seq !== null) told.seq = Math.max(told.seq ?? 0, seq);
      if (type === "snapshot") back(at, via, body.missed?.length ?? 0);
      if (type === "bye") over = body.reconnect === false;
      else over = false;
    } else if (type === "close" && words !== OURS && !over) {
      told.lost ??= at;
    } else if (type === "connection") {
      const [connection, transport] = words.split(", ");
      if (connection === "polling") back(at, transport, null);
      if (connection === "reconnecting" || connection === "offline") told.lost ??= at;
      if (connection === "finished") told.lost = null;
    }
  }
  return told;
}

/** Milliseconds from the server's word to this page, for a frame that has a time; `offset`: server's clock less `now()`, in ms. */
export function latency(frame, offset) {
  const sent = Date.parse(frame.body?.at ?? "");
  if (offset === null || frame.way !== "in" || Number.isNaN(sent)) return null;
  return Math.max(0, frame.at + offset - sent);
}

/** "9 ms", "0.4 s", "12 s" */
export function span(milliseconds) {
  if (milliseconds < 1) return "under 1 ms";
  if (milliseconds < 100) return `${Math.round(milliseconds)} ms`;
  return milliseconds < 9950 ? `${(milliseconds / 1000).toFixed(1)} s` : `${Math.round(milliseconds / 1000)} s`;
}

/** One line for a frame: what it is, and what it says. */
export function summary({ type, seq, text: words, body }) {
  const name = type ?? "frame";
  if (name === "event") return `event ${seq}: ${body.event}`;
  if (name === "snapshot") return `snapshot at ${seq}: ${body.session?.status}${body.missed?.length ? `, ${body.missed.length} missed` : ""}`;
  if (name === "progress") return ["progress", percent(body.progress), body.stage].filter(Boolean).join(" ");
  if (name === "bye") return `bye: ${body.reason}`;
  return [name, body ? "" : words].filter(Boolean).join(": ");
}

function percent(part) {
  return part == null ? "" : `${Math.round(part * 100)} %`;
}

/** Fills `root`, a panel that is hidden. Returns `{ open(opener), close(), toggle(opener), opened }`. */
export function mount(root, api) {
  const { wire, state } = api;
  const panel = build();
  root.replaceChildren(...panel.children);
  const snippets = code.mount(panel.code, api);
  let offset = null; // the server's clock less ours, as the quickest answer told it
  let trip = null;
  let best = Infinity;
  let drawing = false;
  let timer = 0;
  let opener = null;
  let drawn = { id: null, number: 0 }; // the session whose rows are there, and its last frame

  const handle = {
    get opened() {
      return !root.hidden;
    },
    open(from) {
      opener = from;
      show(root, true);
      opener.setAttribute("aria-expanded", "true");
      panel.title.focus({ preventScroll: true });
      measure();
      timer = setInterval(measure, ASK_MS);
      draw();
    },
    close() {
      clearInterval(timer);
      const inside = root.contains(document.activeElement);
      show(root, false);
      opener.setAttribute("aria-expanded", "false");
      const visible = (each) => each.offsetParent !== null;
      const next = visible(opener) ? opener : [...document.querySelectorAll("main h1")].find(visible);
      if (inside) next?.focus({ preventScroll: true });
    },
    toggle(from) {
      if (handle.opened) handle.close();
      else handle.open(from);
    },
  };

  async function measure() {
    if (document.visibilityState !== "visible") return;
    const answer = await wire.ask();
    trip = answer?.took ?? null;
    if (answer?.clock && answer.took <= best) {
      best = answer.took;
      offset = answer.clock - (performance.now() - answer.took / 2);
    }
    draw();
  }

  function draw() {
    if (drawing || root.hidden) return;
    drawing = true;
    requestAnimationFrame(() => {
      drawing = false;
      if (!root.hidden) render();
    });
  }

  function render() {
    const now = performance.now();
    const { session, id } = state;
    const frames = wire.frames.filter((frame) => frame.session === id);
    const told = story(frames);
    const last = frames.findLast((frame) => latency(frame, offset) !== null && frame.type !== "pong");
    const late = last ? latency(last, offset) : null;
    const seq = told.seq ?? session?.seq ?? null; // polls are noted without their bodies
    const counted = wire.counted(id);
    const { facts } = panel;
    text(facts.Transport, NAMES[state.transport] ?? "None at the moment");
    text(facts.Seq, seq === null ? "–" : `${seq}`);
    text(facts.Frames, `${counted.in} received, ${counted.out} sent`);
    text(facts["Round trip"], trip === null ? "No answer yet" : span(trip));
    text(facts.Delay, late === null ? "–" : span(late));
    text(facts["Last frame"], told.lastIn === null ? "–" : `${span(now - told.lastIn)} ago`);
    text(panel.recovery, recoveryWords(told, now));
    disable(panel.cut, !session || session.terminal);
    show(panel.kill, Boolean(state.limits?.demo) && !state.shared);
    disable(panel.kill, session?.status !== "processing");
    rows(frames, id);
    snippets.render();
  }

  function rows(frames, id) {
    const { list } = panel;
    if (id !== drawn.id) {
      drawn = { id, number: 0 };
      list.replaceChildren();
    }
    const fresh = frames.filter(({ number }) => number > drawn.number).slice(-ROWS);
    show(panel.empty, list.children.length + fresh.length === 0);
    if (fresh.length === 0) return;
    drawn.number = fresh.at(-1).number;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40; // else older ones are being read
    list.append(...fresh.map(row));
    while (list.children.length > ROWS) list.firstElementChild.remove();
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  wire.on(draw);
  api.on("render", draw);
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    handle.close();
  });
  panel.close.addEventListener("click", handle.close);
  act(panel.cut, () => {
    const cut = wire.cut();
    return cut > 0 ? "The connection is cut. Watch it come back." : "There is no open connection to cut: this page asks again and again.";
  });
  act(panel.refuse, () => {
    const yes = panel.refuse.getAttribute("aria-checked") !== "true";
    panel.refuse.setAttribute("aria-checked", String(yes));
    wire.refuse(yes);
    return yes ? "WebSockets are refused. The page finds another way." : "WebSockets may pass again. The page goes back to them within a minute.";
  });
  act(panel.kill, async () => {
    try {
      await api.tryon.request("POST", `/${state.id}/crash`);
    } catch (problem) {
      if (problem.status === 429) return "The worker was killed too often. Try again in a little while.";
      return problem.status === 0 ? "No answer came. Check your connection." : "The worker could not be killed. It may have finished.";
    }
    return "The worker is killed. Another one starts your try-on again.";
  });

  function act(button, deed) {
    button.addEventListener("click", async () => {
      if (button.getAttribute("aria-disabled") === "true") return;
      const words = await deed();
      text(panel.said, words);
      api.say(words);
      draw();
    });
  }

  return handle;
}

function recoveryWords({ lost, recovery, reconnects }, now) {
  if (lost !== null) return `Lost for ${span(now - lost)}. Connecting again.`;
  if (recovery === null) return "The connection has held so far.";
  const { took, missed, via } = recovery;
  const times = reconnects === 1 ? "" : `, ${reconnects} times so far`;
  const events = missed === null ? "" : missed === 0 ? " Nothing was missed." : ` ${missed} missed ${missed === 1 ? "event" : "events"} came along.`;
  return `Back after ${span(took)} over ${NAMES[via] ?? via}${times}.${events}`;
}

function disable(button, disabled) {
  const value = String(disabled);
  if (button.getAttribute("aria-disabled") !== value) button.setAttribute("aria-disabled", value);
}

function row(frame) {
  const time = new Date(performance.timeOrigin + frame.at).toISOString().slice(11, 23);
  const line = make(
    frame.body ? "summary" : "div",
    { className: "behind-line" },
    make("time", { textContent: time }),
    make("span", { className: "behind-way", textContent: ARROWS[frame.way], "aria-label": SAID[frame.way], role: "img" }),
    make("span", { className: "behind-words", textContent: summary(frame) }),
    make("span", { className: "behind-bytes", textContent: frame.bytes ? `${frame.bytes} B` : "" }),
  );
  if (!frame.body) return make("li", {}, line);
  const details = make("details", {}, line);
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) {
      details.append(make("pre", { textContent: JSON.stringify(frame.body, null, 2), tabIndex: 0, "aria-label": "Frame", role: "region" }));
    }
  });
  return make("li", {}, details);
}

function build() {
  const title = make("h2", { textContent: "Behind the scenes", tabIndex: -1, id: "behind-title" });
  const close = make("button", { type: "button", className: "behind-close", textContent: "Close" });
  const facts = {};
  const table = make("dl", { className: "behind-facts" });
  for (const name of ["Transport", "Seq", "Frames", "Round trip", "Delay", "Last frame"]) {
    facts[name] = make("dd", { textContent: "–" });
    table.append(make("div", {}, make("dt", { textContent: name }), facts[name]));
  }
  const button = (words, properties = {}) => make("button", { type: "button", className: "button behind-switch", textContent: words, ...properties });
  const cut = button("Cut the connection");
  const refuse = button("Refuse WebSockets", { role: "switch", "aria-checked": "false" });
  const kill = button("Kill the worker", { hidden: true });
  const said = make("p", { className: "behind-said" });
  const recovery = make("p", { className: "behind-recovery" });
  const empty = make("p", { className: "behind-empty", textContent: "No frame so far. Start a try-on and watch them come." });
  const list = make("ol", { className: "behind-list", "aria-label": "Frames, newest last", tabIndex: 0 });
  const live = make("div", {}, table, recovery, make("div", { className: "behind-switches" }, cut, refuse, kill), said, empty, list);
  const code = make("div", {});
  const bar = tablist([live, code]);
  const top = make("div", { className: "behind-top" }, title, close);
  return { children: [top, bar, live, code], title, close, facts, cut, refuse, kill, said, recovery, empty, list, code };
}

/** Tabs as the ARIA pattern has them: arrow keys move, one of them is in the tab order. */
function tablist(panels) {
  const bar = make("div", { className: "behind-tabs", role: "tablist", "aria-label": "Behind the scenes" });
  const choose = (chosen, focus = false) =>
    [...bar.children].forEach((tab, at) => {
      tab.setAttribute("aria-selected", String(at === chosen));
      tab.tabIndex = at === chosen ? 0 : -1;
      show(panels[at], at === chosen);
      if (at === chosen && focus) tab.focus();
    });
  panels.forEach((panel, at) => {
    const name = TABS[at];
    const id = `behind-${name.toLowerCase()}`;
    const tab = make("button", { type: "button", role: "tab", id: `${id}-tab`, textContent: name, "aria-controls": id });
    Object.assign(panel, { id, tabIndex: 0 });
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", () => choose(at));
    bar.append(tab);
  });
  bar.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    if (!(event.key in moves)) return;
    const at = [...bar.children].indexOf(document.activeElement);
    choose((at + moves[event.key] + panels.length) % panels.length, true);
    event.preventDefault();
  });
  choose(0);
  return bar;
}
