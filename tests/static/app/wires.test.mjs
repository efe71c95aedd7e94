import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { wires } from "../../../static/app/wires.js";

class Close extends Event {
  constructor(name, { code = 0, reason = "" } = {}) {
    super(name);
    Object.assign(this, { code, reason });
  }
}

/** A browser's class of connections, as far as the client uses it. */
class Connection extends EventTarget {
  static made = [];
  readyState = 0;
  sent = [];

  constructor(url) {
    super();
    this.url = url;
    Connection.made.push(this);
    for (const name of ["open", "message", "close", "error"]) this.addEventListener(name, (event) => this[`on${name}`]?.(event));
  }

  open() {
    this.readyState = 1;
    this.dispatchEvent(new Event("open"));
  }

  tell(frame) {
    this.dispatchEvent(Object.assign(new Event("message"), { data: JSON.stringify(frame) }));
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.readyState = 3;
  }
}

function host(fetch = async () => new Response("{}")) {
  Connection.made = [];
  const made = { WebSocket: Connection, CloseEvent: Close, fetch, location: { href: "http://x/" } };
  return Object.assign(made, { setTimeout: (...a) => setTimeout(...a), clearTimeout: (...a) => clearTimeout(...a) });
}

const EVENTS = "/api/tryon/sessions/1/events";
const SOCKET = "ws://x/api/tryon/sessions/1/ws";

/** A page whose server answers with an event stream that the test writes; `asked`: the options of the requests. */
function streaming() {
  let controller;
  const asked = [];
  const fetch = async (url, init) => {
    asked.push(init);
    const body = new ReadableStream({ start: (given) => (controller = given) });
    init.signal?.addEventListener("abort", () => controller.error(init.signal.reason));
    return new Response(body, { headers: { "Content-Type": "text/event-stream; charset=utf-8" } });
  };
  return { page: host(fetch), asked, write: (text) => controller.enqueue(new TextEncoder().encode(text)), close: () => controller.close() };
}

const words = (wire) => wire.frames.map(({ way, via, type, seq, text, body }) => [way, via, type, seq, body ? "" : text].join(" ").trim());

test("every frame is noted, in both directions", () => {
  const page = host();
  const wire = wires(page);
  const socket = new page.WebSocket(SOCKET);
  socket.open();
  socket.tell({ type: "snapshot", session: { seq: 2 } });
  socket.send(JSON.stringify({ type: "sync", since: 2 }));
  socket.tell({ type: "event", seq: 3 });
  assert.deepEqual(words(wire), ["note ws open", "in ws snapshot 2", "out ws sync", "in ws event 3"]);
  assert.deepEqual(wire.counted("1"), { in: 2, out: 1 });
  assert.deepEqual(wire.frames.map(({ number, session }) => [number, session]), [1, 2, 3, 4].map((at) => [at, "1"]));
  assert.equal(wire.frames[3].bytes, 24);
});

test("only the last 200 frames are kept", () => {
  const page = host();
  const wire = wires(page);
  const socket = new page.WebSocket(SOCKET);
  for (let seq = 1; seq <= 300; seq += 1) socket.tell({ type: "event", seq });
  assert.deepEqual([wire.frames.length, wire.frames[0].seq, wire.counted("1").in], [200, 101, 300]);
});

test("a cut is a loss that the client learns of at once", () => {
  const page = host();
  const wire = wires(page);
  const lost = [];
  const socket = new page.WebSocket(SOCKET);
  socket.onclose = ({ code }) => lost.push(code);
  assert.equal(wire.cut(), 1);
  assert.deepEqual(lost, [1006]);
  socket.tell({ type: "event", seq: 9 });
  assert.deepEqual(words(wire), ["note ws close  cut"], "and nothing comes after it");
  assert.equal(wire.cut(), 0);
});

test("refused sockets cannot be opened", () => {
  const page = host();
  const wire = wires(page);
  const lost = [];
  new page.WebSocket(SOCKET).onclose = ({ code }) => lost.push(code);
  wire.refuse(true);
  assert.deepEqual(lost, [1006]);
  assert.throws(() => new page.WebSocket(SOCKET), /refused by a switch/);
  wire.refuse(false);
  assert.ok(new page.WebSocket(SOCKET));
});

test("a page that closes a socket has not lost it", () => {
  const page = host();
  const wire = wires(page);
  new page.WebSocket(SOCKET).close();
  assert.deepEqual(words(wire), ["note ws close  closed by the page"]);
});

test("an erased session is forgotten, and no other", () => {
  const page = host();
  const wire = wires(page);
  for (const id of ["1", "2"]) new page.WebSocket(SOCKET.replace("/1/", `/${id}/`)).tell({ type: "event", seq: 1 });
  wire.mark("connection", "live, ws", "1");
  wire.forget("1");
  assert.deepEqual(wire.frames.map(({ session }) => session), ["2"]);
  assert.deepEqual([wire.counted("1"), wire.counted("2")], [{ in: 0, out: 0 }, { in: 1, out: 0 }]);
});

