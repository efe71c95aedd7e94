/**
 * Talks to the server: the anonymous token, the upload, and following one session to its end.
 *
 *     const session = await submit({ image: file, token, onProgress: (part) => … });
 *     const following = follow(session.session_id, { token, session, onSession, onConnection, onGone });
 *     following.close();
 *
 * Following speaks `tryon.v1` over a WebSocket and falls back to polling where no socket can be had. Whatever the
 * transport, `onSession` sees the session's states in order and never a step back.
 */

const SESSIONS = "/api/tryon/sessions";
const TOKEN = /^[A-Za-z0-9_-]{22,128}$/;
const SESSION_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const OPEN_TIMEOUT_MS = 8000; // from `new WebSocket` to the snapshot
const PATIENCE_MS = 3000; // without a socket for that long: poll meanwhile
const PROBE_TIMEOUT_MS = 3000; // a socket that may have slept must answer within that
const STEADY_MS = 5000; // a socket that lived that long resets the back-off
const BACKOFF_MS = { first: 500, most: 20000 };
const SOCKET_RETRY_MS = 10000; // while polling
const OPEN_FAILURES = 3; // then poll
const POLL_MS = 2000; // unless Retry-After says otherwise
const WATCHDOG_PERIODS = 2.2; // pings missed, then the connection counts as dead

/** A refusal (RFC 9457) or a request that never got an answer (`status` 0, `code` "network"). Times in seconds. */
export class Problem extends Error {
  constructor({ status = 0, code = "unknown", title = "", detail = "", retryable = true, retryAfter = null, requestId = null }) {
    super(detail || title || code);
    Object.assign(this, { status, code, title, detail, retryable, retryAfter, requestId });
  }
}

function problem(status, body, header) {
  const given = body && typeof body === "object" ? body : {};
  return new Problem({
    status,
    code: given.code,
    title: given.title,
    detail: given.detail,
    retryable: given.retryable ?? (status >= 500 || status === 429),
    retryAfter: seconds(header("Retry-After")),
    requestId: given.request_id ?? header("X-Request-ID"),
  });
}

function seconds(text) {
  const value = Number.parseFloat(text ?? "");
  return Number.isFinite(value) && value >= 0 ? value : null;
}

/** 256 random bits as URL-safe text: a token, or an idempotency key. */
export function randomText() {
  const bytes = crypto.getRandomValues(new Uint8Array(32));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** This browser's token, made on first use. `storage` may be blocked (private windows): then it lives as long as the page. */
export function browserToken(storage) {
  const kept = storage.get("tryon.token");
  if (kept && TOKEN.test(kept)) return kept;
  const token = randomText();
  storage.set("tryon.token", token);
  return token;
}

export function isSessionId(text) {
  return SESSION_ID.test(text ?? "");
}

/**
 * Uploads the photo; resolves to the session. `onProgress` gets 0..1. Repeating a submit that got no answer under the
 * same `idempotencyKey` makes one session, not two. Rejects with a Problem, or an AbortError after `signal`.
 */
export function submit({ image, garment = null, token, idempotencyKey = null, onProgress = () => {}, signal = null }) {
  return new Promise((resolve, reject) => {
    const body = new FormData();
    body.append("image", image, image.name || "photo");
    if (garment) body.append("garment", garment, garment.name || "garment");
    const request = new XMLHttpRequest(); // fetch() has no upload progress
    request.open("POST", SESSIONS);
    request.responseType = "json";
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("Authorization", `Bearer ${token}`);
    if (idempotencyKey) request.setRequestHeader("Idempotency-Key", idempotencyKey);
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 201 && request.response) resolve(request.response);
      else reject(problem(request.status, request.response, (name) => request.getResponseHeader(name)));
    };
    request.onerror = () => reject(new Problem({ code: "network" }));
    request.onabort = () => reject(new DOMException("The upload was cancelled", "AbortError"));
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}

/** Reads a session: `{ session, etag, retryAfter }`, `session` null if nothing changed since `etag`. Rejects with a Problem. */
export async function readSession(id, { token = null, ticket = null, etag = null, signal = null }) {
  const query = ticket ? `?ticket=${encodeURIComponent(ticket)}` : "";
  const headers = { Accept: "application/json" };
  if (!ticket && token) headers.Authorization = `Bearer ${token}`;
  if (etag) headers["If-None-Match"] = etag;
  let response;
  let body = null;
  try {
    response = await fetch(`${SESSIONS}/${id}${query}`, { headers, signal, cache: "no-store", credentials: "omit" });
    if (response.status !== 304) body = await response.json().catch(() => null);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ code: "network" });
  }
  const header = (name) => response.headers.get(name);
  if (response.status !== 304 && !(response.ok && body)) throw problem(response.status, body, header);
  return { session: body, etag: header("ETag") ?? etag, retryAfter: seconds(header("Retry-After")) };
}

