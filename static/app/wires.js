/**
 * The page's sockets and event streams, with a hand on them: every frame is noted, and they can be cut, refused and asked.
 *
 * `wires()` puts its own WebSocket and EventSource in place of the page's, before the first session is followed. They are the
 * browser's own classes with listeners of ours, so that tryon.js is used on this page exactly as anywhere else.
 */

const KEPT = 200; // frames; older ones are forgotten
const ANSWER_MS = 3000; // longest time to an answer
export const OURS = "closed by the page"; // the words of such a note
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
  const Stream = host.EventSource;

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

  /** Listens to a connection. `name` of the event that tells its end; `lost` tells its owner at once that it is cut. */
  function hold(connection, via, lost) {
    const end = (words) => {
      if (!open.delete(held)) return;
      note({ way: "note", via, type: "close", text: words });
    };
    const held = { connection, via, lost, end };
    open.add(held);
    connection.addEventListener("open", () => note({ way: "note", via, type: "open" }));
    connection.addEventListener("message", ({ data }) => open.has(held) && read("in", via, data));
    connection.addEventListener("close", ({ code, reason }) => end(reason ? `${code} ${reason}` : `${code}`));
    connection.addEventListener("error", () => via === "sse" && end("lost"));
    return end;
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
        this.#end = hold(this, "ws", () => this.dispatchEvent(new host.CloseEvent("close", { code: 1006, reason: "" })));
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

  if (Stream) {
    host.EventSource = class extends Stream {
      #end;

      constructor(url, options) {
        super(url, options);
        this.#end = hold(this, "sse", () => this.dispatchEvent(new host.Event("error")));
      }

      close() {
        super.close();
        this.#end?.(OURS);
      }
    };
  }

  /** Loses every open connection, as a network does: no farewell, the client learns of it at once. Returns their number. */
  function cut(words = "cut") {
    return lose(words, () => true);
  }

  function lose(words, which) {
    const lost = [...open].filter(which);
    for (const held of lost) {
      held.end(words);
      held.lost();
      held.connection.close();
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
      const response = await host.fetch(base + ASK, { cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(milliseconds) });
      await response.text();
      return { took: now() - began, clock: null };
    } catch {
      return null;
    }
  }

  return wire;
}
