/**
 * The rungs below a WebSocket: Server-Sent Events, long poll, poll, and the way up again. tryon.js loads this module when a
 * socket is not to be had.
 *
 * A link is one connection: `{ rung, live, worked, … }`, made and dropped by the following. `looked`: the server has answered it.
 */

import { slotsFor } from "./tryon-tabs.js";

// The protocol's tables (tryon/protocol), each on a line of its own: a test compares them.
const SSE = "/events";
const OPEN_MS = 5000; // longest time from the attempt to the first frame
const HOLDING = new Set(["sse", "long-poll"]); // rungs that keep one of the few connections of a browser
const CLIMB_MS = { first: 15000, most: 300000 }; // until better rungs are tried again
const WAIT_SECONDS = 25; // of a long poll: below the 30 s after which proxies like to cut
const POLL_MS = 2000; // unless Retry-After says otherwise
const RESYNC = 4001; // a connection that left a hole is opened again at once

export class LowerRungs {
  #following;
  #slots; // of the browser's connections; null where a host may have as many as it likes
  #lacking = null; // the rung that was left for want of a slot, until the following is on a better one than polls
  #queued = null; // AbortController, while it waits for a slot
  #probe = null; // a link to a better rung that is being tried
  #climbs = 0;
  #timer = 0; // of the next climb

  constructor(following) {
    this.#following = following;
    this.#slots = globalThis.location ? slotsFor(following.api.url("/")) : null;
  }