test("what opens something is masked, and the client gets it whole", () => {
  const page = host();
  const wire = wires(page);
  const socket = new page.WebSocket(SOCKET);
  const got = [];
  socket.onmessage = ({ data }) => got.push(JSON.parse(data));
  const links = { output: "/api/tryon/files/outputs/1.jpg?expires=1&key=k&signature=SECRET", ws: "wss://x/ws?since=2&ticket=a.SECRET" };
  const frame = { type: "snapshot", seq: 2, client_token: "SECRET", session: { links, status: "completed" } };
  socket.tell(frame);
  socket.send(JSON.stringify({ type: "sync", link: "/x?token=SECRET#y" }));
  assert.deepEqual(got, [frame]);
  const noted = JSON.stringify(wire.frames);
  assert.ok(!noted.includes("SECRET"), noted);
  assert.ok(noted.includes("expires=1&key=k&signature=•••") && noted.includes("completed"), noted);
});

test("the frames of an event stream are noted, however they are cut into pieces", async () => {
  const { page, write, close } = streaming();
  const wire = wires(page);
  const response = await page.fetch(EVENTS);
  write('retry: 1000\n\nid: 2\ndata: {"type":"snap');
  write('shot","session":{"seq":2}}\n\ndata: {"type":"event","seq":3}\n\n');
  close();
  assert.match(await response.text(), /^retry: 1000\n\nid: 2\ndata: {"type":"snapshot"/);
  assert.deepEqual(words(wire), ["note sse open", "in sse snapshot 2", "in sse event 3", "note sse close  ended"]);
});

test("a stream that is cut fails its reader, and refusing sockets leaves it alone", async () => {
  const { page, write } = streaming();
  const wire = wires(page);
  const reader = (await page.fetch(EVENTS)).body.getReader();
  write("data: {}\n\n");
  await reader.read();
  wire.refuse(true);
  assert.equal(wire.cut(), 1);
  await assert.rejects(reader.read());
  assert.deepEqual(words(wire).at(-1), "note sse close  cut");
});

test("a stream that the page aborts is closed by the page", async () => {
  const { page } = streaming();
  const wire = wires(page);
  const abort = new AbortController();
  const reader = (await page.fetch(EVENTS, { signal: abort.signal })).body.getReader();
  abort.abort();
  await assert.rejects(reader.read());
  assert.deepEqual(words(wire).at(-1), "note sse close  closed by the page");
});

test("a poll is noted with its answer, and can be cut while it waits", async () => {
  const page = host((_, { signal } = {}) => new Promise((resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason))));
  const wire = wires(page);
  const poll = page.fetch("/api/tryon/sessions/1?wait=25");
  assert.equal(wire.cut(), 1);
  await assert.rejects(poll);
  const answered = host(async () => new Response("{}"));
  const other = wires(answered, { now: () => 7 });
  await answered.fetch("/api/tryon/sessions/1");
  await answered.fetch("/api/tryon/sessions/1/cancel", { method: "POST" });
  await answered.fetch("/api/tryon/processor");
  await answered.fetch("/api/tryon/sessions/1/history");
  assert.deepEqual(words(other), ["in http poll  200 after 0 ms"]);
  const away = host(async () => new Response("", { status: 502 }));
  const third = wires(away, { now: () => 7 });
  await away.fetch("/api/tryon/sessions/1");
  assert.deepEqual(words(third), ["note http poll  502 after 0 ms"], "the server did not answer this");
});

test("many polls with one signal leave no listener behind", async () => {
  const page = host(async () => new Response("{}"));
  wires(page);
  const { signal } = new AbortController();
  let listening = 0;
  const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)];
  signal.addEventListener = (...a) => ((listening += 1), add(...a));
  signal.removeEventListener = (...a) => ((listening -= 1), remove(...a));
  for (let polls = 0; polls < 3; polls += 1) await page.fetch("/api/tryon/sessions/1", { signal });
  assert.equal(listening, 0);
});

test("a question goes over the open socket and gives the server's clock", async () => {
  const page = host();
  let time = 100;
  const wire = wires(page, { now: () => time });
  const socket = new page.WebSocket(SOCKET);
  socket.open();
  const asked = wire.ask();
  time += 12;
  socket.tell({ type: "progress", stage: "ping pong" });
  socket.tell({ type: "pong", at: "2026-11-22T09:00:00.000Z" });
  assert.deepEqual(await asked, { took: 12, clock: Date.parse("2026-11-22T09:00:00Z") });
  assert.deepEqual(socket.sent, [{ type: "ping" }]);
});

test("a question without an answer is null after 3 s, or when its socket is lost", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const page = host();
  const wire = wires(page);
  new page.WebSocket(SOCKET).open();
  const asked = wire.ask();
  mock.timers.tick(2999);
  assert.equal(await Promise.race([asked, Promise.resolve("open")]), "open");
  mock.timers.tick(1);
  assert.equal(await asked, null);
  const again = wire.ask();
  wire.cut();
  assert.equal(await again, null);
  mock.timers.reset();
});

test("without a socket it is a small request", async () => {
  const urls = [];
  const page = host(async (url) => (urls.push(url), new Response("{}")));
  assert.equal((await wires(page, { now: () => 5 }).ask()).took, 0);
  assert.deepEqual(urls, ["/api/health/live"]);
  assert.equal(await wires(host(async () => Promise.reject(new TypeError()))).ask(), null);
});
