/**
 * The page's sockets and event streams, with a hand on them: every frame is noted, and they can be cut, refused and asked.
 *
 * `wires()` puts its own WebSocket and fetch in place of the page's, before the first session is followed. They are the browser's
 * own with listeners of ours, so that tryon.js is used on this page exactly as anywhere else.
 */

const KEPT = 200; // frames; older ones are forgotten
const ANSWER_MS = 3000; // longest time to an answer
export const OURS = "closed by the page"; // the words of such a note
const SESSION = "/api/tryon/sessions/";
const ASK = "/api/tryon/limits"; // small, and needs no token: what is asked where no socket is open

/**
 * Returns `{ frames, counted, on(fn), mark(), cut(), refuse(yes), refused, ask() }`. A frame is `{ at, way, via, type, seq, bytes,
 * text, body }`: `at` in ms of `now()`, a clock that cannot be set; `way` "in" or "out", or "note" for what is no frame ("open",
 * "close", "refused", and what `mark()` adds).
 */
export function wires(host = globalThis, { now = () => performance.now(), base = "" } = {}) {
  const open = new Set();
  const listeners = new Set();
  const mark = (type, text = "") => note({ way: "note", type, text });
  const wire = { frames: [], counted: { in: 0, out: 0 }, refused: false, on, mark, cut, refuse, ask };
  const Socket = host.WebSocket;
  const plain = host.fetch.bind(host);

  function on(listener) {
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  function note(frame) {
    const noted = { at: now(), via: null, type: null, seq: null, bytes: 0, text: "", body: null, ...frame };
    if (noted.way in wire.counted) wire.counted[noted.way] += 1;
    wire.frames.push(noted);
    if (wire.frames.length > KEPT) wire.frames.shift();
    for (const listener of listeners) listener(noted);
  }

  function read(way, via, text) {
    let body = null;
    try {
      body = JSON.parse(text);
    } catch {
      // no JSON: noted as it is
    }
    const bytes = new TextEncoder().encode(text).length;
    note({ way, via, type: body?.type ?? null, seq: body?.seq ?? body?.session?.seq ?? null, bytes, text, body });
  }

  /** Keeps a connection until its end. `lose` breaks it, so that its owner learns of it at once. */
  function hold(via, lose, connection = null) {
    const held = { via, lose, connection, end: (words) => open.delete(held) && note({ way: "note", via, type: "close", text: words }) };
    open.add(held);
    return held;
  }

  if (Socket) {
    host.WebSocket = class extends Socket {
      #end;

      constructor(url, protocols) {
        if (wire.refused) {
          note({ way: "note", via: "ws", type: "refused", text: "by the switch on this page" });
          throw new DOMException("WebSockets are refused by a switch on this page", "SecurityError");
        }
        super(url, protocols);
        const held = hold("ws", () => this.#lose(), this);
        this.#end = held.end;
        this.addEventListener("open", () => note({ way: "note", via: "ws", type: "open" }));
        this.addEventListener("message", ({ data }) => open.has(held) && read("in", "ws", data));
        this.addEventListener("close", ({ code, reason }) => held.end(reason ? `${code} ${reason}` : `${code}`));
      }

      #lose() {
        this.dispatchEvent(new host.CloseEvent("close", { code: 1006, reason: "" }));
        super.close();
      }

      send(text) {
        read("out", "ws", text);
        super.send(text);
      }

      close(...how) {
        this.#end?.(OURS);
        super.close(...how);
      }
    };
  }

  /** What a session is read by where there is no socket: an event stream, or polls. Everything else passes as it is. */
  host.fetch = async (url, init = {}) => {
    const asked = new URL(url, host.location?.href);
    if (!asked.pathname.includes(SESSION) || (init.method ?? "GET") !== "GET") return plain(url, init);
    const cutter = new AbortController();
    const pass = () => cutter.abort(init.signal.reason); // AbortSignal.any() is too young
    if (init.signal?.aborted) pass();
    init.signal?.addEventListener("abort", pass, { once: true });
    const held = { via: "http", lose: () => cutter.abort(), end: () => open.delete(held) };
    open.add(held);
    const began = now();
    try {
      const response = await plain(url, { ...init, signal: cutter.signal });
      note({ way: "note", via: "http", type: "GET", text: `${response.status} after ${Math.round(now() - began)} ms` });
      const streams = response.ok && response.headers.get("Content-Type")?.startsWith("text/event-stream");
      return streams ? stream(response, () => cutter.abort(), init.signal) : response;
    } finally {
      held.end();
    }
  };

  /** The same response, whose frames are noted as they are read. */
  function stream(response, lose, signal) {
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    const { end } = hold("sse", lose);
    let rest = "";
    note({ way: "note", via: "sse", type: "open" });
    const hear = (bytes) => {
      const lines = (rest + decoder.decode(bytes, { stream: true })).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) read("in", "sse", line.slice(5).trim());
    };
    const pull = async (controller) => {
      try {
        const { done, value } = await reader.read();
        if (!done) hear(value);
        else end("ended");
        if (done) controller.close();
        else controller.enqueue(value);
      } catch (error) {
        end(signal?.aborted ? OURS : "lost");
        controller.error(error);
      }
    };
    const cancel = (reason) => {
      end(OURS);
      return reader.cancel(reason);
    };
    const { status, headers } = response;
    return new Response(new ReadableStream({ pull, cancel }), { status, headers });
  }

  /** Loses every open connection, as a network does: no farewell, the client learns of it at once. Returns their number. */
  function cut(words = "cut") {
    return lose(words, () => true);
  }

  function lose(words, which) {
    const lost = [...open].filter(which);
    for (const held of lost) {
      held.end(words);
      held.lose();
    }
    return lost.length;
  }

  /** Refuses new WebSockets from now on, and cuts those that are open; or lets them pass again. */
  function refuse(yes) {
    wire.refused = yes;
    if (yes) lose("refused", (held) => held.via === "ws");
  }

  /**
   * Asks the server for a word over the open socket, else by a small request. Resolves to `{ took, clock }`, or null if no answer
   * came in time: `took` in ms, `clock` the server's in ms, or null where the answer does not tell.
   */
  function ask(milliseconds = ANSWER_MS) {
    const socket = [...open].find(({ connection, via }) => via === "ws" && connection.readyState === 1)?.connection;
    return socket ? overSocket(socket, milliseconds) : overHttp(milliseconds);
  }

  function overSocket(socket, milliseconds) {
    const began = now();
    return new Promise((resolve) => {
      const done = (answer) => {
        host.clearTimeout(timer);
        socket.removeEventListener("message", heard);
        socket.removeEventListener("close", closed);
        resolve(answer);
      };
      const heard = ({ data }) => {
        const took = now() - began;
        const frame = data.includes("pong") ? JSON.parse(data) : null;
        if (frame?.type === "pong") done({ took, clock: Date.parse(frame.at) });
      };
      const closed = () => done(null);
      const timer = host.setTimeout(closed, milliseconds);
      socket.addEventListener("message", heard);
      socket.addEventListener("close", closed);
      socket.send(JSON.stringify({ type: "ping" }));
    });
  }

  async function overHttp(milliseconds) {
    const began = now();
    try {
      const response = await plain(base + ASK, { cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(milliseconds) });
      await response.text();
      return { took: now() - began, clock: null };
    } catch {
      return null;
    }
  }

  return wire;
}
