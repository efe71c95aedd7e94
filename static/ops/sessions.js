/** The table of sessions: one row each, kept and changed in place, with its timeline and its actions. */

import { between, clock, duration, element, say, short } from "./values.js";

const WORDS = {
  created: "waiting",
  processing: "running",
  completed: "completed",
  failed: "failed",
  cancelled: "cancelled",
};
const ENDED = new Set(["completed", "failed", "cancelled"]);

/** Returns the parts of a session's life: what it did, for how many seconds, until `now` if it does it still. */
export function parts(row, now) {
  return row.steps.flatMap((step, at) => {
    if (ENDED.has(step.status)) return [];
    const end = row.steps[at + 1]?.at ?? row.finished_at ?? now;
    return [{ status: step.status, attempt: step.attempt, seconds: Math.max(0, between(step.at, end)) }];
  });
}

/** Returns the parts in words: "waited 0.4 s, ran 3.1 s". */
export function told(row, now) {
  const ended = ENDED.has(row.status);
  const all = parts(row, now);
  const words = all.map(({ status, seconds }, at) => {
    const over = ended || at < all.length - 1;
    const verb = status === "created" ? (over ? "waited" : "waits") : over ? "ran" : "runs";
    return `${verb} ${duration(seconds)}`;
  });
  return words.join(", ") || "–";
}

/** The table; `ask(action, row)` is called when an operator wants to do something. */
export class SessionTable {
  #body = document.getElementById("rows");
  #rows = new Map();
  #places = {};
  #now = new Date().toISOString();
  #filter = "all";
  #wanted = "";
  #found = null;
  #open = null;
  #ask;

