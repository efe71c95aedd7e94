/**
 * A React hook for a try-on: `const { session, preview, error, start } = useTryOn()`. React 18 or newer; the package's
 * `tryon-push/react`.
 *
 * The state lives in a small store outside React, one for each component and client, so that a render is never half a change.
 * Types: react.d.ts. Guide: docs/react.md.
 */
"use client";

import { useEffect, useRef, useState, useSyncExternalStore } from "react";
import { Problem, TryOn, randomText } from "./tryon.js";

const IDLE = { session: null, preview: null, error: null, connection: null, uploaded: null };

/** One try-on at a time; a new one takes the place of the one before. */
class Store {
  #state = IDLE;
  #listeners = new Set();
  #stop = new AbortController(); // of what goes on now
  #hiding = 0; // timer
  #hidden = false;
  #go = null; // uploads or follows; also goes on after a pause. It is the identity of the present try-on.
  #options = {}; // its own, for a retry
  #going = false; // until it has ended or failed
  #removing = null; // promise

  constructor(tryon) {
    this.tryon = tryon;
  }

  // Bound, since React and callers take them off.
  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  snapshot = () => this.#state;

  start = (inputs) => this.#begin(null, { idempotencyKey: randomText(), ...photosOf(inputs) });

  follow = (session, options = {}) => this.#begin(session, options);

  cancel = async () => {
    const { session } = this.#state;
    if (!session) return this.reset();
    await this.#tried(() => this.tryon.cancel(session));
  };

  retry = async () => {
    const { session, error } = this.#state;
    const go = this.#go;
    if (!session) {
      if (!error || !go) return null;
      this.#fresh(go);
      return this.#run();
    }
    const next = await this.#tried(() => this.tryon.retry(session));
    return next && go === this.#go ? this.#begin(next, this.#options) : null;
  };

  remove = () => {
    const removing = this.#remove();
    this.#removing = removing;
    return removing;
  };

  reset = () => {
    this.#fresh(null);
  };

  /** The component is gone or hidden: nothing is followed soon. Strict mode mounts it again at once. The session goes on. */
  stop = () => {
    this.#hiding = setTimeout(() => {
      this.#hidden = true;
      this.#stop.abort();
    });
  };

  /** The component is there, again perhaps: what `stop()` ended goes on. */
  resume = () => {
    clearTimeout(this.#hiding);
    if (!this.#hidden) return;
    this.#hidden = false;
    this.#stop = new AbortController();
    if (this.#going) this.#run();
  };

  /** Uploads, or follows `known`, a session or its id, in place of the try-on before. */
  #begin(known, { since, onEvent, onProgress, ...options }) {
    const given = {
      ...options,
      onEvent: (event) => {
        since = event.seq; // it goes on after that
        onEvent?.(event);
      },
    };
    this.#fresh((signal) => {
      const all = { ...given, ...this.#callbacks(signal), since, signal };
      const session = this.#state.session ?? known;
      if (session) return this.tryon.follow(session, all).done;
      this.#set({ connection: "uploading", uploaded: 0 });
      const told = (uploaded) => {
        if (!signal.aborted) this.#set({ uploaded });
        onProgress?.(uploaded);
      };
      return this.tryon.run({ ...all, onProgress: told });
    });
    this.#options = { ...options, onEvent };
    if (known?.session_id) this.#show(known);
    return this.#run();
  }

  async #run() {
    const { signal } = this.#stop;
    this.#going = true;
    try {
      return await this.#go(signal);
    } catch (error) {
      if (!signal.aborted) await this.#removing; // its session is gone as it should be
      if (!signal.aborted) this.#set({ error, connection: null, uploaded: null });
      return null;
    } finally {
      if (!signal.aborted) this.#going = false;
    }
  }

  async #remove() {
    const { session } = this.#state;
    if (!session) return null;
    const receipt = await this.#tried(() => this.tryon.remove(session));
    if (receipt && this.#state.session?.session_id === session.session_id) this.reset();
    return receipt;
  }

  /** Ends the try-on before. */
  #fresh(go) {
    this.#stop.abort();
    this.#stop = new AbortController();
    if (this.#hidden) this.#stop.abort(); // it begins when the component is shown
    this.#go = go;
    this.#going = false;
    this.#state = IDLE;
    this.#set({});
  }

  #callbacks(signal) {
    return {
      onSession: (session) => signal.aborted || this.#show(session),
      onConnection: (connection) => signal.aborted || this.#set({ connection, uploaded: null }),
    };
  }

  #show(session) {
    const { error, preview } = session;
    const failed = error && new Problem({ code: error.code, detail: error.message, retryable: error.retryable });
    this.#set({ session, preview: preview?.link ?? null, error: failed });
  }

  /** The result of a call; null if it is refused, with the reason in `error`. */
  async #tried(call) {
    const { signal } = this.#stop;
    try {
      return await call();
    } catch (error) {
      if (!signal.aborted) this.#set({ error });
      return null;
    }
  }

  #set(news) {
    this.#state = { ...this.#state, ...news };
    for (const listener of this.#listeners) listener();
  }
}

/** A file alone is the photo. */
function photosOf(inputs) {
  return inputs instanceof Blob ? { image: inputs } : inputs;
}

/**
 * One try-on at a time, for this component. Its functions keep their identity until `base` or `token` change; of a `token` that is
 * a function always the one of the last render is asked.
 */
export function useTryOn({ base, token: given, fetch, WebSocket } = {}) {
  const latest = useRef(given);
  useEffect(() => {
    latest.current = given;
  });
  const [ask] = useState(() => () => latest.current());
  const token = typeof given === "function" ? ask : given;
  const make = () => ({ base, token, store: new Store(new TryOn({ base, token, fetch, WebSocket })) });
  const [made, setMade] = useState(make);
  if (made.base !== base || made.token !== token) setMade(make()); // React renders again at once
  const { store } = made;
  const state = useSyncExternalStore(store.subscribe, store.snapshot, () => IDLE);
  useEffect(() => {
    store.resume();
    return store.stop;
  }, [store]);
  const { tryon, start, follow, cancel, retry, remove, reset } = store;
  return { ...state, tryon, start, follow, cancel, retry, remove, reset };
}