/**
 * Follows a session until it ends or is gone.
 *
 * Credentials: `token`, or a read-only `ticket` (then no token is sent). `session`: what is known already.
 *   onSession(session)        each change; the last one has `terminal: true`
 *   onConnection(state)       connecting, live, polling, reconnecting, offline, finished
 *   onGone(code)              deleted, expired, not_found, invalid_ticket, …: nothing more will come
 */
export function follow(id, { token = null, ticket = null, session = null, onSession, onConnection, onGone }) {
  return new Following(id, { token, ticket, session, onSession, onConnection, onGone });
}

class Following {
  #id;
  #credential;
  #tell;
  #session;
  #connection = null;
  #closed = false;

  #socket = null; // the one that counts; a replaced socket's late events are ignored
  #live = false; // it has sent its snapshot
  #liveSince = 0;
  #bye = null;
  #refusal = null;
  #failures = 0; // attempts without a snapshot since the last steady connection
  #socketGivenUp = false;
  #pingMs = 25000;
  #lastSync = 0;

  #polling = false;
  #pollFailures = 0;
  #etag = null;
  #abort = new AbortController();
  #timers = {};

  /** Server time minus ours in ms, as of the last live frame. */
  clockOffset = 0;

  constructor(id, { token, ticket, session, ...tell }) {
    this.#id = id;
    this.#credential = { token, ticket };
    this.#session = session;
    this.#tell = tell;
    const { signal } = this.#abort;
    addEventListener("online", () => this.#wake(), { signal });
    addEventListener("offline", () => this.#live || this.#report("reconnecting"), { signal });
    addEventListener("pageshow", (event) => event.persisted && this.#wake(), { signal });
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#wake(), { signal });
    if (session?.terminal) {
      queueMicrotask(() => this.#finish());
      return;
    }
    queueMicrotask(() => {
      this.#report("connecting");
      this.#connect();
    });
  }

  get session() {
    return this.#session;
  }

  /** Reads the session again, for fresh links. Resolves to it; rejects with a Problem. Works after the end too. */
  async refresh() {
    const { session } = await readSession(this.#id, this.#credential);
    this.#accept(session);
    return this.#session;
  }

  close() {
    this.#closed = true;
    this.#abort.abort();
    for (const name of Object.keys(this.#timers)) this.#stop(name);
    this.#drop();
  }

  // --- the socket ---------------------------------------------------------------------------------------------------

  #connect() {
    if (this.#closed || this.#ended || this.#socketGivenUp) return;
    this.#stop("connect");
    this.#drop();
    const url = new URL(`${SESSIONS}/${this.#id}/ws`, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    if (this.#session) url.searchParams.set("since", this.#session.seq);
    const { token, ticket } = this.#credential;
    if (ticket) url.searchParams.set("ticket", ticket);
    const protocols = ticket ? ["tryon.v1"] : ["tryon.v1", `tryon.bearer.${token}`];
    let socket;
    try {
      socket = new WebSocket(url, protocols);
    } catch {
      this.#lost(1006);
      return;
    }
    this.#socket = socket;
    this.#after("patience", PATIENCE_MS, () => this.#startPolling(), { keep: true });
    this.#after("watchdog", OPEN_TIMEOUT_MS, () => this.#lost(1006));
    socket.onmessage = (event) => socket === this.#socket && this.#receive(event.data);
    socket.onclose = (event) => socket === this.#socket && this.#lost(event.code);
  }

  #receive(text) {
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return;
    }
    if (this.#live) this.#after("watchdog", this.#pingMs * WATCHDOG_PERIODS, () => this.#lost(1006));
    if (frame.at && frame.type !== "snapshot") this.clockOffset = Date.parse(frame.at) - Date.now() || 0;
    switch (frame.type) {
      case "snapshot":
        this.#live = true;
        this.#liveSince = Date.now();
        this.#pingMs = (frame.ping_seconds || 25) * 1000;
        this.#after("watchdog", this.#pingMs * WATCHDOG_PERIODS, () => this.#lost(1006));
        this.#stopPolling();
        if (!frame.session.terminal) this.#report("live");
        this.#accept(frame.session);
        break;
      case "event":
        this.#event(frame);
        break;
      case "progress":
        this.#progress(frame);
        break;
      case "error":
        this.#refusal = frame.code;
        break;
      case "bye":
        this.#bye = frame;
        break;
    }
  }

  #event(frame) {
    const known = this.#session;
    if (!known || frame.seq <= known.seq) return; // seen
    if (frame.seq > known.seq + 1) {
      this.#sync(); // a hole: the snapshot will fill it
      return;
    }
    const data = frame.data ?? {};
    const session = {
      ...known,
      seq: frame.seq,
      status: frame.status,
      terminal: frame.terminal,
      attempt: data.attempt ?? known.attempt,
      stage: null,
      progress: frame.status === "completed" ? 1 : null,
      eta_seconds: null,
      queue_position: null,
      error: data.error ?? null,
      updated_at: frame.at,
      links: { ...known.links, output: data.output ?? known.links.output },
    };
    const whole = session.status === "completed" ? session.links.output : session.status !== "failed" || session.error?.message;
    this.#accept(session);
    if (!whole) this.refresh().catch(() => {});
  }

  #progress(frame) {
    const known = this.#session;
    if (!known || frame.seq < known.seq || known.terminal) return; // about the past
    if (frame.seq > known.seq) {
      this.#sync();
      return;
    }
    this.#accept({ ...known, progress: frame.progress, stage: frame.stage, eta_seconds: frame.eta_seconds });
  }

  /** Asks for a new snapshot; the server answers one a second. No answer: reconnect. */
  #sync() {
    if (this.#timers.sync) return;
    const wait = Math.max(0, this.#lastSync + 1100 - Date.now());
    this.#after("sync", wait, () => {
      if (!this.#live) return;
      this.#lastSync = Date.now();
      this.#socket.send(JSON.stringify({ type: "sync", since: this.#session?.seq ?? 0 }));
      this.#after("watchdog", PROBE_TIMEOUT_MS, () => this.#lost(1006));
    });
  }

  /** The socket is gone. The close code says what to do; the `bye` before it says the same and when. */
  #lost(code) {
    const bye = this.#bye;
    const refusal = this.#refusal;
    const steady = this.#live && Date.now() - this.#liveSince > STEADY_MS;
    const wasLive = this.#live;
    this.#drop();
    if (this.#closed || this.#ended) return;
    if (code === 4501 || code === 4504 || code === 4510) {
      this.#gone(refusal ?? (code === 4510 ? bye?.reason : null) ?? (code === 4501 ? "unauthorized" : "not_found"));
      return;
    }
    if (code === 1000 || code === 1002 || code === 1007 || code === 1009 || (code >= 4500 && code <= 4999)) {
      this.#socketGivenUp = true; // no more sockets, but the session is not known to have ended: reading it still works
      this.#startPolling();
      return;
    }
    this.#failures = steady ? 0 : this.#failures + 1;
    this.#report(this.#polling && this.#pollFailures === 0 ? "polling" : "reconnecting");
    let wait = jitter(this.#failures);
    if (bye?.retry_after_ms != null) wait = bye.retry_after_ms;
    else if (code >= 4001 && code <= 4003 && this.#failures <= 1) wait = 0;
    if (!wasLive && this.#failures >= OPEN_FAILURES) {
      this.#startPolling();
      wait = Math.max(wait, SOCKET_RETRY_MS * (1 + Math.random()));
    }
    const patience = Math.min(wait, OPEN_TIMEOUT_MS) + PATIENCE_MS; // told to wait: don't poll before the others are back
    this.#after("patience", patience, () => this.#startPolling(), { keep: bye?.retry_after_ms == null });
    this.#after("connect", wait, () => this.#connect());
  }

  #drop() {
    this.#stop("watchdog");
    this.#stop("sync");
    const socket = this.#socket;
    this.#socket = null;
    this.#live = false;
    this.#bye = null;
    this.#refusal = null;
    socket?.close();
  }

  /** The page came back or the network did: a socket must prove that it lives, anything else starts at once. */
  #wake() {
    if (this.#closed || this.#ended) return;
    if (this.#live) {
      this.#sync();
      return;
    }
    this.#failures = 0;
    if (this.#polling) this.#poll();
    if (this.#socket?.readyState !== WebSocket.CONNECTING) this.#connect();
  }

  // --- polling ------------------------------------------------------------------------------------------------------

  #startPolling() {
    if (this.#polling || this.#live || this.#closed || this.#ended) return;
    this.#polling = true;
    this.#pollFailures = 0;
    this.#poll();
  }

  #stopPolling() {
    this.#polling = false;
    this.#stop("poll");
    this.#stop("patience");
  }

  async #poll() {
    this.#stop("poll");
    let wait = POLL_MS;
    try {
      const answer = await readSession(this.#id, { ...this.#credential, etag: this.#etag, signal: this.#abort.signal });
      if (!this.#polling) return;
      this.#etag = answer.etag;
      this.#pollFailures = 0;
      this.#report("polling");
      if (answer.session) this.#accept(answer.session);
      if (answer.retryAfter !== null) wait = answer.retryAfter * 1000;
    } catch (error) {
      if (!this.#polling || this.#closed) return;
      if (error.status === 404 || error.status === 401) {
        this.#gone(error.code);
        return;
      }
      this.#pollFailures += 1;
      this.#report("reconnecting");
      wait = Math.max(jitter(this.#pollFailures), (error.retryAfter ?? 1) * 1000);
    }
    if (this.#polling) this.#after("poll", Math.min(Math.max(wait, 500), 60000), () => this.#poll());
  }

  // --- what is known ------------------------------------------------------------------------------------------------

  #accept(session) {
    if (this.#closed || !session || session.seq < (this.#session?.seq ?? 0)) return; // never a step back
    this.#session = session;
    if (session.terminal) this.#finish();
    this.#tell.onSession(session);
  }

  get #ended() {
    return Boolean(this.#session?.terminal);
  }

  #finish() {
    this.#stopPolling();
    this.#stop("connect");
    this.#stop("watchdog");
    this.#stop("sync");
    this.#report("finished");
    this.#after("close", 5000, () => this.#drop()); // the server closes with 1000; if not, we do
  }

  #gone(code) {
    this.close();
    this.#report("finished");
    this.#tell.onGone(code);
  }

  #report(connection) {
    if (connection === "reconnecting" && !navigator.onLine) connection = "offline";
    if (connection === "reconnecting" && this.#connection === "connecting" && this.#failures < OPEN_FAILURES) return;
    if (connection === this.#connection) return;
    this.#connection = connection;
    this.#tell.onConnection(connection);
  }

  /** One timer per name; a new one replaces the old, unless `keep`. */
  #after(name, wait, action, { keep = false } = {}) {
    if (this.#closed || (keep && this.#timers[name])) return;
    this.#stop(name);
    this.#timers[name] = setTimeout(() => {
      delete this.#timers[name];
      action();
    }, wait);
  }

  #stop(name) {
    clearTimeout(this.#timers[name]);
    delete this.#timers[name];
  }
}

/** Full jitter: anything from 0 to a bound that doubles with each failure, in ms. */
function jitter(failures) {
  return Math.random() * Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 2 ** Math.max(0, failures - 1));
}
