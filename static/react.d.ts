/** Types of react.js. */

import type { Connection, FollowOptions, Problem, Receipt, RunOptions, Session, TryOn, TryOnOptions } from "./tryon.js";

/** Options of `follow()`; the hook itself has the signal and shows the session and the connection. */
export type Options = Omit<FollowOptions, "signal" | "onSession" | "onConnection">;
/** A photo, or photos by role, with params and whatever else `run()` takes. */
export type Inputs = File | Blob | Omit<RunOptions, "signal" | "onSession" | "onConnection">;

/** One try-on, and what may be done with it. The functions never reject: what went wrong is in `error`. */
export interface TryOnState {
  /** The newest; null before the photos have arrived. */
  session: Session | null;
  /** Link of the last intermediate picture. */
  preview: string | null;
  /** Why the last call was refused, why the session is gone, or why it failed. */
  error: Problem | null;
  /** Null before the start, and after an error. */
  connection: "uploading" | Connection | null;
  /** From 0 to 1, while it uploads. */
  uploaded: number | null;
  /** The client, for everything else: `share()`, `limits()`, `list()`. */
  tryon: TryOn;
  /** Uploads and follows; a try-on before it is no longer followed. Resolves to the session at its end, to null without one. */
  start(inputs: Inputs): Promise<Session | null>;
  /** Follows a session that exists, after a reload for instance. */
  follow(session: Session | string, options?: Options): Promise<Session | null>;
  /** Cancels the session, or the upload. */
  cancel(): Promise<void>;
  /** The failed or cancelled session again without an upload, or the upload that did not arrive. */
  retry(): Promise<Session | null>;
  /** Erases the session and its photos now. */
  remove(): Promise<Receipt | null>;
  /** Forgets the session here; on the server it goes on. */
  reset(): void;
}

export function useTryOn(options?: TryOnOptions): TryOnState;
