/**
 * A React hook for a try-on: `const { session, preview, error, start } = useTryOn()`. React 18 or newer; the package's
 * `tryon-push/react`.
 *
 * The state lives in a small store outside React, one for each component and client, so that a render is never half a change.
 * Types: react.d.ts. Guide: docs/react.md.
 */
"use client";

import { useEffect, useState, useSyncExternalStore } from "react";
import { Problem, TryOn, randomText } from "./tryon.js";

const IDLE = { session: null, preview: null, error: null, connection: null, uploaded: null };

/** One try-on at a time; a new one takes the place of the one before. */
class Store {
  #state = IDLE;
  #listeners = new Set();
  #stop = new AbortController(); // of the present try-on
  #stopping = 0; // timer
  #again = null; // sends the last upload again

  constructor(tryon) {
    this.tryon = tryon;
  }

  // Bound, since React and callers take them off.
  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  snapshot = () => this.#state;

  start = (inputs) => {
    const { onProgress, ...upload } = { idempotencyKey: randomText(), ...photosOf(inputs) };
    this.#again = () => {
      const signal = this.#fresh();
      this.#set({ connection: "uploading", uploaded: 0 });
      const told = (uploaded) => {
        this.#set({ uploaded });
        onProgress?.(uploaded);
      };
      return this.#shown(this.tryon.run({ ...upload, ...this.#callbacks(signal), onProgress: told, signal }), signal);
    };
    return this.#again();
  };

  follow = (session, options) => {
    const signal = this.#fresh();
    this.#again = null;
    if (session.session_id) this.#show(session);
    return this.#shown(this.tryon.follow(session, { ...options, ...this.#callbacks(signal), signal }).done, signal);
  };

  cancel = async () => {
    const { session } = this.#state;
    if (!session) return this.reset();
    await this.#tried(() => this.tryon.cancel(session));
  };

  retry = async () => {
    const { session, error } = this.#state;
    if (!session) return error && this.#again ? this.#again() : null;
    const next = await this.#tried(() => this.tryon.retry(session));
    return next && this.follow(next);
  };

  remove = async () => {
    const { session } = this.#state;
    if (!session) return null;
    const receipt = await this.#tried(() => this.tryon.remove(session));
    if (receipt && this.#state.session?.session_id === session.session_id) this.reset();
    return receipt;
  };

  reset = () => {
    this.#fresh();
    this.#again = null;
  };

  /** The component is gone or hidden: nothing is followed soon. Strict mode mounts it again at once. The session goes on. */
  stop = () => {
    this.#stopping = setTimeout(() => this.#stop.abort());
  };

  /** The component is there, again perhaps: what `stop()` ended goes on. */
  resume = () => {
    clearTimeout(this.#stopping);
    const { session, connection } = this.#state;
    if (!this.#stop.signal.aborted) return;
    if (connection === "uploading") this.#again();
    else if (session && !session.terminal) this.follow(session);
  };

  /** Ends the try-on before. Returns the signal of the next. */
  #fresh() {
    this.#stop.abort();
    this.#stop = new AbortController();
    this.#state = IDLE;
    this.#set({});
    return this.#stop.signal;
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

  /** Resolves to the ended session; to null if there is none, with the reason in `error`. */
  async #shown(ended, signal) {
    try {
      return await ended;
    } catch (error) {
      if (!signal.aborted) this.#set({ error, connection: null, uploaded: null });
      return null;
    }
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

/** One try-on at a time, for this component. Its functions keep their identity until `base` or `token` change. */
export function useTryOn({ base, token, fetch, WebSocket } = {}) {
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
