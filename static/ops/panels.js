/** Everything of the page but the sessions: tiles, workers, processors, failures, connections, chores, actions. */

import { between, clock, counted, duration, element, say, short, whole } from "./values.js";

const byId = (id) => document.getElementById(id);

/** Draws the state; `actions` are those of all operators, the newest first. */
export function drawState(state) {
  drawTiles(state);
  drawWorkers(state);
  drawProcessors(state);
  drawFailures(state);
  drawWebs(state);
  drawChores(state);
}

// --- tiles -------------------------------------------------------------------------------------------------------------

function drawTiles({ now, queue, workers, webs, failures }) {
  const living = workers.filter((worker) => worker.seen_seconds !== null);
  const sockets = total(webs);
  const open = Object.values(sockets).reduce((sum, each) => sum + each, 0);
  const failed = failures.reduce((sum, each) => sum + each.count, 0);
  const ways = Object.entries(sockets).map(([name, count]) => `${name} ${whole(count)}`);
  const old = queue.oldest_at ? between(queue.oldest_at, now) : 0;
  const tiles = [
    ["Waiting", whole(queue.waiting), queue.oldest_at ? `oldest ${duration(old)}` : "none waits", old > 60 ? "warn" : ""],
    ["Running", whole(queue.running), counted(living.reduce((sum, each) => sum + each.jobs, 0), "claim")],
    [
      "Queue", queue.jobs === null ? "–" : whole(queue.jobs), queue.jobs === null ? "Redis unavailable" : `of ${whole(queue.limit)} jobs`,
      queue.jobs === null || queue.jobs >= queue.limit ? "bad" : "",
    ],
    ["Workers", whole(living.length), living.length ? "seen in 10 s" : "none was seen", living.length ? "" : "bad"],
    ["Connections", whole(open), ways.join(" · ") || "none open"],
    ["Failed", whole(failed), "in the last hour", failed ? "warn" : ""],
  ];
  const list = byId("tiles");
  for (const [index, [name, number, more, tone = ""]] of tiles.entries()) {
    const tile = list.children[index] ?? list.appendChild(element("div", {}, element("dt"), element("dd"), element("dd", { class: "more" })));
    tile.dataset.tone = tone;
    const [term, value, detail] = tile.children;
    say(term, name);
    say(value, number);
    say(detail, more);
  }
}

function total(webs) {
  const sums = {};
  for (const { sockets } of webs) for (const [name, count] of Object.entries(sockets)) sums[name] = (sums[name] ?? 0) + count;
  return sums;
}

// --- tables ------------------------------------------------------------------------------------------------------------

/**
 * Draws rows of texts as a table, or a sentence where there are none. A cell is a text, or [text, title, class].
 * `heads`: texts; one that begins with "#" is above numbers.
 */
function table(target, label, heads, rows, nothing) {
  const key = JSON.stringify(rows);
  if (target.dataset.drawn === key) return;
  target.dataset.drawn = key;
  target.dataset.label = label;
  if (!rows.length) {
    target.replaceChildren(element("p", { class: "empty" }, nothing));
    fit(target);
    return;
  }
  const numeric = heads.map((head) => head.startsWith("#"));
  const head = heads.map((text, at) => element("th", { scope: "col", class: numeric[at] && "number" }, text.replace("#", "")));
  const body = rows.map((row) => {
    const cells = row.map((cell, at) => {
      const [text, title, tone] = Array.isArray(cell) ? cell : [cell];
      const classes = [numeric[at] && "number", tone].filter(Boolean).join(" ");
      return element(at ? "td" : "th", { scope: at ? null : "row", class: classes || null, title }, text);
    });
    return element("tr", {}, ...cells);
  });
  const made = element(
    "table", {}, element("caption", { class: "unseen" }, label), element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...body),
  );
  target.replaceChildren(made);
  fit(target);
}

