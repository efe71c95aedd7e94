/** Types of tryon.js. Times are RFC 3339 in UTC; links are signed, expire, and work on any page. */

export type Status = "created" | "processing" | "completed" | "failed" | "cancelled";
export type Transport = "ws" | "sse" | "long-poll" | "poll";
/** `live`: pushed. `polling`: asked for. `finished`: nothing more comes. */
export type Connection = "connecting" | "live" | "polling" | "reconnecting" | "offline" | "finished";

// <made by python -m testkit.declarations>
/** Codes of a refused call, and of a session that is gone. */
export type RefusalCode =
  | "bad_multipart" | "bad_request" | "bad_idempotency_key" | "invalid_token" | "invalid_ticket" | "token_required"
  | "insufficient_scope" | "processor_not_allowed" | "not_found" | "method_not_allowed" | "not_acceptable" | "too_slow"
  | "not_finished" | "not_completed" | "not_running" | "idempotency_in_flight" | "deleted" | "expired"
  | "body_too_large" | "not_multipart" | "unsupported_encoding" | "unsupported_image" | "range_not_satisfiable"
  | "missing_image" | "unknown_input" | "unreadable_image" | "too_many_pixels" | "image_too_small" | "image_too_large"
  | "bad_params" | "bad_webhook" | "idempotency_needs_token" | "idempotency_mismatch" | "rate_limited" | "over_quota"
  | "internal_error" | "unavailable" | "queue_full" | "storage_full";
/** Codes of a failed session. A processor may add its own. */
export type FailureCode =
  | "mock_failure" | "person_not_found" | "pose_not_supported" | "garment_not_found" | "unreadable_image"
  | "moderated_input" | "moderated_output" | "input_lost" | "backend_busy" | "backend_cold" | "backend_unreachable"
  | "backend_auth" | "quota_exceeded" | "processor_error" | "processor_crashed" | "worker_lost" | "timeout"
  | "storage_full" | "internal";
/** Limits of `rate_limited`, called like their settings, and of `over_quota`, the fields of a plan. */
export type LimitName =
  | "upload_rate" | "crash_rate" | "ops_tokens" | "uploads_per_address" | "spooled_bytes_per_address"
  | "spooled_bytes_per_process" | "connections_per_address" | "sockets_per_address" | "sockets_per_session"
  | "sockets_per_owner" | "queue_share_per_owner" | "queue_share_per_address" | "stored_bytes_per_owner"
  | "stored_bytes_per_address" | "uploads_per_day" | "concurrent_sessions" | "stored_bytes";
// </made>

/** A code of the list, or one of the processor's own. */
export type SessionErrorCode = FailureCode | (string & {});
/** Any of the codes above, of this client's own (`network`: no answer), or of a server that is newer than this file. */
export type ProblemCode = RefusalCode | FailureCode | "network" | "erased" | "unknown" | (string & {});

export interface Session {
  session_id: string;
  status: Status;
  /** Counts the session's transitions, from 1. */
  seq: number;
  terminal: boolean;
  attempt: number;
  stage: string | null;
  /** From 0 to 1. */
  progress: number | null;
  /** From 1, while it waits. */
  queue_position: number | null;
  /** Until the expected end. */
  eta_seconds: number | null;
  error: { code: SessionErrorCode; message: string; retryable: boolean } | null;
  created_at: string;
  updated_at: string;
  /** It ends by then, one way or another. */
  deadline: string;
  /** Everything of it is erased then. */
  expires_at: string;
  processor: string;
  retry_of: string | null;
  copy_of: string | null;
  /** The parameters of its run: the client's, the processor's defaults filled in. */
  params: Record<string, unknown>;
  /** Seed of the processor's random numbers. */
  seed: number;
  /** The model's own count. */
  step: number | null;
  steps: number | null;
  /** The place in the queue of the service that the processor uses; 1 is next. */
  upstream_position: number | null;
  inputs: StoredFile[];
  /** The most important one first. */
  outputs: StoredFile[];
  /** The last intermediate picture. */
  preview: { type: string; width: number | null; height: number | null; link: string } | null;
  /** `input`, `garment` and `output`: the first of each. */
  links: { self: string; ws: string; events: string; input: string; garment: string | null; output: string | null };
}