  async launch(link) {
    if (link.rung === "sse" && (await this.#join(link))) return;
    if (this.#slots && HOLDING.has(link.rung) && !(await this.#takeSlot(link))) return;
    if (link.rung === "sse") this.#stream(link);
    else this.#poll(link);
  }

  /** A link has become live. */
  up(link) {
    const following = this.#following;
    if (link === this.#probe) {
      this.#probe = null;
      following.replace(link);
      this.#climbs = 0;
    }
    if (link.rung === "poll") {
      this.#queue(); // again, if a slot was of no use
    } else {
      this.#lacking = null;
      this.#leaveQueue();
    }
    if (link.rung !== following.rungs[0] && !this.#timer) this.#climbLater();
  }

  /** A link is lost. Returns whether it was a probe: the next better rung is tried then. */
  lost(link) {
    const probe = this.#probe;
    this.#probe = null;
    if (link !== probe) this.#following.drop(probe);
    else this.#climb(this.#following.rungs[link.step] === link.rung ? link.step + 1 : link.step);
    return link === probe;
  }

  end() {
    this.#leaveQueue();
    clearTimeout(this.#timer);
    this.#following.drop(this.#probe);
  }

  // --- slots --------------------------------------------------------------------------------------------------------

  /** Gives the link one of the slots for connections that stay open; without one this tab polls and waits. */
  async #takeSlot(link) {
    link.slot ??= await this.#slots.take();
    if (link.over) link.slot?.release();
    else if (link.slot) link.slot.giveWay = () => this.#giveWay(link);
    else this.#giveWay(link);
    return Boolean(link.slot) && !link.over;
  }

  #giveWay(link) {
    const following = this.#following;
    if (link.over) return;
    if (link === this.#probe) return following.lost(link);
    this.#lacking = link.rung;
    this.#queue();
    if (following.rungs.includes("poll")) return following.connect("poll");
    following.drop(link);
    following.report("reconnecting");
  }

  /** Waits for a slot, to go back to the rung that needs one. */
  async #queue() {
    if (this.#queued || !this.#lacking) return;
    this.#queued = new AbortController();
    const slot = await this.#slots.wait(this.#queued.signal);
    const { over, link, next } = this.#following;
    const rung = this.#lacking;
    this.#queued = null;
    if (over) return slot.release();
    if (link.live && link.rung === "poll") {
      this.#following.drop(this.#probe);
      this.#try(rung, this.#following.rungs.indexOf(rung), slot);
    } else if (next) {
      next.rung = rung; // it takes a slot when its time has come
      slot.release();
    } else {
      this.#following.connect(rung, slot);
    }
  }

  #leaveQueue() {
    this.#queued?.abort();
    this.#queued = null;
  }

  /** Lets the link hear through the stream that tabs share; false where it needs one of its own. */
  async #join(link) {
    const following = this.#following;
    const { api, id, ticket } = following;
    if (!this.#slots || !id || ticket || api.renews) return false;
    const early = [];
    let hear = (text) => early.push(text);
    const lost = (moved) => {
      if (moved && link === following.link) following.connect(link.rung); // it is as live as before
      else following.lost(link, { code: RESYNC });
    };
    try {
      const { sharedFor } = await import("./tryon-shared.js");
      const shared = link.over ? null : await sharedFor(api);
      const gone = (reason) => following.gone(reason);
      const member = { id, signal: link.abort.signal, hear: (text) => hear(text), lost, gone };
      if (link.over || !(await shared?.join(member))) return link.over;
    } catch {
      return link.over; // it could not be loaded
    }
    link.slot?.release();
    Object.assign(link, { slot: null, shared: true });
    if (!(await this.#look(link))) return true;
    hear = (text) => following.receive(link, text);
    following.up(link);
    early.forEach(hear);
    return true;
  }

  // --- connections --------------------------------------------------------------------------------------------------

  /** A plain look first: it shows that the server is there, and this way to it is the one that fails. */
  async #stream(link) {
    if (!(await this.#look(link))) return;
    const following = this.#following;
    const { path, ticket, cursor } = following;
    following.watch(link, OPEN_MS);
    let retry = null;
    try {
      const options = { root: path, query: { since: cursor }, ticket, headers: { Accept: "text/event-stream" }, stream: true };
      const { body } = await following.api.request("GET", SSE, { ...options, signal: link.abort.signal });
      for await (const [field, value] of fields(body)) {
        if (field === "data") following.receive(link, value);
        else if (field === "retry") retry = Number(value);
      }
      following.lost(link, { told: link.live ? null : retry }); // one that says nothing: the server has no room
    } catch (error) {
      this.#failed(link, error);
    }
  }

  async #poll(link) {
    const long = link.rung === "long-poll";
    const wait = long && link.looked ? WAIT_SECONDS : null;
    const began = performance.now();
    const answer = await this.#look(link, wait);
    if (!answer) return;
    this.#following.up(link, wait !== null || !long); // a long poll has yet to show that it may wait
    let pause = (answer.retryAfter ?? POLL_MS / 1000) * 1000;
    const waited = answer.body || wait === null || performance.now() - began > 1000; // a draining server does not wait
    if (long && waited) pause = 200;
    this.#following.watch(link, Math.min(pause, 60000), () => this.#poll(link));
  }

  /** Reads the session as a part of this link; null if the link is lost or over. */
  async #look(link, wait = null) {
    const following = this.#following;
    following.watch(link, OPEN_MS + 1000 * wait);
    try {
      const answer = await following.look(link, wait);
      if (link.over) return null;
      following.heard(link);
      Object.assign(link, { looked: true, etag: answer.etag });
      return answer;
    } catch (error) {
      this.#failed(link, error);
      return null;
    }
  }

  #failed(link, error) {
    if (error.name !== "Problem" && !link.over) throw error; // a fault of this script
    this.#following.lost(link, { problem: error });
  }

  // --- up again -----------------------------------------------------------------------------------------------------

  #climbLater() {
    const wait = Math.min(CLIMB_MS.most, CLIMB_MS.first * 2 ** this.#climbs) * (0.75 + Math.random() / 2);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      if (visible() && this.#following.link.live) this.#climb(0);
      else this.#climbLater();
    }, wait);
  }

  /** Tries the better rungs, the best one first, while the present one goes on. */
  #climb(step) {
    const rung = this.#following.rungs[step];
    if (rung !== undefined && rung !== this.#following.link.rung) {
      this.#try(rung, step);
    } else if (step > 0) {
      this.#climbs += 1;
      this.#climbLater();
    }
  }

  #try(rung, step, slot = null) {
    this.#following.launch((this.#probe = { rung, step, slot }));
  }
}

/** The lines of an event stream (WHATWG HTML, 9.2.6) until it ends or is cut, as pairs of field and value: a frame is one line. */
async function* fields(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield line.split(/: ?([^]*)/, 2);
  }
}

function visible() {
  return globalThis.document?.visibilityState !== "hidden";
}
