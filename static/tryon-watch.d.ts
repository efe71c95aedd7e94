/** Types of tryon-watch.js. */

import type { CallOptions, Connection, ProblemCode, Session, SessionEvent, Status, Transport, TryOn } from "./tryon.js";

/** The status that a session has ended in, or why it was erased; `erased`: over polls, which do not say why. */
export type EndReason = Exclude<Status, "created" | "processing"> | "deleted" | "expired" | "erased" | (string & {});

export interface WatchOptions extends CallOptions {
  /** The rungs that may be used, of `ws`, `sse` and `poll`. Default: all. */
  transports?: readonly Exclude<Transport, "long-poll">[];
  /** Each transition of each session once, in its session's order. */
  onEvent?: (event: SessionEvent) => void;
  /** A whole session after each of its changes, progress included; never a step back. */
  onSession?: (session: Session) => void;
  /** Nothing more comes of this session: after its last event, or when it was erased. */
  onEnded?: (session_id: string, reason: EndReason) => void;
  onConnection?: (connection: Connection, transport: Transport | null) => void;
  /** The server refuses this client: invalid_token, token_required, … Nothing more will come. */
  onGone?: (code: ProblemCode) => void;
}

export interface Watching {
  /** The living sessions as they are now, oldest first. */
  readonly sessions: Session[];
  readonly connection: Connection | null;
  readonly transport: Transport | null;
  /** The server's clock minus this device's, in ms. */
  readonly clockOffset: number;
  /** Never resolves. Rejects with a Problem if the server refuses this client, with an AbortError after `close()`. */
  readonly done: Promise<never>;
  /** The server's clock, in ms since 1970. */
  now(): number;
  /** `reason`: what `done` rejects with, by default an AbortError. */
  close(reason?: unknown): void;
}

/** Follows all living sessions of the client's owner, and those that come, over one connection, until it is closed. */
export function watchAll(tryon: TryOn, options?: WatchOptions): Watching;