export interface StoredFile {
  /** One of the processor's roles. */
  role: string;
  /** Among the files of its role, from 0. */
  index: number;
  /** `image/…`; of an output also `video/mp4` and `video/webm`. */
  type: string;
  width: number | null;
  height: number | null;
  bytes: number;
  /** Signed, expires. */
  link: string;
}

/** One transition. */
export interface SessionEvent {
  session_id: string;
  seq: number;
  event: Status | "requeued";
  from: Status | null;
  status: Status;
  terminal: boolean;
  at: string;
  data: Record<string, unknown>;
}

/** The audit trail. */
export interface History {
  events: {
    seq: number;
    event: SessionEvent["event"];
    from: Status | null;
    status: Status;
    at: string;
    attempt: number;
    data: Record<string, unknown>;
  }[];
  /** When a client was first sent the terminal event; null before that. */
  delivered_at: string | null;
}

export interface Receipt {
  session_id: string;
  reason: string;
  deleted_at: string;
  files: { session_id: string; role: string; bytes: number; sha256: string }[];
  /** State of the copy at the service that made the picture: none, deletion pending, or deleted. */
  upstream: "none" | "pending" | "deleted" | "kept";
  key_id: string;
  /** Ed25519, base64url; the public key is at /api/tryon/receipt-key. */
  signature: string;
}

/** Inputs and outputs of a processor. */
export interface Processor {
  name: string;
  version: string;
  /** For people. */
  label: string;
  roles: {
    /** The name of its part in an upload; `image` stands for the first role. */
    name: string;
    required: boolean;
    /** At most. */
    count: number;
    formats: string[];
    max_bytes: number;
    max_pixels: number;
    /** For people. */
    hint: string;
  }[];
  /** JSON Schema (2020-12) of `params`. */
  params_schema: Record<string, unknown>;
  outputs: { name: string; types: string[]; count: number }[];
  /** True if results are marked as made by generative AI. */
  generated: boolean;
  /** Where the photo goes, and how long it stays there. */
  privacy: string;
  typical_seconds: number | null;
  /** True if a cancelled session also stops work elsewhere. */
  cancel: boolean;
  /** True if there are intermediate pictures. */
  preview: boolean;
  /** Processors that may run when this one fails. */
  fallbacks: string[];
  /** True while a worker with this processor runs. */
  available: boolean;
}

/** Limits of the server, and how long it keeps things. */
export interface Limits {
  /** Media types. */
  formats: string[];
  max_image_bytes: number;
  max_body_bytes: number;
  max_pixels: number;
  /** In pixels. */
  min_side: number;
  max_side: number;
  max_params_bytes: number;
  /** How many uploads in how many seconds from one address; null: as many as you like. */
  uploads: { count: number; seconds: number } | null;
  retention_seconds: number;
  deadline_seconds: number;
  link_seconds: number;
  /** Lost workers after which a session fails. */
  max_attempts: number;
  /** True if a worker may be killed, to show how its session recovers. */
  demo: boolean;
  /** Whether clients may upload without being users of the integrator. */
  anonymous: boolean;
}

/** Shows the result alone, without any other credential. */
export interface Share {
  link: string;
  expires_at: string;
}

export interface CallOptions {
  /** Aborting it rejects the call with the signal's reason, by default an AbortError. */
  signal?: AbortSignal | null;
}

export interface UploadOptions extends CallOptions {
  garment?: File | Blob | null;
  /** Files by role, as `processor()` names them, instead of `image` and `garment` or besides. */
  inputs?: Record<string, File | Blob | (File | Blob)[]>;
  params?: Record<string, unknown> | null;
  /** A session, or its id: its photos are copied for the roles that are not sent, and the new one is erased with it. */
  from?: Session | string | null;
  /** Random by default. The same key with the same photo is the same session: send it again if no answer came. */
  idempotencyKey?: string;
  /** From 0 to 1; in browsers only. */
  onProgress?: (part: number) => void;
}

export interface RunOptions extends UploadOptions, Omit<FollowOptions, "signal"> {
  /** Picture of the processor's first role. */
  image?: File | Blob | null;
}

/**
 * Resolves to the session at its end, also a failed or cancelled one. Rejects as `upload()` and `Following.done` do. As an
 * iterator it yields the newest session after each change, the ended one last. Aborting its signal, not leaving the loop, ends
 * it early; the session itself goes on until `cancel()`.
 */
export interface Run extends Promise<Session>, AsyncIterable<Session> {
  /** The newest; null until the photos have arrived. */
  readonly session: Session | null;
}