/** Lets keys scroll a table that is wider than its place, and no other: each is one more stop on the way. */
function fit(target) {
  if (target.scrollWidth > target.clientWidth) {
    target.tabIndex = 0;
    target.setAttribute("role", "group");
    target.setAttribute("aria-label", target.dataset.label);
  } else {
    for (const name of ["tabindex", "role", "aria-label"]) target.removeAttribute(name);
  }
}

addEventListener("resize", () => document.querySelectorAll(".side [data-drawn]").forEach(fit));

/** Returns a worker's or a process's name without what is the same in all of them. */
function machine(name) {
  const [host, pid] = name.split(":");
  return pid ? `${host.length > 14 ? `${host.slice(0, 12)}…` : host}:${pid}` : name;
}

function drawWorkers({ now, workers }) {
  const rows = workers.map((worker) => [
    [machine(worker.worker), worker.worker],
    String(worker.jobs),
    [worker.processor ? `${worker.processor} ${worker.version ?? ""}`.trim() : "–"],
    worker.lease_expires_at ? duration(between(now, worker.lease_expires_at)) : "–",
    worker.seen_seconds === null ? ["not seen", null, "bad"] : [`${Math.round(worker.seen_seconds)} s ago`],
  ]);
  table(byId("workers"), "Workers", ["Worker", "#Jobs", "Processor", "#Lease", "#Seen"], rows, "No worker was seen. Sessions wait until one starts.");
}

const seconds = (value) => (value === null ? "–" : duration(value));

function drawProcessors({ processors, queue, sampled }) {
  const names = new Set([...processors.map((each) => each.processor), ...Object.keys(queue.by_processor)]);
  const known = Object.fromEntries(processors.map((each) => [each.processor, each]));
  const rows = [...names].map((name) => {
    const each = known[name] ?? { completed: 0, failed: 0, run_p50: null, run_p95: null, wait_p95: null };
    const ended = each.completed + each.failed;
    return [
      name, whole(queue.by_processor[name] ?? 0), `${whole(each.completed)}${sampled ? "+" : ""}`,
      [ended ? `${Math.round((100 * each.failed) / ended)} %` : "–", null, each.failed * 5 > ended ? "bad" : ""],
      seconds(each.wait_p95), seconds(each.run_p50), seconds(each.run_p95),
    ];
  });
  table(byId("processors"), "Processors", ["Processor", "#Wait", "#Done", "#Failed", "#Wait p95", "#Run p50", "#Run p95"], rows, "Nothing has run.");
}

function drawFailures({ failures }) {
  table(byId("failures"), "Failures by code", ["Code", "#Sessions"], failures.map(({ code, count }) => [code, whole(count)]), "None.");
}

function drawWebs({ webs }) {
  const ways = [...new Set(webs.flatMap(({ sockets }) => Object.keys(sockets)))].sort();
  const rows = webs.map(({ process, version, sockets, operators }) => [
    [machine(process), process], version, ...ways.map((way) => whole(sockets[way] ?? 0)), String(operators),
  ]);
  const heads = ["Process", "Version", ...ways.map((way) => `#${way}`), "#Operators"];
  table(byId("webs"), "Web processes", heads, rows, "None.");
}

function drawChores({ now, chores }) {
  const rows = chores.map(({ name, owner, expires_at }) => [name, [machine(owner), owner], duration(between(now, expires_at))]);
  table(byId("chores"), "Leases of chores", ["Chore", "Held by", "#Lease"], rows, "No process holds a chore.");
}

/** Draws the actions of all operators. */
export function drawActions(actions) {
  const rows = actions.map(({ at, operator, action, session, session_id, outcome, request_id }) => [
    [clock(at), at], operator, action, [session_id ? short(session_id) : `#${session}`, session_id ?? "Not listed any more"],
    [outcome, request_id ? `Request ${request_id}` : null],
  ]);
  table(byId("actions"), "Actions of operators", ["Time", "Operator", "Action", "Session", "Outcome"], rows, "Nothing yet.");
}
