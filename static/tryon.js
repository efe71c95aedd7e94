/**
 * TryOn Push in the browser: upload a photo, follow its session to the end. No dependencies, no build step; tryon-tabs.js is its
 * one import.
 *
 *     const tryon = new TryOn({ base: "https://tryon.example" });
 *     const session = await tryon.upload(file);
 *     const following = tryon.follow(session, { onSession: ({ status, progress }) => show(status, progress) });
 *     const { links } = await following.done;
 *
 * A following climbs down a ladder (WebSocket, Server-Sent Events, long poll, poll) as far as the network makes it, and up
 * again when it can. All rungs share one cursor, the last `seq`, so `onEvent` sees every event once, in order.
 * Types: tryon.d.ts. Guide: docs/browser-client.md.
 */

import { slotsFor } from "./tryon-tabs.js";

// The protocol's tables (tryon/protocol), each on a line of its own: a test compares them.
const SESSIONS = "/api/tryon/sessions";
const PROCESSOR = "/api/tryon/processor";
const WS = "/ws";
const SUBPROTOCOL = "tryon.v1";
const BEARER = "tryon.bearer.";
const TOKEN = /^[A-Za-z0-9_-]{22,128}$/;
const IMAGE_TYPES = { jpg: "image/jpeg", png: "image/png", webp: "image/webp" };
const RUNGS = ["ws", "sse", "long-poll", "poll"]; // best first
const HOLDING = new Set(["sse", "long-poll"]); // rungs that keep one of the few connections of a browser
const OPEN_MS = 5000; // longest time from the attempt to the first frame
const PROBE_MS = 3000; // longest time to the answer of a socket that may have slept
const STEADY_MS = 5000; // lifetime after which a connection resets the back-off
const BACKOFF_MS = { first: 500, most: 30000 };
const CLIMB_MS = { first: 15000, most: 300000 }; // until better rungs are tried again
const OVERLOADED_MS = 1000; // shortest pause after an event stream that opened and ended without a frame
const WAIT_SECONDS = 25; // of a long poll: below the 30 s after which proxies like to cut
const POLL_MS = 2000; // unless Retry-After says otherwise
const WATCHDOG_PERIODS = 2.2; // ping periods without a frame, then the connection counts as dead
const TRIES = 3; // of a rung that has worked or asked for a pause, before the next lower one
const BROKEN = new Set([1000, 1002, 1007, 1009]); // before the end: this rung is not used again
const AT_ONCE = new Set([4001, 4002, 4003]); // no pause before the first attempt
const STOP = { first: 4500, last: 4999 }; // close codes after which a client does not reconnect
const CLOSED = { 4501: "unauthorized", 4504: "not_found", 4510: "erased" }; // the reason, if no frame gave one

/** A refusal (RFC 9457), or a request without an answer (`status` 0, `code` "network"). `retryAfter` in seconds. */
export class Problem extends Error {
  constructor(fields = {}) {
    const { status = 0, code = "unknown", title = "", detail = "", retryable = true, ...more } = fields;
    super(detail || title || code);
    const rest = { retryAfter: null, requestId: null, limit: null, part: null, pointer: null, ...more };
    Object.assign(this, { name: "Problem", status, code, title, detail, retryable, ...rest });
  }
}

function problem(status, body, header) {
  const { code, title, detail, retryable = status >= 500 || status === 429, request_id, ...more } = body ?? {};
  const { limit = null, part = null, pointer = null } = more;
  const requestId = request_id ?? header("X-Request-ID");
  const retryAfter = seconds(header("Retry-After"));
  return new Problem({ status, code, title, detail, limit, part, pointer, retryable, requestId, retryAfter });
}

function seconds(text) {
  const value = Number.parseFloat(text ?? "");
  return value >= 0 ? value : null;
}

