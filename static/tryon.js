/**
 * The JavaScript client: upload a photo, follow its session to the end. For browsers, Node and edge runtimes. No dependencies,
 * no build step. What most pages never need is in modules of its own: tryon-lower.js and tryon-progress.js, loaded when they
 * are needed, and tryon-watch.js, for all sessions of an owner.
 *
 *     const tryon = new TryOn({ base: "https://tryon.example" });
 *     const run = tryon.run({ image: file });
 *     for await (const { stage, progress } of run) show(stage, progress);
 *     const { links } = await run;
 *
 * A following climbs down a ladder (WebSocket, Server-Sent Events, long poll, poll) as far as the network makes it, and up
 * again when it can. All rungs share one cursor, the last `seq`, so `onEvent` sees every event once, in order.
 * Types: tryon.d.ts. Guide: docs/browser-client.md.
 */

// The protocol's tables (tryon/protocol), each on a line of its own: a test compares them.
const API = "/api/tryon/";
const SESSIONS = "/api/tryon/sessions";
const PROCESSOR = "/api/tryon/processor";
const LIMITS = "/api/tryon/limits";
const WS = "/ws";
const SUBPROTOCOL = "tryon.v1";
const BEARER = "tryon.bearer.";
const TOKEN = /^[A-Za-z0-9_-]{22,128}$/;
const QUIET = { stage: null, progress: null, eta_seconds: null, queue_position: null, step: null, steps: null, upstream_position: null };
const RUNGS = ["ws", "sse", "long-poll", "poll"]; // best first
const OPEN_MS = 5000; // longest time from the attempt to the first frame
const PROBE_MS = 3000; // longest time to the answer of a socket that may have slept
const STEADY_MS = 5000; // lifetime after which a connection resets the back-off
const BACKOFF_MS = { first: 500, most: 30000 };
const WATCHDOG_PERIODS = 2.2; // ping periods without a frame, then the connection counts as dead
const TRIES = 3; // of a rung that has worked or asked for a pause, before the next lower one
const BROKEN = new Set([1000, 1002, 1007, 1009]); // before the end: this rung is not used again
const AT_ONCE = new Set([4001, 4002, 4003]); // no pause before the first attempt
const RESYNC = 4001; // a connection that left a hole is opened again at once
const STOP = { first: 4500, last: 4999 }; // close codes after which a client does not reconnect
const CLOSED = { 4501: "invalid_token", 4504: "not_found", 4510: "erased" }; // the reason, if no frame gave one

/** A refusal (RFC 9457), or a request without an answer (`status` 0, `code` "network"). `retryAfter` in seconds. */
export class Problem extends Error {
  constructor({ status = 0, code = "unknown", title = "", detail = "Something went wrong.", retryable = true, ...more } = {}) {
    super(detail);
    const none = { retryAfter: null, requestId: null, limit: null, part: null, pointer: null };
    Object.assign(this, none, more, { name: "Problem", status, code, title, detail, retryable });
  }
}

function idOf(session) {
  return session.session_id ?? session;
}

