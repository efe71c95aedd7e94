/**
 * One event stream for all tabs of a browser that follow sessions of one owner.
 *
 * Theory of operation. A tab alone has the stream of its session. It holds a Web Lock; a tab that comes later does not get it, and
 * asks over a BroadcastChannel. The holder, the leader, opens the stream of all the owner's sessions (tryon-watch.js), passes
 * its frames on to all tabs, and moves its own session there. So the browser keeps one stream however many tabs there are.
 *
 * What a tab sees does not depend on the leader. Frames come through it, nothing else: a tab that joins reads its session
 * itself, from its own cursor, after the frames have begun to come; frames that it knows are dropped, and a hole makes it join
 * again. Where no leader answers, because it is frozen or the stream cannot be had, the tab has a stream of its own as before,
 * one of the four (tryon-tabs.js). The browser frees the lock of a tab that closes or crashes; the next leader lets all tabs join
 * again. A hidden leader, which may be frozen soon, leaves the lead to a visible tab that asks.
 */

import { ERASED, watchAll } from "./tryon-watch.js";

const ANSWER_MS = 2000; // for a leader to have the session in its stream; after it a tab has a stream of its own
const NEEDED_MS = 15000; // until a leader that follows nothing itself asks again whether others do
const REST_MS = 1000; // without a link, then this tab leads no longer: a link that changes its stream is back by then

class Shared {
  #api;
  #name;
  #members = new Set(); // links of this tab: { id, hear(text), lost(moved), gone(reason), signal, state }
  #living = new Set(); // ids in the stream of this tab
  #synced = false; // all of them are known
  #channel = null;
  #watching = null; // the stream of all sessions, where this tab leads
  #live = false;
  #release = null; // gives the lock back
  #waiting = null; // AbortController of a request for the lock
  #resting = 0; // timer
  #needed = false; // by another tab
  #refused = false; // this tab cannot share, or the server has no such stream

