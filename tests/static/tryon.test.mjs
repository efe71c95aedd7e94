import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { mock, test } from "node:test";
import { Problem, TryOn } from "../../static/tryon.js";

const BASE = "https://tryon.example";

/** A server's socket, as far as the client uses it. */
class Socket {
  static made = [];

  constructor(url) {
    this.url = url;
    Socket.made.push(this);
  }

  tell(frame) {
    this.onmessage({ data: JSON.stringify(frame) });
  }

  send() {}

  close() {}
}

const session = (news) => ({
  session_id: "id", seq: 1, status: "created", terminal: false, progress: null, attempt: 0, error: null, preview: null,
  inputs: [], outputs: [], links: { output: null }, ...news,
}); // prettier-ignore
const answer = (body, status = 200, headers = {}) => new Response(JSON.stringify(body), { status, headers });
const until = async (ready) => {
  while (!ready()) await new Promise((turn) => setImmediate(turn));
};
const connected = () => until(() => Socket.made.length);

function client(answers = [], options = {}) {
  const asked = [];
  const fetch = async (url, { method }) => {
    asked.push(`${method} ${url.pathname}`);
    const next = answers.shift();
    if (next instanceof Error) throw next;
    return next;
  };
  Socket.made = [];
  return { asked, tryon: new TryOn({ base: BASE, fetch, WebSocket: Socket, ...options }) };
}

/** Follows a session that the server has shown once; notes what is told. */
async function followed(first, answers = [], options = {}) {
  const told = { sessions: [], events: [], connections: [], gone: [] };
  const { tryon } = client(answers);
  const following = tryon.follow("id", {
    onSession: (news) => told.sessions.push(news),
    onEvent: ({ seq }) => told.events.push(seq),
    onConnection: (...news) => told.connections.push(news),
    onGone: (code) => told.gone.push(code),
    ...options,
  });
  await connected();
  const [socket] = Socket.made;
  const missed = Array.from({ length: first.seq }, (_, at) => ({ seq: at + 1 }));
  socket.tell({ type: "snapshot", at: "2026-01-01T00:00:00Z", ping_seconds: 25, session: first, missed });
  return { ...told, following, socket };
}

test("a run shows its session as soon as the photos have arrived", async () => {
  const shown = [];
  const stop = new AbortController();
  const { tryon } = client([answer(session(), 201)]);
  const run = tryon.run({ image: new Blob(["photo"]), onSession: ({ seq }) => shown.push(seq), signal: stop.signal });
  await until(() => run.session);
  assert.deepEqual(shown, [1]);
  assert.equal(run.session.session_id, "id");
  stop.abort();
  await assert.rejects(run, { name: "AbortError" });
});

test("a callback that throws ends no run", async () => {
  const reported = mock.method(console, "error", () => {});
  const { tryon } = client([answer(session(), 201)]);
  const onSession = () => {
    throw new RangeError("a fault of the page");
  };
  const run = tryon.run({ onSession });
  await connected();
  Socket.made[0].tell({ type: "snapshot", session: session({ terminal: true, status: "completed" }), missed: [{ seq: 1 }] });
  assert.equal((await run).status, "completed");
  assert.deepEqual(reported.mock.calls.map(({ arguments: [error] }) => error.name), ["RangeError", "RangeError"]);
  reported.mock.restore();
});

test("every problem has words to show", async () => {
  const { tryon } = client([new TypeError("cut"), new Response("<h1>Bad gateway", { status: 502 })]);
  for (const code of ["network", "unknown"]) {
    await assert.rejects(tryon.limits(), (problem) => problem.code === code && /^\w.*\.$/.test(problem.detail));
  }
  assert.match(new Problem({ code: "worker_lost" }).detail, /^\w.*\.$/);
  const { following, socket, gone } = await followed(session());
  socket.tell({ type: "bye", code: 4510, reason: "deleted" });
  await assert.rejects(following.done, { code: "deleted", detail: "The try-on is gone.", retryable: false });
  assert.deepEqual(gone, ["deleted"]);
});

