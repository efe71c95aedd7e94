/**
 * All sessions of an owner over one connection: a gallery, a history, a server that uploads for many people.
 *
 *     const watching = watchAll(tryon, { onSession: show, onEnded: (id, reason) => … });
 *
 * The connection is a following like any other (tryon.js), with its ladder, its back-off and its watchdog; its cursor is a seq
 * for each session. Its frames go to a following for each living session, which has no connection of its own and takes what
 * is new. So each session is followed by the rule that holds for one: every event once, in order, and no step back.
 * Types: tryon-watch.d.ts. Guide: docs/browser-client.md.
 */

import { Following, say } from "./tryon.js";

// The protocol's tables (tryon/protocol), each on a line of its own: a test compares them.
const OWNER = "/api/tryon"; // above the socket and the event stream of all sessions
export const ERASED = new Set(["deleted", "expired"]); // reasons of an end that is no status
const WATCH_RUNGS = ["ws", "sse", "poll"]; // best first
const PAGE = 100; // sessions that a poll looks at: the newest

/** Follows all living sessions of the client's owner, and those that come, until it is closed. */
export function watchAll(tryon, options = {}) {
  return new Watching(tryon, options);
}

class Watching extends Following {
  #members = new Map(); // id: Member
  #tell;
  #listed = false; // a list was read to its end: what is newer has come since

  constructor(api, { transports = WATCH_RUNGS, onGone, onConnection, signal, ...tell }) {
    const rungs = WATCH_RUNGS.filter((rung) => transports.includes(rung));
    super(api, undefined, null, { transports: rungs, onGone, onConnection, signal });
    this.path = OWNER;
    this.cursor = new Cursor(this.#members); // what is newer than all of it began and ended unseen
    this.#tell = tell;
  }

  /** The living sessions as they are now, oldest first. */
  get sessions() {
    const known = [...this.#members.values()].flatMap(({ session }) => session ?? []);
    return known.sort((one, other) => (one.session_id < other.session_id ? -1 : 1));
  }

  receive(link, text) {
    if (link.over) return;
    super.receive(link, text);
    say(this.#tell.onText, text);
  }

  hear(link, frame) {
    const { type, session_id: id } = frame;
    const known = this.#members.get(id);
    if (type === "ended") this.#ended(link, id, frame.reason);
    else if (type === "snapshot") this.#member(frame.session.session_id).take(frame.session, frame.missed);
    else if (known) known.hear({}, frame);
    else if (type === "event") this.doubt(link); // of a session that was never shown
  }

  /** A list is the answer that shows the server to be there; a poll also reads what has changed. */
  async look(link) {
    const { signal } = link.abort;
    const answer = await this.api.request("GET", "", { query: { limit: link.rung === "poll" ? PAGE : 1 }, signal });
    if (link.rung !== "poll") return answer;
    const listed = new Map(answer.body.sessions.map((session) => [session.session_id, session]));
    const seen = this.cursor.newest;
    const shown = ({ terminal, session_id: id }) => !terminal || (id > seen && (seen || this.#listed));
    const due = answer.body.sessions.filter(shown).map(({ session_id }) => session_id);
    for (const id of new Set([...due.reverse(), ...this.#members.keys()])) await this.#poll(id, listed.get(id), link);
    if (link.over) return answer;
    this.#listed = true;
    for (const { terminal, session_id, seq } of listed.values()) if (terminal) this.cursor.end(session_id, seq);
    return answer;
  }

  async #poll(id, listed, link) {
    const known = this.#members.get(id); // one that was never shown becomes a member by its first answer
    this.watch(link);
    if (listed && known?.session?.seq === listed.seq) return known.take(listed); // its progress at most
    try {
      const { signal } = link.abort;
      const { missed, ...session } = await this.api.read(id, { since: known?.cursor ?? 0, signal });
      if (link.over) return;
      this.#member(id).take(session, missed);
      if (session.terminal) this.#ended(link, id, session.status);
    } catch (problem) {
      if (problem.status !== 404) throw problem;
      this.#ended(link, id, "erased", true); // a 404 says no more
    }
  }

  #member(id) {
    if (!this.#members.has(id)) this.#members.set(id, new Member(this, id, this.#tell));
    return this.#members.get(id);
  }

  #ended(link, id, reason, erased = ERASED.has(reason)) {
    const member = this.#members.get(id);
    if (!member) return;
    if (erased) member.gone(reason);
    else if (!member.over) return this.doubt(link); // it lacks events
    this.#members.delete(id);
    this.cursor.end(id, member.cursor);
    member.close();
    say(this.#tell.onEnded, id, reason);
  }
}

/** One of the sessions: it follows without a connection of its own. */
class Member extends Following {
  #watching;

  constructor(watching, id, { onEvent, onSession }) {
    super(watching.api, id, null, { onEvent, onSession });
    this.#watching = watching;
  }

  connect() {}

  /** It lacks an event: the connection of all sessions fills the hole. */
  lost() {
    const { over, link } = this.#watching;
    if (!over && link) this.#watching.doubt(link);
  }
}

/** The last seq of each session that is followed, and of the newest after its end: as JSON an object, in an address text. */
class Cursor {
  #members;
  #ended = ["", 0];

  constructor(members) {
    this.#members = members;
  }

  /** The id of the newest session that was shown. */
  get newest() {
    return [...this.#members.keys(), this.#ended[0]].sort().at(-1);
  }

  end(id, seq) {
    if (id > this.#ended[0]) this.#ended = [id, seq];
  }

  get #pairs() {
    const pairs = [...this.#members].map(([id, { cursor }]) => [id, cursor]);
    const [id] = this.#ended;
    return id && id === this.newest && !this.#members.has(id) ? [...pairs, this.#ended] : pairs;
  }

  toJSON() {
    return Object.fromEntries(this.#pairs);
  }

  toString() {
    return this.#pairs.map(([id, seq]) => `${short(id)}.${seq}`).join("~") || "0";
  }
}

/** An id as 22 characters: two hundred have to fit into an address. */
function short(id) {
  const bytes = id.replaceAll("-", "").match(/../g).map((digits) => Number.parseInt(digits, 16));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").slice(0, 22);
}