/** 256 random bits as URL-safe text: a token, or an idempotency key. */
export function randomText() {
  const bytes = crypto.getRandomValues(new Uint8Array(32));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

let memory = null; // the token where storage is blocked: it lives as long as the page

function browserToken() {
  try {
    const kept = localStorage.getItem("tryon.token") ?? "";
    if (TOKEN.test(kept)) return kept;
    memory ??= randomText();
    localStorage.setItem("tryon.token", memory);
  } catch {
    memory ??= randomText();
  }
  return memory;
}

export class TryOn {
  #token;

  constructor({ base = "", token = null } = {}) {
    this.base = base && new URL(base, location.href).href.replace(/\/+$/, "");
    this.#token = token;
  }

  /** Made on first use, kept in localStorage. Its holder owns the sessions. */
  get token() {
    return (this.#token ??= browserToken());
  }

  /**
   * Resolves to the session. The same `idempotencyKey` makes one session, however often it is sent. `image` stands for the
   * processor's first role; `inputs` has files by role, `{ person: file, garment: [file, file] }`, instead or besides. `from`: a
   * session, or its id, whose photos are copied for the roles that are not sent; the new one is erased with it.
   */
  upload(image, options = {}) {
    const { garment = null, inputs = {}, params = null, from = null, signal = null } = options;
    const { idempotencyKey = randomText(), onProgress = () => {} } = options;
    return new Promise((resolve, reject) => {
      const aborted = () => reject(new DOMException("The upload was cancelled", "AbortError"));
      if (signal?.aborted) return aborted();
      const body = new FormData();
      const named = [["image", image], ["garment", garment], ...Object.entries(inputs ?? {})];
      for (const [role, files] of named) for (const file of [files ?? []].flat()) body.append(role, file, file.name || role);
      if (params) body.append("params", JSON.stringify(params));
      if (from) body.append("from", from.session_id ?? from);
      const request = new XMLHttpRequest(); // fetch() has no upload progress
      request.open("POST", this.base + SESSIONS);
      request.responseType = "json";
      request.setRequestHeader("Accept", "application/json");
      request.setRequestHeader("Authorization", `Bearer ${this.token}`);
      request.setRequestHeader("Idempotency-Key", idempotencyKey);
      request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
      request.onload = () => {
        if (request.status === 201 && request.response) resolve(this.resolved(request.response));
        else reject(problem(request.status, request.response, (name) => request.getResponseHeader(name)));
      };
      request.onerror = () => reject(new Problem({ code: "network" }));
      request.onabort = aborted;
      signal?.addEventListener("abort", () => request.abort(), { once: true });
      request.send(body);
    });
  }

  /** What the processor takes and makes, and where the photo goes. */
  async processor() {
    return (await this.request("GET", "", { root: PROCESSOR, anonymous: true })).body;
  }

  /** Follows a session, or the session of that id, until it ends or is gone. */
  follow(session, options = {}) {
    const known = typeof session === "string" ? null : session;
    return new Following(this, known?.session_id ?? session, known, options);
  }

  async read(id, { ticket = null, since = null, signal = null } = {}) {
    return this.resolved((await this.request("GET", `/${id}`, { ticket, signal, query: { since } })).body);
  }

  async list({ limit = null, cursor = null } = {}) {
    const { body } = await this.request("GET", "", { query: { limit, cursor } });
    return { ...body, sessions: body.sessions.map((session) => this.resolved(session)) };
  }

  /** Resolves to the session: cancelled, or still processing if its worker has yet to stop, or as it ended before. */
  async cancel(id) {
    return this.resolved((await this.request("POST", `/${id}/cancel`)).body);
  }

  /** A failed or cancelled session again, without an upload: resolves to the new session. */
  async retry(id) {
    return this.resolved((await this.request("POST", `/${id}/retry`)).body);
  }

  /** Erases the session, its photos and all retries of it now. Resolves to the signed receipt. */
  async remove(id) {
    return (await this.request("DELETE", `/${id}`)).body;
  }

  /** @internal One call; a 304 has no body. Rejects with a Problem, or an AbortError. */
  async request(method, path, { root = SESSIONS, query = {}, ticket = null, anonymous = false, etag = null, signal = null } = {}) {
    const url = this.url(root + path, { ...query, ticket });
    const headers = { Accept: "application/json" };
    if (!ticket && !anonymous) headers.Authorization = `Bearer ${this.token}`;
    if (etag) headers["If-None-Match"] = etag;
    let response;
    let body = null;
    try {
      response = await fetch(url, { method, headers, signal, cache: "no-store", credentials: "omit" });
      if (response.status !== 304) body = await response.json().catch(() => null);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem({ code: "network" });
    }
    const header = (name) => response.headers.get(name);
    if (response.status !== 304 && !(response.ok && body)) throw problem(response.status, body, header);
    return { body, etag: header("ETag"), retryAfter: seconds(header("Retry-After")) };
  }

  /** @internal */
  url(path, query = {}) {
    const url = new URL(path.startsWith("/") ? this.base + path : path, location.href);
    for (const [name, value] of Object.entries(query)) if (value !== null) url.searchParams.set(name, value);
    return url;
  }

  /** @internal The same with links that work on any page; `missed` aside. */
  resolved({ missed, ...session }) {
    const preview = this.#files([session.preview ?? null])[0];
    const [inputs, outputs] = [session.inputs ?? [], session.outputs ?? []].map((files) => this.#files(files));
    return { ...session, inputs, outputs, preview, links: this.#absolute(session.links) };
  }

  /** @internal */
  resolvedEvent(event) {
    const data = this.#absolute(event.data ?? {});
    for (const name of ["inputs", "outputs"]) if (data[name]) data[name] = this.#files(data[name]);
    return { ...event, data };
  }

  /** @internal The picture that a progress frame links to, as a session has it. */
  preview(link, known) {
    const path = this.#whole(link);
    const plain = (url) => url?.split("?")[0];
    if (plain(known?.link) === plain(path)) return { ...known, link: path };
    const type = IMAGE_TYPES[plain(path).split(".").pop()] ?? IMAGE_TYPES.jpg;
    return { type, width: null, height: null, link: path };
  }

  #files(files) {
    return files.map((file) => file && { ...file, link: this.#whole(file.link) });
  }

  #absolute(links) {
    return Object.fromEntries(Object.entries(links).map(([name, link]) => [name, this.#whole(link)]));
  }

  #whole(link) {
    return typeof link === "string" && link.startsWith("/") ? this.base + link : link;
  }
}

/** One session, followed. Made by `TryOn.follow()`. */
class Following {
  #api;
  #id;
  #ticket;
  #tell;
  #rungs;
  #done = resolvers();
  #over = false; // ended, gone or closed
  #abort = new AbortController(); // of everything: listeners and requests

  #link = null; // the connection that counts: { rung, live, … }
  #probe = null; // a better one that is being tried
  #next = null; // { rung }: a connection to be made
  #slots; // of the browser's connections
  #lacking = null; // the rung that it left for want of a slot, until it is on a better one than polls
  #queued = null; // AbortController, while it waits for a slot
  #notBefore = 0; // the server said so
  #failures = 0; // in a row, without a steady connection in between
  #tries = {}; // rung: attempts in a row that brought nothing
  #proven = new Set(); // rungs that have worked
  #climbs = 0;
  #pingMs = 25000;
  #synced = -Infinity;
  #server = Date.now() - clock(); // its clock minus `clock()`, in ms; ours until it tells
  #timers = {};

  session;
  cursor;
  connection = null;

  constructor(api, id, session, { ticket = null, since = 0, transports = RUNGS, signal = null, ...tell }) {
    this.#api = api;
    this.#id = id;
    this.#ticket = ticket;
    this.#slots = slotsFor(api.url(SESSIONS));
    this.#tell = tell;
    this.#rungs = RUNGS.filter((rung) => transports.includes(rung));
    this.session = session;
    this.cursor = since;
    this.#done.promise.catch(() => {}); // a caller that wants the error awaits `done`
    const options = { signal: this.#abort.signal };
    addEventListener("online", () => this.#wake(), options);
    addEventListener("offline", () => this.#link?.live || this.#report("reconnecting"), options);
    addEventListener("pageshow", (event) => event.persisted && this.#wake(true), options);
    document.addEventListener("resume", () => this.#wake(true), options);
    document.addEventListener("visibilitychange", () => visible() && this.#wake(), options);
    signal?.addEventListener("abort", () => this.close(), options);
    queueMicrotask(() => {
      this.#report("connecting");
      this.#connect(this.#rungs[0]);
    });
  }

  get done() {
    return this.#done.promise;
  }

  get transport() {
    return this.#link?.live ? this.#link.rung : null;
  }

  /** The server's clock, in ms. */
  now() {
    return clock() + this.#server;
  }

  get clockOffset() {
    return this.now() - Date.now();
  }

  /** Reads the session again, for fresh links; after the end too. */
  async refresh() {
    const session = await this.#api.read(this.#id, { ticket: this.#ticket });
    if (session.seq >= (this.session?.seq ?? 0)) this.session = session;
    this.#say("onSession", this.session);
    return this.session;
  }

  close() {
    this.#end(() => this.#done.reject(new DOMException("No longer followed", "AbortError")));
  }

  // --- the ladder ---------------------------------------------------------------------------------------------------

  #connect(rung, slot = null) {
    if (this.#over) return;
    this.#next = null;
    this.#drop(this.#link);
    this.#launch((this.#link = newLink(rung, 0, slot)));
  }

  async #launch(link) {
    if (HOLDING.has(link.rung) && !(await this.#takeSlot(link))) return;
    if (link.rung === "ws") this.#socket(link);
    else if (link.rung === "sse") this.#stream(link);
    else this.#poll(link);
  }

  /** Gives the link one of the slots for connections that stay open; without one this tab polls and waits. */
  async #takeSlot(link) {
    link.slot ??= await this.#slots.take();
    if (link.over) link.slot?.release();
    else if (link.slot) link.slot.giveWay = () => this.#giveWay(link);
    else this.#giveWay(link);
    return Boolean(link.slot) && !link.over;
  }

  #giveWay(link) {
    if (link.over) return;
    if (link === this.#probe) return this.#lost(link);
    this.#lacking = link.rung;
    this.#queue();
    if (this.#rungs.includes("poll")) return this.#connect("poll");
    this.#drop(link);
    this.#report("reconnecting");
  }

  /** Waits for a slot, to go back to the rung that needs one. */
  async #queue() {
    if (this.#queued || !this.#lacking) return;
    this.#queued = new AbortController();
    const slot = await this.#slots.wait(this.#queued.signal);
    const rung = this.#lacking;
    this.#queued = null;
    if (this.#over) return slot.release();
    if (this.#link.live && this.#link.rung === "poll") {
      this.#drop(this.#probe);
      this.#launch((this.#probe = newLink(rung, this.#rungs.indexOf(rung), slot)));
    } else if (this.#next) {
      this.#next.rung = rung; // it takes a slot when its time has come
      slot.release();
    } else {
      this.#connect(rung, slot);
    }
  }

  #leaveQueue() {
    this.#queued?.abort();
    this.#queued = null;
  }

  #socket(link) {
    const url = this.#api.url(`${SESSIONS}/${this.#id}${WS}`, { since: this.cursor, ticket: this.#ticket });
    url.protocol = url.protocol.replace("http", "ws");
    this.#watch(link, OPEN_MS);
    try {
      const socket = new WebSocket(url, this.#ticket ? [SUBPROTOCOL] : [SUBPROTOCOL, BEARER + this.#api.token]);
      link.close = () => socket.close();
      link.send = (frame) => socket.send(JSON.stringify(frame));
      socket.onmessage = ({ data }) => this.#receive(link, data);
      socket.onclose = ({ code }) => this.#lost(link, { code });
    } catch {
      this.#lost(link); // forbidden by the page's policy, for instance
    }
  }

  /** An EventSource takes no token and hides why it was refused: a plain look first, which also brings a fresh ticket. */
  async #stream(link) {
    if (!(await this.#look(link))) return;
    const url = this.#api.url(this.session.links.events, { since: this.cursor, ticket: this.#ticket });
    const source = new EventSource(url);
    link.close = () => source.close();
    source.onmessage = ({ data }) => this.#receive(link, data);
    source.onopen = () => (link.opened = true);
    source.onerror = () => {
      const told = link.opened && !link.live ? OVERLOADED_MS * (1 + 4 * Math.random()) : null;
      this.#lost(link, { told });
    };
    this.#watch(link, OPEN_MS);
  }

  async #poll(link) {
    const long = link.rung === "long-poll";
    const wait = long && link.looked ? WAIT_SECONDS : null;
    const began = clock();
    const answer = await this.#look(link, wait);
    if (!answer) return;
    this.#up(link, wait !== null || !long); // a long poll has yet to show that it may wait
    let pause = (answer.retryAfter ?? POLL_MS / 1000) * 1000;
    const waited = answer.body || wait === null || clock() - began > 1000; // a draining server does not wait
    if (long && waited) pause = 200;
    this.#watch(link, Math.min(pause, 60000), () => this.#poll(link));
  }

  /** Reads the session as a part of this link; null if the link is lost or over. */
  async #look(link, wait = null) {
    this.#watch(link, OPEN_MS + 1000 * (wait ?? 0));
    try {
      const query = { since: this.cursor, wait };
      const options = { query, ticket: this.#ticket, etag: link.etag, signal: link.abort.signal };
      const answer = await this.#api.request("GET", `/${this.#id}`, options);
      if (link.over) return null;
      Object.assign(link, { looked: true, heard: instant(), etag: answer.etag });
      if (answer.body) this.#take(answer.body, answer.body.missed);
      return link.over ? null : answer;
    } catch (error) {
      if (!(error instanceof Problem) && !link.over) throw error;
      this.#lost(link, { problem: error });
      return null;
    }
  }

  /** The link stands; `worked`: it has done all that its rung needs from the network. */
  #up(link, worked = true) {
    if (worked && !link.worked) {
      link.worked = true;
      this.#proven.add(link.rung);
      this.#tries[link.rung] = 0;
    }
    if (link.live) return;
    Object.assign(link, { live: true, since: clock() });
    if (link === this.#probe) {
      this.#probe = null;
      this.#next = null;
      this.#drop(this.#link);
      this.#link = link;
      this.#climbs = 0;
    }
    if (link.rung === "poll") {
      this.#queue(); // again, if a slot was of no use
    } else {
      this.#lacking = null;
      this.#leaveQueue();
    }
    this.#report(link.rung === "ws" || link.rung === "sse" ? "live" : "polling");
    if (link.rung !== this.#rungs[0] && !this.#timers.climb) this.#climbLater();
  }

  /** A connection is lost. The close code or the problem decides the next step, `bye` and Retry-After the time. */
  #lost(link, { code = 1006, bye = null, problem = null, told = null } = {}) {
    if (link.over || this.#over) return;
    const { rung, live, worked, refusal } = link;
    this.#drop(link);
    if ((code >= STOP.first && code <= STOP.last) || problem?.status === 401 || problem?.status === 404) {
      this.#gone(refusal ?? bye?.reason ?? problem?.code ?? CLOSED[code] ?? `closed_${code}`);
      return;
    }
    if (BROKEN.has(code) && this.#rungs.length > 1) this.#rungs = this.#rungs.filter((other) => other !== rung);
    if (link === this.#probe) {
      this.#probe = null;
      this.#climb(this.#rungs[link.step] === rung ? link.step + 1 : link.step);
      return;
    }
    this.#drop(this.#probe);
    this.#probe = null;
    told ??= bye?.retry_after_ms ?? (problem?.retryAfter == null ? null : problem.retryAfter * 1000);
    this.#failures = live && clock() - link.since >= STEADY_MS ? 1 : this.#failures + 1;
    const proven = this.#proven.has(rung);
    const lower = this.#rungs.find((other) => RUNGS.indexOf(other) > RUNGS.indexOf(rung));
    const reached = rung === "ws" || link.looked; // else it is the server that cannot be had, not this way to it
    if (!worked && reached) this.#tries[rung] = (this.#tries[rung] ?? 0) + 1;
    let next = proven || reached ? rung : this.#rungs[0];
    let wait = told ?? (AT_ONCE.has(code) && this.#failures === 1 ? 0 : jitter(this.#failures));
    if (!this.#rungs.includes(next)) next = lower ?? this.#rungs[0];
    else if (!worked && reached && lower && this.#tries[rung] >= (proven || told !== null ? TRIES : 1)) {
      next = lower;
      wait = told ?? 0; // it looks first: a server that is down is not asked in four ways
    }
    if (next === rung || wait > 0) this.#report("reconnecting");
    this.#notBefore = told === null ? 0 : clock() + told;
    this.#connectLater(next, wait, wait === 0 && next !== rung);
  }

  /** `unseen`: also while the page is hidden, on its way down to a rung that works; else #wake() comes back to this. */
  #connectLater(rung, wait, unseen = false) {
    this.#next = { rung };
    this.#after("connect", wait, () => this.#next && (unseen || visible()) && this.#connect(this.#next.rung));
  }

  /** The page or the network is back: a socket must prove that it lives, a waiting attempt starts at once. */
  #wake(thawed = false) {
    if (this.#over) return;
    const link = this.#link;
    if (this.#next) {
      this.#failures = 0;
      this.#connectLater(this.#next.rung, Math.max(0, this.#notBefore - clock()));
    } else if (link?.live && link.rung === "ws") {
      this.#sync(link);
    } else if (link?.live && (thawed || age(link.heard) > STEADY_MS)) {
      this.#connect(link.rung);
    }
  }

  #climbLater() {
    const wait = Math.min(CLIMB_MS.most, CLIMB_MS.first * 2 ** this.#climbs) * (0.75 + Math.random() / 2);
    this.#after("climb", wait, () => (visible() && this.#link.live ? this.#climb(0) : this.#climbLater()));
  }

  /** Tries the better rungs, the best one first, while the present one goes on. */
  #climb(step) {
    const rung = this.#rungs[step];
    if (rung !== undefined && rung !== this.#link.rung) {
      this.#launch((this.#probe = newLink(rung, step)));
    } else if (step > 0) {
      this.#climbs += 1;
      this.#climbLater();
    }
  }

  #drop(link) {
    if (!link || link.over) return;
    Object.assign(link, { over: true, live: false });
    clearTimeout(link.timer);
    link.abort.abort();
    link.close();
    link.slot?.release();
    link.slot = null;
  }

  /** The link's one timer: without a word by then it counts as lost. */
  #watch(link, wait, action = () => this.#lost(link)) {
    clearTimeout(link.timer);
    if (!link.over) link.timer = setTimeout(action, wait);
  }

  // --- incoming frames ---------------------------------------------------------------------------------------------

  #receive(link, text) {
    if (link.over) return;
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return;
    }
    link.heard = instant();
    if (frame.type !== "event" && Date.parse(frame.at)) this.#server = Date.parse(frame.at) - clock();
    if (frame.type === "snapshot") {
      this.#pingMs = (frame.ping_seconds || 25) * 1000;
      this.#up(link);
      this.#take(frame.session, frame.missed);
    } else if (frame.type === "event") {
      this.#event(link, frame);
    } else if (frame.type === "progress") {
      this.#progress(link, frame);
    } else if (frame.type === "error") {
      link.refusal = frame.code;
    } else if (frame.type === "bye") {
      this.#lost(link, { code: frame.code, bye: frame });
    }
    if (link.live) this.#watch(link, this.#pingMs * WATCHDOG_PERIODS, () => this.#doubt(link));
  }

  /** A whole session, with the events that led to it. */
  #take(body, missed = []) {
    for (const event of missed) this.#pass(event);
    const session = this.#api.resolved(body);
    if (this.#over || session.seq < (this.session?.seq ?? 0)) return; // never a step back
    this.session = session;
    this.#say("onSession", session);
    if (session.terminal && session.seq <= this.cursor) this.#finish();
  }

  /** Passes the next event on; events seen before are dropped. */
  #pass(event) {
    if (this.#over || event.seq !== this.cursor + 1) return false;
    this.cursor = event.seq;
    this.#say("onEvent", this.#api.resolvedEvent(event));
    return true;
  }

  #event(link, frame) {
    if (frame.seq > this.cursor + 1) this.#doubt(link);
    const known = this.session;
    if (!this.#pass(frame) || !known || frame.seq <= known.seq) return;
    const { status, terminal, at, seq } = frame;
    const { data } = this.#api.resolvedEvent(frame);
    const { output = known.links.output, outputs = known.outputs, attempt = known.attempt, error = null } = data;
    const progress = status === "completed" ? 1 : null;
    const counts = { queue_position: null, step: null, steps: null, upstream_position: null };
    const fresh = { stage: null, progress, eta_seconds: null, ...counts };
    const links = { ...known.links, output };
    this.session = { ...known, ...fresh, seq, status, terminal, attempt, error, updated_at: at, outputs, links };
    this.#say("onSession", this.session);
    if (terminal) this.#finish();
  }

  #progress(link, frame) {
    const known = this.session;
    if (frame.seq > this.cursor) this.#doubt(link);
    if (!known || known.terminal || frame.seq !== known.seq) return;
    const { progress, stage, eta_seconds, queue_position = null } = frame;
    const { step = null, steps = null, upstream_position = null } = frame;
    const preview = frame.preview ? this.#api.preview(frame.preview, known.preview) : known.preview;
    this.session = { ...known, progress, stage, eta_seconds, queue_position, step, steps, upstream_position, preview };
    this.#say("onSession", this.session);
  }

  /** It was silent for too long, or has left a hole: a socket is asked for a snapshot, anything else opened again. */
  #doubt(link) {
    if (link.send) this.#sync(link);
    else this.#lost(link, { code: 4001 });
  }

  /** Asks a socket for a snapshot; the server answers one a second. No answer: it is dead. */
  #sync(link) {
    this.#after("sync", Math.max(0, this.#synced + 1100 - clock()), () => {
      if (link.over) return;
      this.#synced = clock();
      link.send({ type: "sync", since: this.cursor });
      this.#watch(link, PROBE_MS);
    });
  }

  // --- the end ------------------------------------------------------------------------------------------------------

  #finish() {
    this.#end(() => this.#done.resolve(this.session));
  }

  #gone(code) {
    if (code === "not_found" && this.session) code = "erased"; // it was there
    this.#end(() => {
      this.#say("onGone", code);
      this.#done.reject(new Problem({ code, retryable: false }));
    });
  }

  #end(tell) {
    if (this.#over) return;
    this.#over = true;
    this.#abort.abort();
    this.#leaveQueue();
    for (const name of Object.keys(this.#timers)) this.#stop(name);
    this.#drop(this.#link);
    this.#drop(this.#probe);
    this.#report("finished");
    tell();
  }

  #report(connection) {
    if (connection === "reconnecting" && !navigator.onLine) connection = "offline";
    if (connection === "reconnecting" && this.#proven.size === 0 && this.#failures < TRIES) return; // it connects still
    if (connection === this.connection) return;
    this.connection = connection;
    this.#say("onConnection", connection, this.transport);
  }

  /** Calls a callback; an error in it is reported, and stops nothing. */
  #say(name, ...news) {
    try {
      this.#tell[name]?.(...news);
    } catch (error) {
      reportError(error);
    }
  }

  #after(name, wait, action) {
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

function newLink(rung, step = 0, slot = null) {
  const link = { rung, step, slot, live: false, worked: false, looked: false, over: false, etag: null, timer: 0, close: () => {} };
  return { ...link, since: 0, heard: instant(), abort: new AbortController() };
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
  return document.visibilityState === "visible";
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