export interface FollowOptions {
  /** A read-only pass instead of the token. */
  ticket?: string | null;
  /** The last event that is known: `onEvent` gets those after it. Default 0, all of them. */
  since?: number;
  /** The rungs of the ladder that may be used. Default: all. */
  transports?: readonly Transport[];
  /** Aborting it is `close()` with its reason. */
  signal?: AbortSignal | null;
  /** Each transition once, in order. */
  onEvent?: (event: SessionEvent) => void;
  /** The whole session after each change, progress included; never a step back. */
  onSession?: (session: Session) => void;
  onConnection?: (connection: Connection, transport: Transport | null) => void;
  /** Nothing more will come: deleted, expired, erased, not_found, invalid_ticket, invalid_token, misuse, … */
  onGone?: (code: ProblemCode) => void;
}

export interface Following {
  readonly session: Session | null;
  /** The last event's seq. */
  readonly cursor: number;
  readonly connection: Connection | null;
  readonly transport: Transport | null;
  /** The server's clock minus this device's, in ms. */
  readonly clockOffset: number;
  /** Resolves to the session at its end. Rejects with a Problem if it is gone, with an AbortError after `close()`. */
  readonly done: Promise<Session>;
  /** The server's clock, in ms since 1970. */
  now(): number;
  /** Reads the session again, for fresh links; works after the end too. */
  refresh(options?: CallOptions): Promise<Session>;
  /** `reason`: what `done` rejects with, by default an AbortError. */
  close(reason?: unknown): void;
}

/** A refusal (RFC 9457 problem), or a request without an answer: `status` 0, `code` "network". */
export class Problem extends Error {
  constructor(fields?: Partial<Omit<Problem, keyof Error>>);
  status: number;
  code: ProblemCode;
  title: string;
  detail: string;
  /** Trying again may help. */
  retryable: boolean;
  /** Seconds. */
  retryAfter: number | null;
  requestId: string | null;
  /** With `rate_limited` the limit, called like its setting; with `over_quota` the field of the plan. */
  limit: LimitName | (string & {}) | null;
  /** The part of the upload that was refused. */
  part: string | null;
  /** With `bad_params`: the place in `params` (RFC 6901). */
  pointer: string | null;
}

export interface TryOnOptions {
  /** Where the server is, for a page from elsewhere; needed outside a browser. Default: where the page is from. */
  base?: string;
  /** The owner's. Default: in a browser the one in its localStorage, made on first use; elsewhere a new one for each client. Or a function
   * that returns a user's JWT: it is asked before the first request, and once more when the server refuses its last answer. */
  token?: string | (() => string | Promise<string>) | null;
  /** Instead of the global one, for every request. */
  fetch?: typeof fetch | null;
  /** Instead of the global one. Without any, as in Node 20, sessions are followed over the other transports. */
  WebSocket?: (new (url: URL, protocols: string[]) => unknown) | null;
}

/** Every method rejects with a Problem, or with the reason of its signal. */
export class TryOn {
  constructor(options?: TryOnOptions);
  readonly base: string;
  /** Of a function: the last one that it returned, empty before the first. */
  readonly token: string;
  /** `upload()`, then `follow()`, in one call. */
  run(options?: RunOptions): Run;
  upload(image: File | Blob | null, options?: UploadOptions): Promise<Session>;
  processor(options?: CallOptions): Promise<Processor>;
  limits(options?: CallOptions): Promise<Limits>;
  follow(session: Session | string, options?: FollowOptions): Following;
  read(session: Session | string, options?: CallOptions & { ticket?: string | null; since?: number | null }): Promise<Session>;
  /** Every transition so far, from the audit trail. */
  history(session: Session | string, options?: CallOptions & { ticket?: string | null }): Promise<History>;
  /** Mine, newest first. */
  list(
    options?: CallOptions & { limit?: number | null; cursor?: string | null },
  ): Promise<{ sessions: Session[]; next_cursor: string | null }>;
  cancel(session: Session | string, options?: CallOptions): Promise<Session>;
  retry(session: Session | string, options?: CallOptions): Promise<Session>;
  /** Only for a completed session. */
  share(session: Session | string, options?: CallOptions): Promise<Share>;
  remove(session: Session | string, options?: CallOptions): Promise<Receipt>;
}

/** 256 random bits, URL-safe: good for a token or an idempotency key. */
export function randomText(): string;