test("a closed socket without a frame has the reason of its code", async () => {
  for (const [code, reason] of [[4501, "invalid_token"], [4504, "not_found"], [4510, "erased"], [4777, "closed_4777"]]) {
    const { tryon } = client();
    const following = tryon.follow("id");
    await connected();
    Socket.made[0].onclose({ code });
    await assert.rejects(following.done, { code: reason });
  }
});

test("a refresh that is ahead of the last event ends with it", async () => {
  const ended = session({ seq: 2, status: "completed", terminal: true });
  const { following, socket, events, connections } = await followed(session(), [answer(ended)]);
  await following.refresh();
  assert.equal(following.connection, "live", "its event is yet to come");
  socket.tell({ type: "event", seq: 2, status: "completed", terminal: true, data: {} });
  socket.onclose({ code: 1000 });
  assert.equal((await following.done).status, "completed");
  assert.deepEqual(events, [1, 2]);
  assert.deepEqual(connections.map(([connection]) => connection), ["connecting", "live", "finished"]);
});

test("a refresh brings links, and progress never back", async () => {
  const links = { output: "/fresh" };
  const late = session({ progress: 0.5, links, inputs: [{ link: "/fresh" }] });
  const { following, socket, sessions } = await followed(session({ progress: 0.5 }), [answer(late), answer(session({ seq: 0 }))]);
  const refreshed = following.refresh();
  socket.tell({ type: "progress", seq: 1, progress: 0.6 });
  assert.deepEqual([(await refreshed).progress, following.session.links, following.session.inputs], [0.6, links, [{ link: "/fresh" }]]);
  assert.equal((await following.refresh()).progress, 0.6, "an older session is dropped");
  assert.deepEqual(sessions.map(({ progress }) => progress), [0.5, 0.6, 0.6, 0.6]);
  following.close();
});

test("another transport is told, though it is as live", async () => {
  const { following, connections } = await followed(session());
  following.up({ rung: "ws", live: true });
  following.replace({ rung: "sse", abort: new AbortController() });
  following.up(following.link);
  following.up(following.link);
  assert.deepEqual(connections, [["connecting", null], ["live", "ws"], ["live", "sse"]]);
  following.close();
});

test("a pause before the next upload leaves neither timer nor listener", async () => {
  mock.method(Math, "random", () => 0.001);
  const busy = () => answer({ code: "queue_full", retryable: true }, 503);
  const stop = new AbortController();
  const { tryon } = client([busy(), busy(), answer(session({ terminal: true, status: "completed" }), 201)]);
  const run = tryon.run({ signal: stop.signal });
  await connected();
  assert.equal(getEventListeners(stop.signal, "abort").length, 1, "that of the following");
  stop.abort();
  await assert.rejects(run, { name: "AbortError" });

  const late = new AbortController();
  const { tryon: second, asked } = client([answer({ code: "queue_full", retryable: true }, 503, { "Retry-After": "4" })]);
  const waiting = second.run({ signal: late.signal });
  await until(() => getEventListeners(late.signal, "abort").length);
  late.abort();
  await assert.rejects(waiting, { name: "AbortError" });
  assert.deepEqual(asked, ["POST /api/tryon/sessions"]);
  assert.deepEqual(process.getActiveResourcesInfo().filter((name) => name === "Timeout"), []);
  mock.restoreAll();
});

test("history is read with the token, or with a ticket", async () => {
  const { tryon, asked } = client([answer({ events: [] }), answer({ events: [] })]);
  assert.deepEqual(await tryon.history("id"), { events: [] });
  assert.deepEqual(await tryon.history(session(), { ticket: "a.b" }), { events: [] });
  assert.deepEqual(asked, Array(2).fill("GET /api/tryon/sessions/id/history"));
});