  constructor(api, name) {
    this.#api = api;
    this.#name = name;
    document.addEventListener("visibilitychange", () => (visible() ? this.#shown() : this.#hidden()));
    addEventListener("pagehide", () => this.#resign());
  }

  /** Resolves to whether the session's frames come to `member.hear` from now on, until its signal is aborted or `member.lost` is called. */
  async join(member) {
    if (this.#refused) return false;
    clearTimeout(this.#resting);
    this.#members.add(member);
    member.signal.addEventListener("abort", () => this.#leave(member));
    this.#channel ??= this.#listen();
    try {
      if (!this.#release) await this.#request({ ifAvailable: true });
    } catch {
      this.#refused = true; // a page without an origin of its own, in a sandbox
    }
    if (member.signal.aborted || this.#refused) return false;
    if (this.#release && !this.#watching && this.#members.size === 1) {
      member.state = "alone";
      return false;
    }
    return new Promise((resolve) => {
      const timer = setTimeout(() => member.answer(false), ANSWER_MS);
      member.answer = (joined) => {
        clearTimeout(timer);
        member.state = joined ? "joined" : "alone";
        resolve(joined);
      };
      member.state = "asking";
      this.#ask(member);
    });
  }

  #leave(member) {
    if (!this.#members.delete(member)) return;
    if (member.state === "asking") member.answer(false);
    this.#restLater();
  }

  #restLater(wait = REST_MS) {
    clearTimeout(this.#resting);
    this.#resting = setTimeout(() => this.#rest(), wait);
  }

  /** Nothing of this tab is followed. A leader stays as long as another tab needs its stream. */
  async #rest() {
    this.#needed = false;
    if (this.#watching && this.#members.size === 0) {
      this.#spread({ needed: true });
      await new Promise((turn) => setTimeout(turn, ANSWER_MS));
    }
    if (this.#members.size > 0) return;
    if (this.#needed) return this.#restLater(NEEDED_MS);
    this.#waiting?.abort();
    this.#resign();
    this.#channel?.close();
    this.#channel = null;
  }

  // --- the lead -----------------------------------------------------------------------------------------------------

  #request(options) {
    return new Promise((resolve, reject) => {
      const hold = (lock) => {
        resolve();
        if (lock && this.#channel) return new Promise((release) => (this.#release = release));
      };
      navigator.locks.request(this.#name, options, hold).catch(reject);
    });
  }

  /** Waits for the lead, which is free when the leader's tab closes or hides. */
  async #wait() {
    if (this.#waiting || this.#release || !visible()) return;
    const waiting = (this.#waiting = new AbortController());
    await this.#request({ signal: waiting.signal }).catch(() => {});
    this.#waiting = null;
    if (this.#release) this.#spread({ lost: "moved" }); // all join again, here
  }

  #watch() {
    this.#watching ??= watchAll(this.#api, {
      transports: ["sse"],
      onText: (text) => this.#spread({ text }),
      onConnection: (connection) => {
        if (this.#live && connection !== "live") this.#spread({ lost: "cut" });
        this.#live = connection === "live";
        if (!this.#live) this.#forget();
      },
      onGone: () => {
        this.#refused = true;
        this.#resign();
      },
    });
    this.#watching.done.catch(() => {}); // closed, or refused
  }

  #resign() {
    if (!this.#release) return;
    this.#live = false; // its end is a move, not a loss
    this.#watching?.close();
    this.#watching = null;
    this.#forget();
    this.#release();
    this.#release = null;
    this.#spread({ lost: "moved" });
  }

  #forget() {
    this.#living.clear();
    this.#synced = false;
  }

  #shown() {
    if (this.#release) return;
    for (const member of this.#members) this.#ask(member);
  }

  async #hidden() {
    this.#waiting?.abort();
    if (!this.#release) return;
    const { pending } = await navigator.locks.query();
    if (!visible() && pending.some(({ name }) => name === this.#name)) this.#resign();
  }

  // --- messages -----------------------------------------------------------------------------------------------------

  #listen() {
    const channel = new BroadcastChannel(this.#name);
    channel.onmessage = ({ data }) => this.#take(data);
    return channel;
  }

  /** Sends to all tabs, this one too. */
  #spread(message) {
    this.#channel?.postMessage(message);
    this.#take(message);
  }

  #ask({ id }) {
    this.#wait();
    this.#spread({ ask: id, visible: visible() });
  }

  #take({ ask, here, none, text, lost, needed, need, visible: asked }) {
    if (needed && this.#members.size > 0) this.#spread({ need: true });
    if (need) this.#needed = true;
    if (ask && this.#release) this.#answer(ask, asked);
    if (here) this.#join(here);
    if (none) for (const member of this.#asking()) if (member.id === none) member.answer(false);
    if (text) this.#hear(text);
    if (lost) {
      for (const member of [...this.#members]) if (member.state === "joined") member.lost(lost === "moved");
      if (lost === "moved") for (const member of this.#asking()) this.#ask(member);
    }
  }

  #asking() {
    return [...this.#members].filter(({ state }) => state === "asking");
  }

  #answer(id, asked) {
    if (asked && !visible()) this.#resign();
    else if (this.#living.has(id)) this.#spread({ here: id });
    else if (this.#synced) this.#spread({ none: id }); // it has ended, or is so new that its snapshot has yet to come
    else this.#watch(); // the snapshot is the answer
  }

  #join(id) {
    for (const member of [...this.#members]) {
      if (member.id !== id) continue;
      if (member.state === "asking") member.answer(true);
      else if (member.state === "alone") member.lost(true); // it comes back, and joins
    }
  }

  #hear(text) {
    const { type, session_id, session, reason } = JSON.parse(text);
    const id = session_id ?? session?.session_id;
    if (!id && type !== "ping" && type !== "synced") return;
    if (this.#watching && type === "snapshot") this.#living.add(id);
    if (this.#watching && type === "synced") this.#settle();
    if (id && type !== "ended") this.#join(id);
    for (const member of [...this.#members]) {
      if (member.state !== "joined" || (id && member.id !== id)) continue;
      if (type !== "ended") member.hear(text);
      else if (ERASED.has(reason)) member.gone(reason);
      else member.lost(true); // it lacks an event, or it had left
    }
    if (type === "ended" && this.#living.delete(id)) this.#restLater();
  }

  /** All living sessions were shown: one that is asked for and is not among them has ended. */
  #settle() {
    this.#synced = true;
    for (const { id } of this.#asking()) if (!this.#living.has(id)) this.#spread({ none: id });
  }
}

function visible() {
  return document.visibilityState !== "hidden";
}

const all = new Map();

/** The shared stream of this client's owner; null where tabs cannot share one. */
export async function sharedFor(api) {
  const { locks } = navigator;
  if (!locks || !globalThis.BroadcastChannel || !crypto.subtle || !globalThis.document) return null;
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(api.token));
  const owner = btoa(String.fromCharCode(...new Uint8Array(digest).slice(0, 12))); // the token is no name
  const name = `tryon.owner ${api.url("/").host} ${owner}`;
  if (!all.has(name)) all.set(name, new Shared(api, name));
  return all.get(name);
}
