"""Every operation of the API, one row each: path, method, handler, answers, errors.

The application makes its routes of :data:`OPERATIONS`, the OpenAPI document its paths,
and the tests hold both to this table. To add an operation, add a row.
"""

from __future__ import annotations

from typing import Final

from server.web.api.health import Health
from server.web.api.operation import Answer, Http, Operation, Socket
from server.web.api.sessions import ReceiptKeys, SessionList
from server.web.common.answers import SessionAnswer
from tryon.protocol import paths
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.frames import BEARER_SUBPROTOCOL, SUBPROTOCOL
from tryon.protocol.limits import LimitsView
from tryon.protocol.processors import ProcessorView
from tryon.protocol.quotas import QuotaView
from tryon.protocol.views import History, Receipt, Share

TOKEN: Final = ("bearer", "client_token")
TOKEN_OR_TICKET: Final = (*TOKEN, "ticket")
MAY_SEND_TOKEN: Final = (*TOKEN, "")

_OWNER_ERRORS: Final = ("invalid_token", "insufficient_scope", "not_found", "unavailable")
_LOOK_ERRORS: Final = ("invalid_token", "insufficient_scope", "invalid_ticket", "not_found", "unavailable")
_UPLOAD_ERRORS: Final = (
    "bad_multipart", "bad_idempotency_key", "invalid_token", "token_required", "insufficient_scope",
    "idempotency_in_flight", "body_too_large", "too_slow",
    "not_multipart", "unsupported_encoding", "unsupported_image", "missing_image", "unreadable_image", "too_many_pixels",
    "image_too_small", "image_too_large", "bad_params", "bad_webhook", "not_found",
    "idempotency_needs_token", "idempotency_mismatch", "rate_limited", "over_quota", "processor_not_allowed",
    "queue_full", "unavailable", "storage_full",
)  # fmt: skip
_PRIVATE_ERRORS: Final = ("token_required", "not_found")
_RATE_HEADERS: Final = ("RateLimit", "RateLimit-Policy")
_PICTURE: Final = Answer(text="Ok or degraded.", body=Health)
_UNCHANGED: Final = Answer(text="Nothing has changed since the ETag in `If-None-Match`.", headers=("ETag",))
_DOWN: Final = Answer(text="Down: the database or the storage is unavailable, or the server is stopping.", body=Health)

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        method="POST",
        path=paths.SESSIONS,
        name="submit",
        handler=Http(lambda web: web.submit.upload),
        tag="sessions",
        summary="Upload a photo",
        text="Answers at once with the session, which a worker then processes. The stored photo is upright and without "
        "metadata. The answer to an upload without a token carries a new one, `client_token`. A refused upload "
        "leaves nothing.",
        parameters=("idempotency_key",),
        form="upload",
        security=MAY_SEND_TOKEN,
        answers={
            201: Answer(
                text="The session: stored, and queued or about to be.",
                body=SessionAnswer,
                headers=("Location", "Idempotent-Replay", *_RATE_HEADERS),
            )
        },
        errors=_UPLOAD_ERRORS,
        error_headers=_RATE_HEADERS,
    ),
    Operation(
        method="GET",
        path=paths.SESSIONS,
        name="list",
        handler=Http(lambda web: web.sessions.list),
        tag="sessions",
        summary="List sessions",
        text="The sessions of the client token, newest first.",
        parameters=("limit", "cursor"),
        security=TOKEN,
        answers={200: Answer(text="A page of sessions.", body=SessionList)},
        errors=("bad_request", "invalid_token", "insufficient_scope", "token_required", "unavailable"),
    ),
    Operation(
        method="GET",
        path=paths.SESSION,
        name="session",
        handler=Http(lambda web: web.polls.session),
        tag="sessions",
        summary="Read a session",
        text="The same as a snapshot on the socket. `Retry-After` gives the seconds until the next poll; it is "
        "missing once the session has ended. With `since` the answer also holds `missed`; with `wait` it is a long poll.",
        parameters=("session_id", "since", "wait", "if_none_match"),
        security=TOKEN_OR_TICKET,
        answers={
            200: Answer(
                text="The session.",
                body=SessionAnswer,
                headers=("ETag", "Retry-After"),
            ),
            304: Answer(
                text="Nothing has changed since the ETag in `If-None-Match`, or before the wait was over.",
                headers=("ETag", "Retry-After"),
            ),
        },
        errors=("bad_request", *_LOOK_ERRORS, "rate_limited"),
    ),
    Operation(
        method="DELETE",
        path=paths.SESSION,
        name="erase",
        handler=Http(lambda web: web.sessions.delete),
        tag="sessions",
        summary="Erase a session now",
        text="Erases files, rows and keys, of all retries of the same photo, too. Running work is stopped, following clients "
        f"are closed with {CloseCode.GONE}, and later requests are a 404. The receipt is signed.",
        parameters=("session_id",),
        security=TOKEN,
        answers={200: Answer(text="Erased.", body=Receipt)},
        errors=_OWNER_ERRORS,
    ),
    Operation(
        method="POST",
        path=paths.CANCEL,
        name="cancel",
        handler=Http(lambda web: web.sessions.cancel),
        tag="sessions",
        summary="Cancel a session",
        text="A waiting session is cancelled at once, a running one is asked to stop, one that has ended stays as it is.",
        parameters=("session_id",),
        security=TOKEN,
        answers={
            200: Answer(text="The session: cancelled, or ended before.", body=SessionAnswer),
            202: Answer(text="The session: still running, about to be cancelled.", body=SessionAnswer),
        },
        errors=_OWNER_ERRORS,
    ),
    Operation(
        method="POST",
        path=paths.RETRY,
        name="retry",
        handler=Http(lambda web: web.submit.retry),
        tag="sessions",
        summary="Retry a failed or cancelled session",
        text="Creates a session with its own copy of the photos, with `retry_of` set and the same time of erasure; no "
        "upload is needed. A repeated request answers with the same session while it exists. It counts as an upload.",
        parameters=("session_id",),
        security=TOKEN,
        answers={
            201: Answer(
                text="The new session.",
                body=SessionAnswer,
                headers=("Location", "Idempotent-Replay", *_RATE_HEADERS),
            )
        },
        errors=(
            *_OWNER_ERRORS,
            "token_required",
            "processor_not_allowed",
            "not_finished",
            "rate_limited",
            "over_quota",
            "queue_full",
            "storage_full",
        ),
        error_headers=_RATE_HEADERS,
    ),
    Operation(
        method="POST",
        path=paths.SHARE,
        name="share",
        handler=Http(lambda web: web.sessions.share),
        tag="sessions",
        summary="Share the result",
        text="Answers with a link that opens the first output without a credential, and nothing else: neither the photo nor "
        "the session. It ends after 24 hours or with the session, and at once when the session is erased.",
        parameters=("session_id",),
        security=TOKEN,
        answers={201: Answer(text="The link.", body=Share)},
        errors=(*_OWNER_ERRORS, "not_completed"),
    ),
    Operation(
        method="POST",
        path=paths.CRASH,
        name="crash",
        handler=Http(lambda web: web.sessions.crash),
        tag="sessions",
        summary="Let the worker of a session crash",
        text="In demo mode only (`TRYON_DEMO`), else a 404: kills the worker process that runs the session, and all other "
        "sessions of that process. The session runs again once its lease has lapsed. Limited by `TRYON_CRASH_RATE`.",
        parameters=("session_id",),
        security=TOKEN,
        answers={202: Answer(text="The session: its worker was asked to crash.", body=SessionAnswer)},
        errors=(*_OWNER_ERRORS, "not_running", "rate_limited"),
    ),
    Operation(
        method="GET",
        path=paths.HISTORY,
        name="history",
        handler=Http(lambda web: web.sessions.history),
        tag="sessions",
        summary="Read every transition of a session",
        text="The audit trail from the beginning, which is also the event log that `since` resumes from. `delivered_at` is "
        "when a client was first sent the terminal event, recorded within a second; null before that.",
        parameters=("session_id",),
        security=TOKEN_OR_TICKET,
        answers={200: Answer(text="The events in order.", body=History)},
        errors=_LOOK_ERRORS,
    ),
    Operation(
        method="GET",
        path=paths.SOCKET,
        name="socket",
        handler=Socket(lambda web: web.sockets.endpoint),
        tag="sessions",
        summary="Follow a session over WebSocket",
        text=f"Subprotocol `{SUBPROTOCOL}`; frames and close codes are in [the AsyncAPI document]({paths.ASYNCAPI}). The "
        f"token may also come as the subprotocol pair `{SUBPROTOCOL}, {BEARER_SUBPROTOCOL}<token>`. Refusals that a user "
        "should understand are accepted, then closed after an `error` frame.",
        parameters=("session_id", "since"),
        security=TOKEN_OR_TICKET,
        answers={
            101: Answer(text="The socket."),
            403: Answer(text="Pages of that origin may not connect.", media="text/plain"),
        },
        errors=("not_found", "unavailable"),
    ),
    Operation(
        method="GET",
        path=paths.EVENTS,
        name="events",
        handler=Http(lambda web: web.streams.endpoint),
        tag="sessions",
        summary="Follow a session as Server-Sent Events",
        text="The frames of the socket, each as one event: `data` is the frame, `id` the seq on snapshot and event frames; no "
        "`event` field. The stream ends after `bye`. Overload is a stream of one `retry` line, because any other status "
        "would stop an EventSource from reconnecting.",
        parameters=("session_id", "since", "last_event_id"),
        security=TOKEN_OR_TICKET,
        answers={
            200: Answer(text="The stream.", media="text/event-stream"),
            204: Answer(text="The client has seen the end: it must not reconnect."),
        },
        errors=("invalid_token", "insufficient_scope", "invalid_ticket", "not_found"),
    ),
    Operation(
        method="GET",
        path=paths.OWNER_SOCKET,
        name="owner_socket",
        handler=Socket(lambda web: web.owner_sockets.endpoint),
        tag="sessions",
        summary="Follow all sessions of an owner over WebSocket",
        text="A snapshot of each living session, then `synced`, then the frames of all; a new session appears as a "
        "snapshot, an end is `ended`, and `bye` closes the connection only. Otherwise as the socket of one session; "
        f"[the AsyncAPI document]({paths.ASYNCAPI}) has the frames. A ticket is not enough.",
        parameters=("since_all",),
        security=TOKEN,
        answers={
            101: Answer(text="The socket."),
            403: Answer(text="Pages of that origin may not connect.", media="text/plain"),
        },
        errors=("not_found", "unavailable"),
    ),
    Operation(
        method="GET",
        path=paths.OWNER_EVENTS,
        name="owner_events",
        handler=Http(lambda web: web.owner_streams.endpoint),
        tag="sessions",
        summary="Follow all sessions of an owner as Server-Sent Events",
        text="The frames of the owner's socket, each as one event: `data` is the frame, `id` the cursor of all sessions. "
        "EventSource cannot send a token, so read it with fetch. Overload is a stream of one `retry` line.",
        parameters=("since_all", "last_event_id_all"),
        security=TOKEN,
        answers={200: Answer(text="The stream; it ends after `bye`.", media="text/event-stream")},
        errors=("invalid_token", "token_required", "insufficient_scope", "unavailable"),
    ),
    Operation(
        method="GET",
        path=paths.RECEIPT_KEY,
        name="receipt_key",
        handler=Http(lambda web: web.sessions.receipt_key),
        tag="sessions",
        summary="Read the public keys of receipts",
        answers={200: Answer(text="The keys: the first signs, all verify.", body=ReceiptKeys)},
    ),
    Operation(
        method="GET",
        path=paths.PROCESSOR,
        name="processor",
        handler=Http(lambda web: web.processor.processor),
        tag="sessions",
        summary="Read what the processor takes and makes",
        text="The names of the parts of an upload, their limits, the JSON Schema of `params`, the outputs, and where the photo "
        "goes. Uploads are judged by it. Without a living worker it is the last description that one has published.",
        answers={200: Answer(text="The processor.", body=ProcessorView)},
        errors=("unavailable",),
    ),
    Operation(
        method="GET",
        path=paths.LIMITS,
        name="limits",
        handler=Http(lambda web: web.limits.limits),
        tag="sessions",
        summary="Read the limits of this server",
        text="Formats, sizes and rates by which uploads are judged, and how long things are kept. A role of the processor may "
        "allow less.",
        answers={200: Answer(text="The limits.", body=LimitsView)},
    ),
    Operation(
        method="GET",
        path=paths.QUOTA,
        name="quota",
        handler=Http(lambda web: web.quota.quota),
        tag="sessions",
        summary="Read your plan, and what is left of it",
        text="With a user's JWT that user's, else that of anonymous clients, who are counted by their address.",
        security=MAY_SEND_TOKEN,
        answers={200: Answer(text="The plan, its limits and their use.", body=QuotaView)},
        errors=("invalid_token", "insufficient_scope", "unavailable"),
    ),
    Operation(
        method="GET",
        path=paths.FILE,
        name="file",
        handler=Http(lambda web: web.files.file),
        tag="sessions",
        summary="Read a photo or a result by its signed link",
        text="The link comes from a session or an event. A changed or expired link and an erased file are a 404. "
        "Supports `Range`.",
        parameters=("key", "link_expires", "link_key", "link_signature"),
        answers={
            200: Answer(text="The image.", media="image/*"),
            206: Answer(text="The parts that `Range` asked for.", media="image/*", headers=("Content-Range",)),
        },
        errors=("not_found", "range_not_satisfiable", "unavailable"),
    ),
    Operation(
        method="GET",
        path=paths.HEALTH,
        name="health",
        handler=Http(lambda web: web.health.health),
        tag="service",
        summary="Read the health of all parts",
        text="`degraded`: uploads are accepted, but something is slower or missing. `down`: uploads cannot be accepted. "
        "`TRYON_PRIVATE_PATHS` says who may read it.",
        answers={200: _PICTURE, 503: _DOWN},
        errors=_PRIVATE_ERRORS,
    ),
    Operation(
        method="GET",
        path=paths.LIVE,
        name="live",
        handler=Http(lambda web: web.health.live),
        tag="service",
        summary="Check liveness",
        text="Fails only if a restart would help.",
        answers={200: Answer(text="The process answers.", body=Health)},
    ),
    Operation(
        method="GET",
        path=paths.READY,
        name="ready",
        handler=Http(lambda web: web.health.ready),
        tag="service",
        summary="Check readiness",
        text="Without Redis the process is `degraded`, but ready: uploads and pushes go on.",
        answers={200: Answer(text="Ready: ok or degraded.", body=Health), 503: _DOWN},
    ),
    Operation(
        method="GET",
        path=paths.METRICS,
        name="metrics",
        handler=Http(lambda web: web.metrics.metrics),
        tag="service",
        summary="Read metrics for Prometheus",
        text="`TRYON_PRIVATE_PATHS` says who may read them.",
        errors=_PRIVATE_ERRORS,
        answers={200: Answer(text="All names begin with `tryon_`.", media="text/plain")},
    ),
    Operation(
        method="GET",
        path=paths.PAGE,
        name="page",
        handler=Http(lambda web: web.pages.page),
        tag="pages",
        summary="Show the demo page",
        parameters=("if_none_match",),
        answers={200: Answer(text="A page.", media="text/html", headers=("ETag",)), 304: _UNCHANGED},
    ),
    Operation(
        method="GET",
        path=paths.DOCS,
        name="docs",
        handler=Http(lambda web: web.pages.docs),
        tag="pages",
        summary="Show this documentation",
        parameters=("if_none_match",),
        answers={
            200: Answer(text="A page that loads nothing from other servers.", media="text/html", headers=("ETag",)),
            304: _UNCHANGED,
        },
    ),
    Operation(
        method="GET",
        path=paths.OPENAPI,
        name="openapi",
        handler=Http(lambda web: web.documents.openapi),
        tag="pages",
        summary="Read the OpenAPI document",
        parameters=("if_none_match",),
        answers={200: Answer(text="OpenAPI 3.1.", media="application/json", headers=("ETag",)), 304: _UNCHANGED},
    ),
    Operation(
        method="GET",
        path=paths.ASYNCAPI,
        name="asyncapi",
        handler=Http(lambda web: web.documents.asyncapi),
        tag="pages",
        summary="Read the AsyncAPI document",
        parameters=("if_none_match",),
        answers={200: Answer(text="AsyncAPI 3.", media="application/json", headers=("ETag",)), 304: _UNCHANGED},
    ),
    Operation(
        method="GET",
        path=paths.STATIC,
        name="static",
        handler=Http(lambda web: web.pages.static),
        tag="pages",
        summary="Read a static file of the demo page or of the documentation",
        answers={200: Answer(text="The file.", media="*/*")},
        documented=False,
    ),
)
