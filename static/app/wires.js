/**
 * The page's sockets and event streams, with a hand on them: every frame is noted, and they can be cut, refused and asked.
 *
 * `wires()` puts its own WebSocket and fetch in place of the page's, before the first session is followed. They are the browser's
 * own with listeners of ours, so that tryon.js is used on this page exactly as anywhere else.
 */

const KEPT = 200; // frames; older ones are forgotten
const ANSWER_MS = 3000; // longest time to an answer
export const OURS = "closed by the page"; // the words of such a note
const FOLLOWED = /\/api\/tryon\/sessions\/([^/]+)(?:\/ws|\/events)?$/; // the paths by which a session is followed
const ASK = "/api/health/live"; // the cheapest answer of the server, without a token and without a line in its log
const MASK = "•••";
const SECRETS = /^(?:client_token|token|ticket|signature)$/;
const IN_LINKS = /([?&](?:token|ticket|signature)=)[^&#\s"]+/g;

/** For JSON.parse: what opens something is not kept, since what is noted may be on a screen that others see. */
export function masked(name, value) {
  if (typeof value !== "string") return value;
  return SECRETS.test(name) ? MASK : value.replace(IN_LINKS, `$1${MASK}`);
}

/**
 * Returns `{ frames, counted(session), on(fn), mark(), forget(session), relay(following), cut(), refuse(yes), refused, ask() }`. A frame is `{ number,
 * session, at, way, via, type, seq, bytes, text, body }`: `number` counts from 1; `session` is the id of the one that was followed;
 * `at` in ms of `now()`, a clock that cannot be set; `way` "in" or "out", or "note" for what is no frame ("open", "close",
 * "refused", and what `mark()` adds). The answer to a poll is a frame without a body.
 */
export function wires(host = globalThis, { now = () => performance.now(), base = "" } = {}) {
  const open = new Set();
  const listeners = new Set();
  const counts = new Map(); // session: { in, out }
  let number = 0;
  let relayed = null; // the newest following
  const counted = (session) => counts.get(session) ?? { in: 0, out: 0 };
  const mark = (type, text, session) => note({ way: "note", type, text, session });
  const wire = { frames: [], refused: false, counted, on, mark, forget, relay, cut, refuse, ask };
  const Socket = host.WebSocket;
  const plain = host.fetch.bind(host);
  const followed = (url) => FOLLOWED.exec(new URL(url, host.location?.href).pathname)?.[1] ?? null;

  function on(listener) {
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  function note(frame) {
    const plainly = { session: null, at: now(), via: null, type: null, seq: null, bytes: 0, text: "", body: null };
    const noted = { ...plainly, ...frame, number: (number += 1) };
    const { session, way } = noted;
    if (way !== "note") counts.set(session, { ...counted(session), [way]: counted(session)[way] + 1 });
    wire.frames.push(noted);
    if (wire.frames.length > KEPT) wire.frames.shift();
    for (const listener of listeners) listener(noted);
  }

  function read(way, via, session, text) {
    let body = null;
    try {
      body = JSON.parse(text, masked);
    } catch {
      // no JSON: noted as it is
    }
    const bytes = new TextEncoder().encode(text).length;
    const seq = body?.seq ?? body?.session?.seq ?? null;
    note({ session, way, via, type: body?.type ?? null, seq, bytes, text: body ? "" : masked("", text), body });
  }

  /** Drops what was noted of a session: it was erased. */
  function forget(session) {
    wire.frames = wire.frames.filter((frame) => frame.session !== session);
    counts.delete(session);
  }

  /** Notes the frames of a following that come through the stream of another tab, or of all sessions. */
  function relay(following) {
    relayed = following;
    const receive = following.receive.bind(following);
    following.receive = (link, text) => {
      if (link.shared && !link.over) read("in", "sse", following.id, text);
      receive(link, text);
    };
  }

  /** Keeps a connection until its end. `lose` breaks it, so that its owner learns of it at once. */
  function hold(via, session, lose, connection = null) {
    const end = (words) => open.delete(held) && note({ session, way: "note", via, type: "close", text: words });
    const held = { via, lose, connection, end };
    open.add(held);
    return held;
  }

  if (Socket) {
    host.WebSocket = class extends Socket {
      #end;
      #session;

      constructor(url, protocols) {
        const session = followed(url);
        if (wire.refused) {
          note({ session, way: "note", via: "ws", type: "refused", text: "by the switch on this page" });
          throw new DOMException("WebSockets are refused by a switch on this page", "SecurityError");
        }
        super(url, protocols);
        const held = hold("ws", session, () => this.#lose(), this);
        this.#end = held.end;
        this.#session = session;
        this.addEventListener("open", () => note({ session, way: "note", via: "ws", type: "open" }));
        this.addEventListener("message", ({ data }) => open.has(held) && read("in", "ws", session, data));
        this.addEventListener("close", ({ code, reason }) => held.end(reason ? `${code} ${reason}` : `${code}`));
      }

      #lose() {
        this.dispatchEvent(new host.CloseEvent("close", { code: 1006, reason: "" }));
        super.close();
      }

      send(text) {
        read("out", "ws", this.#session, text);
        super.send(text);
      }

      close(...how) {
        this.#end?.(OURS);
        super.close(...how);
      }
    };
  }

  /** Watches event streams and polls of a session; everything else passes as it is. */
  host.fetch = async (url, init = {}) => {
    const session = followed(url);
    if (session === null || (init.method ?? "GET") !== "GET") return plain(url, init);
    const cutter = new AbortController();
    const pass = () => cutter.abort(init.signal.reason); // AbortSignal.any() is too young
    if (init.signal?.aborted) pass();
    init.signal?.addEventListener("abort", pass, { once: true });
    const held = { via: "http", lose: () => cutter.abort(), end: () => open.delete(held) };
    open.add(held);
    const began = now();
    try {
      const response = await plain(url, { ...init, signal: cutter.signal });
      if (response.ok && response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
        return stream(session, response, () => cutter.abort(), init.signal);
      }
      init.signal?.removeEventListener("abort", pass); // one signal serves many polls
      const way = response.ok || response.status === 304 ? "in" : "note";
      note({ session, way, via: "http", type: "poll", text: `${response.status} after ${Math.round(now() - began)} ms` });
      return response;
    } finally {
      held.end();
    }
  };

  /** The same response, whose frames are noted as they are read. */
  function stream(session, response, lose, signal) {
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    const { end } = hold("sse", session, lose);
    let rest = "";
    note({ session, way: "note", via: "sse", type: "open" });
    const hear = (bytes) => {
      const lines = (rest + decoder.decode(bytes, { stream: true })).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) read("in", "sse", session, line.slice(5).trim());
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
    const link = relayed?.link;
    const shared = Boolean(link?.shared && link.live);
    if (shared) {
      note({ session: relayed.id, way: "note", via: "sse", type: "close", text: words });
      relayed.lost(link);
    }
    return lose(words, () => true) + shared;
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