/** 256 random bits as URL-safe text: a token, or an idempotency key. */
export function randomText() {
  const bytes = crypto.getRandomValues(new Uint8Array(32));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

let memory = null; // the token where storage is blocked: it lives as long as the page

/** Outside a browser, where one process may serve many people, each client has a token of its own. */
function newToken() {
  if (!globalThis.location) return randomText();
  try {
    const kept = localStorage.getItem("tryon.token");
    if (TOKEN.test(kept)) return kept;
    localStorage.setItem("tryon.token", (memory ??= randomText()));
  } catch {
    // blocked
  }
  return (memory ??= randomText());
}

export class TryOn {
  #token;
  #source = null; // a function that gives tokens
  #asking = null;
  #fetch;
  #WebSocket;

  constructor({ base = "", token, fetch, WebSocket } = {}) {
    const here = globalThis.location;
    this.base = (base && here ? new URL(base, here).href : base).replace(/\/+$/, "");
    if (typeof token === "function") this.#source = token;
    else this.#token = token;
    this.#fetch = fetch;
    this.#WebSocket = WebSocket;
  }

  /** Made on first use, kept in localStorage. Its holder owns the sessions. */
  get token() {
    return this.#source ? (this.#token ?? "") : (this.#token ??= newToken());
  }

  /** @internal Whether the token comes from a function. */
  get renews() {
    return this.#source !== null;
  }

  /** @internal The token, from a function another one than `refused`; calls at the same time ask it once. */
  async credential(refused) {
    if (!this.#source || (this.#token && this.#token !== refused)) return this.token;
    this.#asking ??= (async () => this.#source())().finally(() => (this.#asking = null));
    return (this.#token = await this.#asking);
  }

  /**
   * Uploads and follows to the end, with the options of both: a promise of the ended session, whose `session` is the newest
   * one, and an async iterator of the sessions on the way. A loop that is slower than the news gets the newest. An upload
   * without an answer, or with a refusal that may pass soon, is sent again.
   */
  run({ image, onSession, ...given } = {}) {
    const options = { ...given, idempotencyKey: given.idempotencyKey ?? randomText() };
    let changed = resolvers();
    const note = (session) => {
      run.session = session;
      changed.resolve();
      changed = resolvers();
      say(onSession, session);
    };
    const upload = async (tries) => {
      try {
        return await this.upload(image, options);
      } catch (problem) {
        const wait = problem.retryAfter == null ? jitter(tries) : 1000 * problem.retryAfter;
        if (!problem.retryable || tries === TRIES || wait > OPEN_MS) throw problem;
        await pause(wait, options.signal);
        return upload(tries + 1);
      }
    };
    const run = upload(1).then((session) => {
      note(session);
      return this.follow(session, { ...options, onSession: note }).done;
    });
    const sessions = async function* () {
      for (let given = null; !given?.terminal; ) {
        if (run.session === given) await Promise.race([changed.promise, run]);
        else yield (given = run.session);
      }
    };
    return Object.assign(run, { session: null, [Symbol.asyncIterator]: sessions });
  }

  /**
   * Resolves to the session. The same `idempotencyKey` makes one session, however often it is sent. `image` stands for the
   * processor's first role; `inputs` has files by role, `{ person: file, garment: [file, file] }`, instead or besides. `from`: a
   * session, or its id, whose photos are copied for the roles that are not sent; the new one is erased with it.
   */
  async upload(image, { garment, inputs, params, from, idempotencyKey = randomText(), onProgress, signal } = {}) {
    const body = new FormData();
    const named = [["image", image], ["garment", garment], ...Object.entries(inputs ?? {})];
    for (const [role, files] of named) for (const file of [files ?? []].flat()) body.append(role, file, file.name || role);
    if (params) body.append("params", JSON.stringify(params));
    if (from) body.append("from", idOf(from));
    const options = { body, headers: { "Idempotency-Key": idempotencyKey }, onProgress, signal };
    return this.#call("POST", "", options);
  }

  /** Describes the processor: its inputs, its outputs, and where the photo goes. */
  processor({ signal } = {}) {
    return this.#call("GET", "", { root: PROCESSOR, signal });
  }

  /** Describes the server's limits: formats, bytes, pixels, rate; and how long it keeps things. */
  limits({ signal } = {}) {
    return this.#call("GET", "", { root: LIMITS, signal });
  }

  /** Follows a session, or the session of that id, until it ends or is gone. */
  follow(session, options = {}) {
    return new Following(this, idOf(session), session.session_id ? session : null, options);
  }

  read(session, { ticket, since, signal } = {}) {
    return this.#call("GET", `/${idOf(session)}`, { ticket, signal, query: { since } });
  }

  /** Every transition of a session so far, from its audit trail. */
  history(session, { ticket, signal } = {}) {
    return this.#call("GET", `/${idOf(session)}/history`, { ticket, signal });
  }

  list({ limit, cursor, signal } = {}) {
    return this.#call("GET", "", { query: { limit, cursor }, signal });
  }

  /** Resolves to the session: cancelled, or still processing if its worker has yet to stop, or as it ended before. */
  cancel(session, { signal } = {}) {
    return this.#call("POST", `/${idOf(session)}/cancel`, { signal });
  }

  /** A failed or cancelled session again, without an upload: resolves to the new session. */
  retry(session, { signal } = {}) {
    return this.#call("POST", `/${idOf(session)}/retry`, { signal });
  }

  /** A link to the result alone, for others; of a completed session. */
  share(session, { signal } = {}) {
    return this.#call("POST", `/${idOf(session)}/share`, { signal });
  }

  /** Erases the session, its photos and all retries of it now. Resolves to the signed receipt. */
  remove(session, { signal } = {}) {
    return this.#call("DELETE", `/${idOf(session)}`, { signal });
  }

  async #call(method, path, options) {
    return (await this.request(method, path, options)).body;
  }

  /** @internal One call; a 304 has no body. Rejects with a Problem, or with the reason of its signal. */
  async request(method, path, options = {}) {
    const { root = SESSIONS, query, headers, body, ticket, etag, onProgress, stream, signal, refused } = options;
    signal?.throwIfAborted();
    const url = this.url(root + path, { ...query, ticket });
    const all = { Accept: "application/json", ...headers };
    const token = ticket || root === PROCESSOR || root === LIMITS ? null : this.#source ? await this.credential(refused) : this.token;
    if (token) all.Authorization = `Bearer ${token}`;
    if (etag) all["If-None-Match"] = etag;
    const init = { method, headers: all, body, signal, ...(globalThis.location && { cache: "no-store", credentials: "omit" }) };
    let send = this.#fetch ?? fetch;
    let response;
    let answer = null;
    try {
      if (onProgress && globalThis.XMLHttpRequest && !this.#fetch) {
        const loaded = await import("./tryon-progress.js").catch(() => null); // without it the upload goes all the same
        send = loaded?.fetchWithProgress ?? send;
      }
      response = await send(url, init, onProgress);
      if (stream && response.status === 200) return response;
      if (response.status !== 304) answer = this.parsed(await response.text());
    } catch {
      signal?.throwIfAborted();
      throw new Problem({ code: "network", detail: "The server did not answer." });
    }
    const { ok, status, headers: told } = response;
    const seconds = Number.parseFloat(told.get("Retry-After"));
    const retryAfter = seconds >= 0 ? seconds : null;
    if (status === 304 || (ok && answer)) return { body: answer, etag: told.get("ETag"), retryAfter };
    if (token && this.#source && !refused && answer?.code === "invalid_token") {
      return this.request(method, path, { ...options, refused: token });
    }
    const retryable = status >= 500 || status === 429;
    throw new Problem({ retryable, requestId: answer?.request_id ?? told.get("X-Request-ID"), ...answer, status, retryAfter });
  }

  /** @internal */
  socket(url, protocols) {
    return new (this.#WebSocket ?? WebSocket)(url, protocols);
  }

  /** @internal */
  url(path, query = {}) {
    const url = new URL(this.base + path, globalThis.location);
    for (const [name, value] of Object.entries(query)) if (value != null) url.searchParams.set(name, value);
    return url;
  }

  /** @internal JSON with links that work on any page; null for text that is none. */
  parsed(text) {
    try {
      return this.#whole(JSON.parse(text));
    } catch {
      return null;
    }
  }

  #whole(value, name) {
    if (typeof value === "string") return value.startsWith(API) ? this.base + value : value;
    if (!value || typeof value !== "object" || name === "params") return value;
    if (Array.isArray(value)) return value.map((each) => this.#whole(each));
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, this.#whole(each, key)]));
  }
}

/** One session, followed. Made by `TryOn.follow()`. @internal */
export class Following {
  // Also of the lower rungs, and of all sessions of an owner, which are in modules of their own:
  api;
  id;
  path;
  ticket;
  rungs;
  link = null; // the connection that counts: { rung, live, … }
  next = null; // { rung }: a connection to be made
  over = false; // ended, gone or closed

  #tell;
  #lower = null; // LowerRungs, once one is needed
  #done = resolvers();
  #abort = new AbortController(); // of the listeners
  #notBefore = 0; // the server said so
  #refused; // the token that was refused last: another one is tried once
  #failures = 0; // in a row, without a steady connection in between
  #tries = {}; // rung: attempts in a row that brought nothing
  #proven = new Set(); // rungs that have worked
  #pingMs = 25000;
  #synced = -Infinity;
  #server = Date.now() - clock(); // its clock minus `clock()`, in ms; ours until it tells
  #timers = {};
  #reported; // the transport, with the connection

  session;
  cursor;
  connection = null;

  constructor(api, id, session, { ticket, since = 0, transports = RUNGS, signal, ...tell }) {
    api.url("/"); // throws where the server's place is not known
    const rungs = RUNGS.filter((rung) => transports.includes(rung));
    Object.assign(this, { api, id, path: `${SESSIONS}/${id}`, session, ticket, cursor: since, rungs });
    this.#tell = tell;
    this.#done.promise.catch(() => {}); // a caller that wants the error awaits `done`
    const on = (target, name, act) => target?.addEventListener?.(name, act, { signal: this.#abort.signal });
    on(globalThis, "online", () => this.#wake());
    on(globalThis, "offline", () => this.link?.live || this.report("reconnecting"));
    on(globalThis, "pageshow", (event) => event.persisted && this.#wake(true));
    on(globalThis.document, "resume", () => this.#wake(true));
    on(globalThis.document, "visibilitychange", () => visible() && this.#wake());
    on(signal, "abort", () => this.close(signal.reason));
    queueMicrotask(() => {
      if (signal?.aborted) this.close(signal.reason);
      if (this.over) return;
      this.report("connecting");
      this.connect(rungs[0]);
    });
  }

  get done() {
    return this.#done.promise;
  }

  get transport() {
    return this.link?.live ? this.link.rung : null;
  }

  /** The server's clock, in ms. */
  now() {
    return clock() + this.#server;
  }

  get clockOffset() {
    return this.now() - Date.now();
  }

  /** Reads the session again, for fresh links; after the end too. */
  async refresh({ signal } = {}) {
    const read = await this.api.read(this.id, { ticket: this.ticket, signal });
    const { seq, links, inputs, outputs } = read;
    const known = this.session ?? read; // of the same transition: what was pushed meanwhile is newer
    this.#show(seq > known.seq ? read : seq < known.seq ? known : { ...known, links, inputs, outputs });
    return this.session;
  }

  close(reason = new DOMException("Closed", "AbortError")) {
    this.#end(() => this.#done.reject(reason));
  }

  // --- the ladder ---------------------------------------------------------------------------------------------------

  connect(rung, slot) {
    if (this.over) return;
    this.drop(this.link);
    this.next = null;
    this.launch((this.link = { rung, slot }));
  }

  async launch(link) {
    this.heard(link);
    link.abort = new AbortController();
    this.watch(link);
    if (link.rung === "ws") {
      if (this.api.renews && !this.ticket) {
        try {
          link.token = await this.api.credential(this.#refused);
        } catch (problem) {
          return this.lost(link, { problem });
        }
      }
      return link.over || this.#socket(link);
    }
    try {
      if (!this.#lower) await this.#load(link);
    } catch (problem) {
      return this.lost(link, { problem });
    }
    if (!link.over) this.#lower.launch(link);
  }

  /** Loads the lower rungs, from a server that is there: some browsers never ask again for a module that they did not get. */
  async #load(link) {
    await this.look(link);
    const { LowerRungs } = await import("./tryon-lower.js");
    this.#lower ??= new LowerRungs(this);
  }

  /** Reads the session as a part of this link. */
  async look(link, wait) {
    const options = { root: this.path, query: { since: this.cursor, wait }, ticket: this.ticket, etag: link.etag };
    const answer = await this.api.request("GET", "", { ...options, signal: link.abort.signal });
    const { missed, ...session } = answer.body ?? {};
    if (answer.body && !link.over) this.take(session, missed);
    return answer;
  }

  #socket(link) {
    const url = this.api.url(this.path + WS, { since: this.cursor, ticket: this.ticket });
    url.protocol = url.protocol.replace("http", "ws");
    try {
      const socket = this.api.socket(url, this.ticket ? [SUBPROTOCOL] : [SUBPROTOCOL, BEARER + (link.token ?? this.api.token)]);
      link.close = () => socket.close();
      link.send = (frame) => socket.send(JSON.stringify(frame));
      socket.onmessage = ({ data }) => this.receive(link, data);
      socket.onclose = ({ code }) => this.lost(link, { code });
      socket.onerror = () => {}; // the close follows; in Node an error that is not heard ends the process
    } catch {
      this.lost(link); // forbidden by the page's policy, for instance
    }
  }

  /** The link stands; `worked`: it has done all that its rung needs from the network. */
  up(link, worked = true) {
    if (worked) {
      link.worked = true;
      this.#proven.add(link.rung);
      this.#tries[link.rung] = 0;
      this.#refused = undefined;
    }
    if (link.live) return;
    Object.assign(link, { live: true, since: clock() });
    this.heard(link);
    this.#lower?.up(link);
    this.report(link.rung === "ws" || link.rung === "sse" ? "live" : "polling");
  }

  /** A link takes the place of the present one. */
  replace(link) {
    this.next = null;
    this.drop(this.link);
    this.link = link;
  }

  /** A connection is lost. The close code or the problem decides the next step, `bye` and Retry-After the time. */
  lost(link, { code = 1006, bye, problem, told } = {}) {
    if (link.over || this.over) return;
    const { rung, live, worked, refusal } = link;
    this.drop(link);
    if (CLOSED[code] === "invalid_token" && link.token && !this.#refused) {
      this.#refused = link.token;
      return this.connect(rung);
    }
    if ((code >= STOP.first && code <= STOP.last) || [401, 404].includes(problem?.status)) {
      this.gone(refusal ?? bye?.reason ?? problem?.code ?? CLOSED[code] ?? `closed_${code}`);
      return;
    }
    if (BROKEN.has(code) && this.rungs.length > 1) this.rungs = this.rungs.filter((other) => other !== rung);
    if (this.#lower?.lost(link)) return;
    told ??= bye?.retry_after_ms ?? (problem?.retryAfter == null ? null : problem.retryAfter * 1000);
    this.#failures = live && clock() - link.since >= STEADY_MS ? 1 : this.#failures + 1;
    const proven = this.#proven.has(rung);
    const lower = this.rungs.find((other) => RUNGS.indexOf(other) > RUNGS.indexOf(rung));
    const reached = rung === "ws" || link.looked; // else it is the server that cannot be had, not this way to it
    if (!worked && reached) this.#tries[rung] = (this.#tries[rung] ?? 0) + 1;
    let next = proven || reached ? rung : this.rungs[0];
    let wait = told ?? (AT_ONCE.has(code) && this.#failures === 1 ? 0 : jitter(this.#failures));
    if (!this.rungs.includes(next)) next = lower ?? this.rungs[0];
    else if (!worked && reached && lower && this.#tries[rung] >= (proven || told !== null ? TRIES : 1)) {
      next = lower;
      wait = told ?? 0; // it looks first: a server that is down is not asked in four ways
    }
    if (next === rung || wait > 0) this.report("reconnecting");
    this.#notBefore = told === null ? 0 : clock() + told;
    this.#connectLater(next, wait, wait === 0 && next !== rung);
  }

  /** `unseen`: also while the page is hidden, on its way down to a rung that works; else #wake() comes back to this. */
  #connectLater(rung, wait, unseen = false) {
    this.next = { rung };
    this.#after("connect", wait, () => this.next && (unseen || visible()) && this.connect(this.next.rung));
  }

  /** The page or the network is back: a socket must prove that it lives, a waiting attempt starts at once. */
  #wake(thawed = false) {
    if (this.over) return;
    const link = this.link;
    if (this.next) {
      this.#failures = 0;
      this.#connectLater(this.next.rung, Math.max(0, this.#notBefore - clock()));
    } else if (link?.live && link.rung === "ws") {
      this.#sync(link);
    } else if (link?.live && (thawed || age(link.heard) > STEADY_MS)) {
      this.connect(link.rung);
    }
  }

  drop(link) {
    if (!link || link.over) return;
    Object.assign(link, { over: true, live: false });
    clearTimeout(link.timer);
    link.abort.abort();
    link.close?.();
    link.slot?.release();
    link.slot = null;
  }

  /** Notes a sign of life; a live link may then be silent from ping to ping. */
  heard(link) {
    link.heard = instant();
    if (link.live) this.watch(link, this.#pingMs * WATCHDOG_PERIODS, () => this.doubt(link));
  }

  /** The link's one timer: without a word by then it counts as lost. */
  watch(link, wait = OPEN_MS, action = () => this.lost(link)) {
    clearTimeout(link.timer);
    if (!link.over) link.timer = setTimeout(action, wait);
  }

  // --- incoming frames ---------------------------------------------------------------------------------------------

  receive(link, text) {
    if (link.over) return;
    const frame = this.api.parsed(text);
    if (!frame) return;
    if (frame.type !== "event" && Date.parse(frame.at)) this.#server = Date.parse(frame.at) - clock();
    if (frame.ping_seconds) {
      this.#pingMs = frame.ping_seconds * 1000;
      this.up(link);
    }
    if (frame.type === "error") link.refusal = frame.code;
    else if (frame.type === "bye") this.lost(link, { code: frame.code, bye: frame });
    else this.hear(link, frame);
    this.heard(link);
  }

  /** A frame about the session. */
  hear(link, frame) {
    if (frame.type === "snapshot") this.take(frame.session, frame.missed);
    else if (frame.type === "event") this.#event(link, frame);
    else if (frame.type === "progress") this.#progress(link, frame);
  }

  /** A whole session, with the events that led to it. */
  take(session, missed = []) {
    for (const event of missed) this.#pass(event);
    if (this.over || session.seq < (this.session?.seq ?? 0)) return; // never a step back
    this.#show(session);
  }

  #show(session) {
    this.session = session;
    say(this.#tell.onSession, session);
    this.#settle();
  }

  /** The end has come once the last event was passed on; a session that was read may be ahead of its events. */
  #settle() {
    if (this.session.terminal && this.session.seq <= this.cursor) this.#end(() => this.#done.resolve(this.session));
  }

  /** Passes the next event on; events seen before are dropped. */
  #pass(event) {
    if (this.over || event.seq !== this.cursor + 1) return false;
    this.cursor = event.seq;
    say(this.#tell.onEvent, event);
    return true;
  }

  #event(link, frame) {
    if (frame.seq > this.cursor + 1) this.doubt(link);
    const known = this.session;
    if (!this.#pass(frame) || !known) return;
    if (frame.seq <= known.seq) return this.#settle();
    const { status, terminal, at, seq, data } = frame;
    const { output = known.links.output, outputs = known.outputs, attempt = known.attempt, error = null } = data;
    const progress = status === "completed" ? 1 : null;
    const links = { ...known.links, output };
    this.#show({ ...known, ...QUIET, seq, status, terminal, attempt, error, progress, updated_at: at, outputs, links });
  }

  #progress(link, frame) {
    const known = this.session;
    if (frame.seq > this.cursor) this.doubt(link);
    if (!known || known.terminal || frame.seq !== known.seq) return;
    const { type, at, preview, ...news } = frame;
    this.#show({ ...known, ...QUIET, ...news, preview: preview ? shown(preview, known.preview) : known.preview });
  }

  /** It was silent for too long, or has left a hole: a socket is asked for a snapshot, anything else opened again. */
  doubt(link) {
    if (link.send) this.#sync(link);
    else this.lost(link, { code: RESYNC });
  }

  /** Asks a socket for a snapshot; the server answers one a second. No answer: it is dead. */
  #sync(link) {
    this.#after("sync", Math.max(0, this.#synced + 1100 - clock()), () => {
      if (link.over) return;
      this.#synced = clock();
      link.send({ type: "sync", since: this.cursor });
      this.watch(link, PROBE_MS);
    });
  }

  // --- the end ------------------------------------------------------------------------------------------------------

  gone(code) {
    if (code === "not_found" && this.session) code = "erased"; // it was there
    this.#end(() => {
      say(this.#tell.onGone, code);
      this.#done.reject(new Problem({ code, detail: "The try-on is gone.", retryable: false }));
    });
  }

  #end(tell) {
    if (this.over) return;
    this.over = true;
    this.#abort.abort();
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.drop(this.link);
    this.#lower?.end();
    this.report("finished");
    tell();
  }

  report(connection) {
    if (connection === "reconnecting" && globalThis.navigator?.onLine === false) connection = "offline";
    if (connection === "reconnecting" && this.#proven.size === 0 && this.#failures < TRIES) return; // it connects still
    const { transport } = this;
    if (connection === this.connection && transport === this.#reported) return;
    this.connection = connection;
    this.#reported = transport;
    say(this.#tell.onConnection, connection, transport);
  }

  #after(name, wait, action) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(action, wait);
  }
}

/** @internal Calls a callback; an error in it is reported, and stops nothing. */
export function say(callback, ...news) {
  try {
    callback?.(...news);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}

/** The picture that a progress frame links to, as a session has it. */
function shown(link, known) {
  const [path] = link.split("?");
  if (known?.link.startsWith(path)) return { ...known, link };
  return { type: `image/${path.split(".").pop().replace("jpg", "jpeg")}`, width: null, height: null, link };
}

/** Milliseconds of a clock that cannot be set; in a sleep it may stand still. */
function clock() {
  return performance.now();
}

function instant() {
  return { clock: clock(), wall: Date.now() };
}

/** Milliseconds since an instant by the clock that went further: one may have stood still, the other been set back. */
function age(then) {
  return Math.max(clock() - then.clock, Date.now() - then.wall);
}

function visible() {
  return globalThis.document?.visibilityState !== "hidden";
}

/** Ends at once when its signal is aborted: the call that follows rejects with the reason. */
function pause(wait, signal) {
  return new Promise((resolve) => {
    const go = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", go);
      resolve();
    };
    const timer = setTimeout(go, wait);
    signal?.addEventListener("abort", go);
  });
}

function resolvers() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

/** Full jitter: anything from 0 to a bound that doubles with each failure, in ms. */
function jitter(failures) {
  return Math.random() * Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 2 ** (failures - 1));
}
