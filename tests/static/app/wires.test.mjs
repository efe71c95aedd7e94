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
  const socket = new page.WebSocket("ws://x/ws");
  socket.open();
  socket.tell({ type: "snapshot", session: { seq: 2 } });
  socket.send(JSON.stringify({ type: "sync", since: 2 }));
  socket.tell({ type: "event", seq: 3 });
  assert.deepEqual(words(wire), ["note ws open", "in ws snapshot 2", "out ws sync", "in ws event 3"]);
  assert.deepEqual(wire.counted, { in: 2, out: 1 });
  assert.equal(wire.frames[3].bytes, 24);
});

test("only the last 200 frames are kept", () => {
  const page = host();
  const wire = wires(page);
  const socket = new page.WebSocket("ws://x/ws");
  for (let seq = 1; seq <= 300; seq += 1) socket.tell({ type: "event", seq });
  assert.deepEqual([wire.frames.length, wire.frames[0].seq, wire.counted.in], [200, 101, 300]);
});

test("a cut is a loss that the client learns of at once", () => {
  const page = host();
  const wire = wires(page);
  const lost = [];
  const socket = new page.WebSocket("ws://x/ws");
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
  new page.WebSocket("ws://x/ws").onclose = ({ code }) => lost.push(code);
  wire.refuse(true);
  assert.deepEqual(lost, [1006]);
  assert.throws(() => new page.WebSocket("ws://x/ws"), /refused by a switch/);
  wire.refuse(false);
  assert.ok(new page.WebSocket("ws://x/ws"));
});

test("a page that closes a socket has not lost it", () => {
  const page = host();
  const wire = wires(page);
  new page.WebSocket("ws://x/ws").close();
  assert.deepEqual(words(wire), ["note ws close  closed by the page"]);
});

const heard = (wire) => words(wire).filter((line) => !line.includes("GET"));

test("the frames of an event stream are noted, however they are cut into pieces", async () => {
  const { page, write, close } = streaming();
  const wire = wires(page);
  const response = await page.fetch(EVENTS);
  write('retry: 1000\n\nid: 2\ndata: {"type":"snap');
  write('shot","session":{"seq":2}}\n\ndata: {"type":"event","seq":3}\n\n');
  close();
  assert.match(await response.text(), /^retry: 1000\n\nid: 2\ndata: {"type":"snapshot"/);
  assert.deepEqual(heard(wire), ["note sse open", "in sse snapshot 2", "in sse event 3", "note sse close  ended"]);
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
  assert.deepEqual(heard(wire).at(-1), "note sse close  cut");
});

test("a stream that the page aborts is closed by the page", async () => {
  const { page } = streaming();
  const wire = wires(page);
  const abort = new AbortController();
  const reader = (await page.fetch(EVENTS, { signal: abort.signal })).body.getReader();
  abort.abort();
  await assert.rejects(reader.read());
  assert.deepEqual(heard(wire).at(-1), "note sse close  closed by the page");
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
  assert.deepEqual(words(other), ["note http GET  200 after 0 ms"]);
});

test("a question goes over the open socket and gives the server's clock", async () => {
  const page = host();
  let time = 100;
  const wire = wires(page, { now: () => time });
  const socket = new page.WebSocket("ws://x/ws");
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
  new page.WebSocket("ws://x/ws").open();
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
  assert.deepEqual(urls, ["/api/tryon/limits"]);
  assert.equal(await wires(host(async () => Promise.reject(new TypeError()))).ask(), null);
});
