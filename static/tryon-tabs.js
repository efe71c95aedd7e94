/**
 * Slots for streams: how many connections the tabs of a browser keep open to a server, all together.
 *
 * Over HTTP/1.1 a browser gives a host six connections, for all tabs; a stream or a long poll keeps one of them. A slot is one
 * of four Web Locks: tabs without one poll until one is free. The browser itself frees the lock of a tab that closes or
 * crashes and grants it to the tab that has waited longest, so that no tab depends on another one, which may be asleep.
 * A hidden tab gives its slot to a visible one that waits; tabs tell each other over a BroadcastChannel.
 *
 * Without Web Locks (a page over plain HTTP) tabs cannot count together: only visible ones hold slots then.
 */

export const SLOTS = 4;
const ANSWER_MS = 250; // for a hidden tab to give its slot away before the next one is asked

/** Returns whether a tab gives up a slot that it holds. `shared`: the tabs count together. `wanted`: a visible tab waits for it. */
export function givesWay({ visible, shared, wanted }) {
  return !visible && (wanted || !shared);
}

/** Returns whether a tab takes a free slot, in front of which no other tab waits. */
export function takes({ visible, shared }) {
  return visible || shared;
}

/** The part of `navigator.locks` that is needed here, within one page. */
export class PageLocks {
  #queues = new Map(); // of each name that is held: those that wait for it

  async request(name, { ifAvailable = false, signal = null }, use) {
    const queue = this.#queues.get(name);
    if (queue && ifAvailable) return use(null);
    if (queue) await this.#turn(queue, signal);
    else this.#queues.set(name, []);
    try {
      return await use({ name });
    } finally {
      const next = this.#queues.get(name).shift();
      if (next) next();
      else this.#queues.delete(name);
    }
  }

  #turn(queue, signal) {
    return new Promise((resolve, reject) => {
      queue.push(resolve);
      signal?.addEventListener("abort", () => {
        const at = queue.indexOf(resolve);
        if (at < 0) return; // it is its turn already
        queue.splice(at, 1);
        reject(signal.reason);
      });
    });
  }
}

/** The slots for one server's streams, in this page. */
export class Slots {
  #names;
  #locks = navigator.locks ?? new PageLocks();
  #shared = Boolean(navigator.locks);
  #channel = null;
  #held = new Map(); // name: slot
  #waiting = new Set(); // resolve functions, in the order of their coming
  #seeking = null; // AbortController of the requests for all names

  constructor(host) {
    this.#names = Array.from({ length: SLOTS }, (_, number) => `tryon.stream ${host} ${number}`);
    globalThis.document?.addEventListener("visibilitychange", () => (visible() ? this.#seek() : this.#hidden()));
  }

  /** Resolves to a slot, or to null if none is free. */
  async take() {
    if (!takes({ visible: visible(), shared: this.#shared })) return null;
    try {
      for (const name of this.#names) {
        const slot = await this.#request(name, { ifAvailable: true });
        if (slot) return slot;
      }
      return null;
    } catch {
      this.#locks = new PageLocks(); // a page without an origin of its own, in a sandbox, may not use the browser's
      this.#shared = false;
      return this.take();
    }
  }

  /** Resolves to a slot when one is free for this tab, which has to be visible then. Never after an abort. */
  wait(signal) {
    return new Promise((resolve) => {
      this.#waiting.add(resolve);
      signal.addEventListener("abort", () => {
        this.#waiting.delete(resolve);
        if (this.#waiting.size === 0) this.#seeking?.abort();
        this.#listen();
      });
      this.#seek();
    });
  }

  async #seek() {
    if (this.#seeking || this.#waiting.size === 0 || !visible()) return;
    const seeking = (this.#seeking = new AbortController());
    this.#listen();
    this.#ask(seeking.signal);
    const requests = this.#names.map((name) => this.#request(name, { signal: seeking.signal }));
    const slot = await Promise.any(requests).catch(() => null);
    seeking.abort();
    // Where nothing was held, all requests are granted before the first result is seen here.
    for (const request of requests) request.then((other) => other !== slot && other?.release(), () => {});
    this.#seeking = null;
    const [first] = this.#waiting;
    this.#waiting.delete(first);
    if (first && slot) first(slot);
    else slot?.release();
    this.#seek();
  }

  /** Asks the holders of all slots, one after the other, until one has given way: hidden ones do. */
  async #ask(signal) {
    for (const name of this.#names) {
      this.#channel?.postMessage(name);
      await new Promise((resolve) => setTimeout(resolve, ANSWER_MS));
      if (signal.aborted) return;
    }
  }

  /** Opens the channel, or closes it where nothing is held or waited for: an open one may keep a page from being cached. */
  #listen() {
    const needed = this.#shared && (this.#held.size > 0 || this.#waiting.size > 0);
    if (needed && !this.#channel) {
      this.#channel = new BroadcastChannel("tryon.streams");
      this.#channel.onmessage = ({ data }) => this.#consider(data, true);
    } else if (!needed) {
      this.#channel?.close();
      this.#channel = null;
    }
  }

  async #hidden() {
    this.#seeking?.abort();
    if (this.#held.size === 0) return;
    const { pending = [] } = this.#shared ? await this.#locks.query() : {};
    const wanted = new Set(pending.map(({ name }) => name));
    for (const name of [...this.#held.keys()]) this.#consider(name, wanted.has(name));
  }

  #consider(name, wanted) {
    if (givesWay({ visible: visible(), shared: this.#shared, wanted })) this.#held.get(name)?.giveWay();
  }

  #request(name, options) {
    return new Promise((resolve, reject) => {
      const use = (lock) => {
        if (!lock || options.signal?.aborted) return resolve(null);
        return new Promise((freed) => {
          const release = () => {
            this.#held.delete(name);
            this.#listen();
            freed();
          };
          const slot = { giveWay: () => {}, release };
          this.#held.set(name, slot);
          this.#listen();
          resolve(slot);
        });
      };
      this.#locks.request(name, options, use).catch(reject);
    });
  }
}

function visible() {
  return globalThis.document?.visibilityState !== "hidden";
}

const all = new Map();

/** The slots for the streams of the server at this URL. */
export function slotsFor(url) {
  const { host } = url;
  if (!all.has(host)) all.set(host, new Slots(host));
  return all.get(host);
}
