import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { TryOn } from "../../static/tryon.js";
import { watchAll } from "../../static/tryon-watch.js";

const ONE = "0199c9e0-acf8-7007-878f-496442666c6e";
const TWO = "0199c9e0-acf8-7007-878f-496442666c6f";

/** A server's socket, as far as the client uses it. */
class Socket {
  static made = [];
  sent = [];

  constructor(url) {
    this.url = url;
    Socket.made.push(this);
  }

  tell(frame) {
    this.onmessage({ data: JSON.stringify(frame) });
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {}
}

const until = async (ready) => {
  while (!ready()) await new Promise((turn) => setImmediate(turn));
};
const event = (session_id, seq, news) => ({ type: "event", session_id, seq, status: "processing", terminal: false, data: {}, ...news });
const snapshot = (session_id, seq, missed = [], news = {}) => ({
  type: "snapshot", ping_seconds: 25, missed: missed.map((at) => event(session_id, at)),
  session: { session_id, seq, status: "created", terminal: false, links: {}, outputs: [], ...news },
}); // prettier-ignore
const END = { status: "completed", terminal: true };

/** Watches over a socket that the test plays; notes what is told. */
async function watched(options = {}) {
  const told = { events: [], seqs: [], ends: [], connections: [] };
  Socket.made = [];
  const tryon = new TryOn({ base: "https://tryon.example", token: "t".repeat(22), WebSocket: Socket });
  const watching = watchAll(tryon, {
    transports: ["ws"],
    onEvent: ({ session_id, seq }) => told.events.push([session_id, seq]),
    onSession: ({ session_id, seq }) => told.seqs.push([session_id, seq]),
    onEnded: (...news) => told.ends.push(news),
    onConnection: (connection) => told.connections.push(connection),
    ...options,
  });
  await until(() => Socket.made.length);
  return { ...told, watching, socket: Socket.made[0] };
}

test("a connection without sessions is live, and asks for everything", async () => {
  const { watching, socket, connections } = await watched();
  assert.equal(`${socket.url}`, "wss://tryon.example/api/tryon/ws?since=0");
  socket.tell({ type: "synced", sessions: 0, more: false, ping_seconds: 25 });
  assert.deepEqual([connections, watching.sessions], [["connecting", "live"], []]);
  watching.close();
});

test("a lost connection comes back with a seq for each living session and the newest", async () => {
  mock.method(Math, "random", () => 0);
  const { watching, socket, events, ends } = await watched();
  socket.tell(snapshot(TWO, 1, [1]));
  socket.tell(snapshot(ONE, 2, [1, 2]));
  assert.deepEqual(watching.sessions.map(({ session_id }) => session_id), [ONE, TWO]);
  socket.tell(event(TWO, 2, END));
  socket.tell({ type: "ended", session_id: TWO, reason: "completed" });
  socket.onclose({ code: 1006 });
  await until(() => Socket.made.length > 1);
  const since = "AZnJ4Kz4cAeHj0lkQmZsbg.2~AZnJ4Kz4cAeHj0lkQmZsbw.2"; // the newest also after its end
  assert.equal(Socket.made[1].url.searchParams.get("since"), since);
  Socket.made[1].tell(snapshot(ONE, 3, [3], END));
  Socket.made[1].tell({ type: "ended", session_id: ONE, reason: "completed" });
  assert.deepEqual(events, [[TWO, 1], [ONE, 1], [ONE, 2], [TWO, 2], [ONE, 3]]);
  assert.deepEqual(ends, [[TWO, "completed"], [ONE, "completed"]]);
  watching.close();
  mock.restoreAll();
});

test("a hole is filled by a snapshot of all sessions, also when the session has ended", async () => {
  const { watching, socket, events, seqs, ends } = await watched();
  socket.tell(snapshot(ONE, 1, [1]));
  socket.tell(snapshot(TWO, 1, [1]));
  socket.tell(event(ONE, 3, END));
  socket.tell({ type: "ended", session_id: ONE, reason: "completed" });
  assert.deepEqual(ends, [], "events of it are missing");
  await until(() => socket.sent.length);
  assert.deepEqual(socket.sent, [{ type: "sync", since: { [ONE]: 1, [TWO]: 1 } }]);
  socket.tell(snapshot(ONE, 3, [2, 3], END));
  socket.tell({ type: "ended", session_id: ONE, reason: "completed" });
  assert.deepEqual(events, [[ONE, 1], [TWO, 1], [ONE, 2], [ONE, 3]]);
  assert.deepEqual(seqs.filter(([id]) => id === ONE), [[ONE, 1], [ONE, 3]]);
  assert.deepEqual(ends, [[ONE, "completed"]]);
  watching.close();
});

test("an event of a session that was never shown makes it ask", async () => {
  const { watching, socket, events } = await watched();
  socket.tell({ type: "synced", sessions: 0, more: false, ping_seconds: 25 });
  socket.tell(event(ONE, 2));
  await until(() => socket.sent.length);
  assert.deepEqual([socket.sent, events], [[{ type: "sync", since: {} }], []]);
  watching.close();
});

test("an erased session has ended, and a callback that throws stops nothing", async () => {
  const reported = mock.method(console, "error", () => {});
  const onEnded = () => {
    throw new RangeError("a fault of the page");
  };
  const { watching, socket, events } = await watched({ onEnded });
  socket.tell(snapshot(ONE, 1, [1]));
  socket.tell({ type: "ended", session_id: ONE, reason: "deleted" });
  socket.tell(event(ONE, 2));
  assert.deepEqual([watching.sessions, events], [[], [[ONE, 1]]]);
  assert.deepEqual(reported.mock.calls.map(({ arguments: [error] }) => error.name), ["RangeError"]);
  watching.close();
  mock.restoreAll();
});

test("a refusal ends it with its reason", async () => {
  const gone = [];
  const { watching, socket } = await watched({ onGone: (code) => gone.push(code) });
  socket.tell({ type: "bye", code: 4501, reason: "token_required" });
  await assert.rejects(watching.done, { code: "token_required", retryable: false });
  assert.deepEqual([gone, watching.connection], [["token_required"], "finished"]);
});

/** Watches over polls; `answer(path)` returns a session or a list, null for a 404, and undefined for an answer that never comes. */
function polled(answer) {
  const told = { ends: [], seqs: [], asked: [] };
  const fetch = async (url) => {
    const { pathname, search } = new URL(url);
    told.asked.push(pathname.split("/").at(-1) + search);
    const body = answer(pathname);
    if (body === undefined) return new Promise(() => {});
    const status = body === null ? 404 : 200;
    return new Response(JSON.stringify(body ?? { code: "not_found", status }), { status, headers: { "Content-Type": "application/json" } });
  };
  const watching = watchAll(new TryOn({ base: "https://tryon.example", token: "t".repeat(22), fetch }), {
    transports: ["poll"],
    onSession: ({ session_id, seq }) => told.seqs.push([session_id, seq]),
    onEnded: (...news) => told.ends.push(news),
  });
  return { ...told, watching };
}

test("over polls a session that was never shown has no end", async () => {
  const { session } = snapshot(TWO, 1);
  const listed = { sessions: [{ ...session, session_id: ONE }, session] };
  const { watching, ends, seqs, asked } = polled((path) => (path.endsWith(ONE) ? null : path.endsWith(TWO) ? { ...session, missed: [] } : listed));
  await until(() => seqs.length);
  watching.close();
  assert.deepEqual([ends, seqs], [[], [[TWO, 1]]]);
  assert.ok(asked.some((each) => each.startsWith(ONE)), "it was asked for");
  assert.deepEqual(watching.sessions.map(({ session_id }) => session_id), [TWO]);
});

test("over polls a session that begins and ends between two is shown, and none that ended before", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { session: older } = snapshot(ONE, 3, [], END);
  const { session: newer } = snapshot(TWO, 2, [], END);
  let listed = [older];
  const answer = (path) => (path.endsWith(TWO) ? { ...newer, missed: [event(TWO, 1), event(TWO, 2, END)] } : { sessions: listed });
  const { watching, ends, seqs, asked } = polled(answer);
  const turn = async () => {
    mock.timers.tick(3000);
    await new Promise((next) => setImmediate(next));
  };
  while (asked.length < 2) await turn();
  listed = [newer, older];
  while (!ends.length) await turn();
  const count = asked.length;
  while (asked.length < count + 2) await turn();
  watching.close();
  assert.deepEqual([seqs, ends], [[[TWO, 2]], [[TWO, "completed"]]]);
  mock.timers.reset();
});