  constructor(ask) {
    this.#ask = ask;
    for (const button of document.querySelectorAll(".filter")) {
      button.addEventListener("click", () => this.#choose(button.dataset.filter));
    }
  }

  /** Replaces all sessions. */
  reset(rows) {
    const ids = new Set(rows.map((row) => row.session_id));
    this.change(rows, [...this.#rows.keys()].filter((id) => !ids.has(id)));
  }

  /** Takes sessions that are new or have changed, and removes others. */
  change(rows, gone) {
    for (const id of gone) {
      if (id === this.#found) continue; // found by its id: it may be older than all that are listed
      this.#rows.get(id)?.forget();
      this.#rows.delete(id);
    }
    for (const row of rows) {
      const known = this.#rows.get(row.session_id);
      if (known) known.update(row);
      else this.#rows.set(row.session_id, new Row(row, { ask: this.#ask, open: (each) => this.#toggle(each) }));
    }
    this.#order();
    this.#draw();
  }

  /** Removes a session that an operator has erased, also one that was found by its id. */
  remove(id) {
    if (this.#found === id) this.#found = null;
    this.change([], [id]);
  }

  /** Moves what has no transition: ages, places, progress. */
  move(now, places) {
    this.#now = now;
    this.#places = places;
    this.#draw();
  }

  /** Shows the sessions whose id, request or worker contains a text. */
  want(text) {
    this.#wanted = text;
    this.#draw();
    return this.#shown().length;
  }

  /** Shows a session that was found by its id. */
  show(row) {
    this.#found = row.session_id;
    this.change([row], []);
  }

  get size() {
    return this.#rows.size;
  }

  #choose(filter) {
    this.#filter = filter;
    for (const button of document.querySelectorAll(".filter")) {
      button.setAttribute("aria-pressed", String(button.dataset.filter === filter));
    }
    this.#draw();
  }

  #toggle(row) {
    const before = this.#open;
    this.#open = before === row ? null : row;
    before?.fold(false);
    this.#open?.fold(true, this.#now);
  }

  #shown() {
    const wanted = this.#wanted.toLowerCase();
    return [...this.#rows.values()].filter(({ session }) => {
      if (this.#filter === "active" && ENDED.has(session.status)) return false;
      if (this.#filter === "failed" && session.status !== "failed") return false;
      return !wanted || [session.session_id, session.request_id, session.worker, session.error_code].some((text) => text?.toLowerCase().includes(wanted));
    });
  }

  #order() {
    const ids = [...this.#rows.keys()].sort().reverse();
    let next = this.#body.firstElementChild;
    for (const id of ids) {
      for (const line of this.#rows.get(id).lines) {
        if (line === next) next = next.nextElementSibling;
        else this.#body.insertBefore(line, next);
      }
    }
  }

  #draw() {
    const shown = new Set(this.#shown());
    for (const row of this.#rows.values()) row.draw(this.#now, this.#places[row.session.session_id], shown.has(row));
    say(document.getElementById("sessions-count"), shown.size === this.#rows.size ? String(shown.size) : `${shown.size} of ${this.#rows.size}`);
    const empty = document.getElementById("empty");
    empty.hidden = shown.size > 0;
    say(empty, this.#rows.size ? "No session fits." : "No session lives here now. The next upload appears at once.");
  }
}

class Row {
  #open;
  #cells = {};
  #details;
  #folded = true;

  constructor(session, { ask, open }) {
    this.session = session;
    this.#open = element("button", { type: "button", class: "id", "aria-expanded": "false", "aria-label": `Details of session ${session.session_id}`, title: session.session_id }, short(session.session_id));
    this.#open.addEventListener("click", () => open(this));
    const make = (name, classes) => (this.#cells[name] = element("td", { class: classes, "data-head": name }));
    const buttons = ["redrive", "cancel", "erase"].map((action) => {
      const button = element("button", { type: "button", class: `act ${action}`, "aria-label": `${VERBS[action]} session ${session.session_id}` }, VERBS[action]);
      button.addEventListener("click", () => ask(action, this.session));
      this.#cells[action] = button;
      return button;
    });
    this.#cells.bar = element("span", { class: "life", role: "img" });
    this.#cells.told = element("span", { class: "told", "aria-hidden": "true" });
    this.#cells.pill = element("span", { class: "pill" });
    const line = element(
      "tr", { class: "session" }, element("th", { scope: "row" }, this.#open), make("Status", "status"), make("Timeline", "timeline"),
      make("Where", "where"), make("Attempt", "number"), make("Age", "number"), element("td", { class: "acts" }, ...buttons),
    );
    this.#cells.Status.append(this.#cells.pill);
    this.#cells.Timeline.append(this.#cells.bar, this.#cells.told);
    this.#details = element("tr", { class: "details", hidden: true }, element("td", { colspan: "7" }));
    this.lines = [line, this.#details];
  }

  update(session) {
    this.session = session;
  }

  forget() {
    for (const line of this.lines) line.remove();
  }

  fold(open, now) {
    this.#folded = !open;
    this.#open.setAttribute("aria-expanded", String(open));
    if (now) this.#drawDetails(now);
    this.#details.hidden = this.#folded || this.lines[0].hidden;
  }

  draw(now, place, shown) {
    this.lines[0].hidden = !shown;
    this.#details.hidden = this.#folded || !shown;
    if (!shown) return;
    const { session } = this;
    const ended = ENDED.has(session.status);
    const pill = this.#cells.pill;
    pill.dataset.status = session.status;
    say(pill, session.cancel_requested && !ended ? "cancelling" : WORDS[session.status]);
    this.#drawLife(now);
    say(this.#cells.Where, where(session, place, now));
    this.#cells.Where.classList.toggle("bad", session.status === "failed");
    say(this.#cells.Attempt, session.burnt ? `${session.attempt} (${session.burnt} lost)` : String(session.attempt));
    say(this.#cells.Age, duration(between(session.created_at, now)));
    this.#cells.redrive.hidden = session.status === "completed";
    this.#cells.cancel.hidden = ended;
    if (!this.#folded) this.#drawDetails(now);
  }

  #drawLife(now) {
    const all = parts(this.session, now);
    const whole = all.reduce((sum, part) => sum + part.seconds, 0) || 1;
    const bar = this.#cells.bar;
    while (bar.children.length > all.length) bar.lastElementChild.remove();
    all.forEach((part, at) => {
      const span = bar.children[at] ?? bar.appendChild(element("span"));
      span.dataset.status = part.status;
      span.style.flexGrow = String(Math.max(part.seconds / whole, 0.02));
    });
    const text = told(this.session, now);
    if (bar.getAttribute("aria-label") !== text) bar.setAttribute("aria-label", text);
    bar.dataset.status = this.session.status;
    say(this.#cells.told, text);
  }

  #drawDetails(now) {
    const { session } = this;
    const facts = [
      ["Session", session.session_id], ["Request", session.request_id], ["Retry of", session.retry_of], ["Processor", session.processor],
      ["Worker", session.worker], ["Lease", session.lease_expires_at && `${duration(between(now, session.lease_expires_at))} left`],
      ["Deadline", ENDED.has(session.status) ? null : `in ${duration(between(now, session.deadline_at))}`], ["Seq", String(session.seq)],
    ];
    const steps = session.steps.map((step, at) => {
      const before = session.steps[at - 1];
      const after = before ? `+${duration(between(before.at, step.at))}` : "";
      const reason = step.reason ? ` (${step.reason})` : "";
      return element("li", {}, element("time", { datetime: step.at }, clock(step.at)), ` ${step.event}${reason} `, element("span", { class: "soft" }, after));
    });
    const key = JSON.stringify([facts, session.steps]);
    const cell = this.#details.firstElementChild;
    if (cell.dataset.drawn === key) return;
    cell.dataset.drawn = key;
    const list = element("dl", { class: "facts" });
    for (const [name, value] of facts) if (value) list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
    cell.replaceChildren(list, element("ol", { class: "steps", "aria-label": "Transitions" }, ...steps));
  }
}

const VERBS = { redrive: "Re-drive", cancel: "Cancel", erase: "Erase" };

/** Returns where a session is: its place in the queue, what its worker does, or why it failed. */
function where(session, place, now) {
  if (session.status === "failed") return session.error_code ?? "failed";
  if (session.status === "created") return place?.position ? `${place.position}. in the queue` : session.processor;
  if (session.status !== "processing") return session.processor;
  const share = place?.progress === null || place?.progress === undefined ? "" : `${Math.round(place.progress * 100)} %`;
  const lapsed = session.lease_expires_at && between(now, session.lease_expires_at) < 0 ? "lease lapsed" : "";
  return [share, place?.stage, lapsed].filter(Boolean).join(" · ") || session.processor;
}
