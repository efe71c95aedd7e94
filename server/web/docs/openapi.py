"""What the service says of itself:

OpenAPI 3.1 for HTTP, AsyncAPI 3 for the socket, both made from the code's own models.

An operation is one row of :data:`OPERATIONS`; its error answers follow from the error
codes it names. Schemas come from the structs that are sent, with the units and limits
of :data:`FIELDS` added. The tests hold the tables to the routes, the error codes and
the close codes. Served at ``/api/openapi.json``, ``/api/asyncapi.json`` and, for
people, at ``/api/docs``.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from server import __version__
from server.domain.tokens import TOKEN_PATTERN
from server.web.api.sessions import LIMIT, MAX_LIMIT, ReceiptKey, ReceiptKeys, SessionList
from server.web.api.status import Check, Health
from server.web.api.uploads import MAX_PARAMS_BYTES
from server.web.common.answers import SessionAnswer
from server.web.common.problems import Problem
from server.web.transports.long_poll import MAX_WAIT_SECONDS
from tryon.protocol.close_codes import CLOSE_CODES, CloseCode
from tryon.protocol.errors import CODES, FAILURES, TryOnError
from tryon.protocol.frames import (
    BEARER_SUBPROTOCOL,
    SUBPROTOCOL,
    ByeFrame,
    ErrorFrame,
    EventFrame,
    Frame,
    PingFrame,
    PongFrame,
    ProgressFrame,
    SnapshotFrame,
    encode,
)
from tryon.protocol.paths import API, FILES, SESSIONS
from tryon.protocol.states import Event, Status
from tryon.protocol.views import ErasedFile, History, HistoryEvent, Links, Receipt, SessionView

Schema = dict[str, Any]

# -- examples
# ----------------------------------------------------------------------------------------------------------
# Values of the real structs: a field that is renamed is found by the type checker.

_ID: Final = "019ab9d4-7c1e-7d52-9c6e-0f3a6d1b2c4e"
_SELF: Final = f"{SESSIONS}/{_ID}"
_TICKET: Final = "4365b6f1.1795338900.CBVUp6y64tLy8ctrYvk3qQ"
_SIGNATURE: Final = "expires=1795338300&key=4365b6f1&signature=u9ED_wlum1IxKfDbSPt9VA"
_TOKEN: Final = "k7Qm2pXo5uRtYw8zB1cD4eF6gH9jK0lM3nP5qS7tV2x"  # noqa: S105 - an example
_INPUT: Final = f"{FILES}/inputs/{_ID}-image.jpg?{_SIGNATURE}"
_OUTPUT: Final = f"{FILES}/outputs/{_ID}-1.jpg?{_SIGNATURE}"

_RUNNING: Final = SessionView(
    session_id=_ID,
    status=Status.PROCESSING,
    seq=2,
    terminal=False,
    attempt=1,
    stage="rendering",
    progress=0.4,
    queue_position=None,
    eta_seconds=1.8,
    error=None,
    created_at="2026-11-22T09:00:00.000Z",
    updated_at="2026-11-22T09:00:00.012Z",
    deadline="2026-11-22T09:10:00.000Z",
    expires_at="2026-11-23T09:00:00.000Z",
    processor="mock",
    retry_of=None,
    links=Links(
        self=_SELF,
        ws=f"{_SELF}/ws?ticket={_TICKET}",
        events=f"{_SELF}/events?ticket={_TICKET}",
        input=_INPUT,
        garment=None,
        output=None,
    ),
)
_QUEUED: Final = msgspec.structs.replace(
    _RUNNING, status=Status.CREATED, seq=1, attempt=0, stage=None, progress=None, eta_seconds=None
)
_PROCESSING: Final = EventFrame(
    session_id=_ID,
    seq=2,
    event=Event.PROCESSING,
    from_=Status.CREATED,
    status=Status.PROCESSING,
    terminal=False,
    at="2026-11-22T09:00:00.012Z",
    data={"attempt": 1},
)
_COMPLETED: Final = EventFrame(
    session_id=_ID,
    seq=3,
    event=Event.COMPLETED,
    from_=Status.PROCESSING,
    status=Status.COMPLETED,
    terminal=True,
    at="2026-11-22T09:00:03.020Z",
    data={"output": _OUTPUT},
)
_HISTORY: Final = History(
    [
        HistoryEvent(1, Event.CREATED, None, Status.CREATED, _RUNNING.created_at, 0, {"input": _INPUT}),
        HistoryEvent(2, Event.PROCESSING, Status.CREATED, Status.PROCESSING, _PROCESSING.at, 1, _PROCESSING.data),
        HistoryEvent(3, Event.COMPLETED, Status.PROCESSING, Status.COMPLETED, _COMPLETED.at, 1, _COMPLETED.data),
    ]
)
_RECEIPT: Final = Receipt(
    _ID,
    "deleted",
    "2026-11-22T09:05:00.000Z",
    [ErasedFile(_ID, "image", 148201, "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")],
    "4365b6f1",
    "n0Uu4b2mKq1kq0yWm5F3v8yJ1n3tqk2bX7c5d9e0f1A2b3C4d5E6f7G8h9I0jKlMnOpQrStUvWxYz0123456AA",
)
_RECEIPT_KEYS: Final = ReceiptKeys([ReceiptKey("4365b6f1", "Xy7b0mQ2c4D6e8F0g2H4i6J8k0L2m4N6o8P0q2R4s6U")])
_HEALTH: Final = Health(
    "ok",
    {
        "database": Check("ok", seconds=0.000412),
        "storage": Check("ok", seconds=0.000873),
        "redis": Check("ok", seconds=0.000214),
        "workers": Check("ok", count=1),
        "queue": Check("ok", count=0),
    },
)


def _plain(value: Any) -> Any:
    """A struct as the JSON that is sent."""
    return msgspec.json.decode(encode(value))


def _answer(view: SessionView, **more: Any) -> Any:
    return _plain(view) | more


# -- schemas ---------------------------------------------------------------------------


class ClientPing(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """Asks for a ``pong``."""


class ClientSync(msgspec.Struct, frozen=True, tag_field="type", tag="sync"):
    """Asks for a new snapshot, with the events after ``since`` in ``missed``; one a
    second is answered.
    """

    since: int = 0


_TIME: Final[Schema] = {"format": "date-time"}
_WHOLE: Final[Schema] = {"minimum": 0}
_LINK: Final[Schema] = {"format": "uri-reference"}
_SECONDS: Final[Schema] = {"minimum": 0, "description": "In seconds."}

FIELDS: Final[dict[str, Schema]] = {
    "session_id": {"format": "uuid"},
    "retry_of": {"format": "uuid", "description": "The session that this one tries again."},
    "seq": {"minimum": 1, "description": "Counts the session's transitions from 1."},
    "ErrorFrame.code": {"description": "An error code."},
    "attempt": _WHOLE | {"description": "How often a worker has claimed it; 0 before the first time."},
    "terminal": {"description": "Nothing follows: completed, failed or cancelled."},
    "stage": {"description": "What is being done, in a few words."},
    "progress": {"minimum": 0, "maximum": 1},
    "queue_position": {"minimum": 1, "description": "1 is next; null when not waiting, or unknown."},
    "eta_seconds": _WHOLE | {"description": "To the expected end, in seconds; null if nobody knows."},
    "created_at": _TIME,
    "updated_at": _TIME,
    "at": _TIME,
    "deadline": _TIME | {"description": "At the latest then it has ended, waiting included."},
    "expires_at": _TIME | {"description": "Then everything of it is erased."},
    "processor": {"description": "What makes the picture."},
    "Links.self": _LINK | {"description": "Needs the client token, or a ticket."},
    "Links.ws": _LINK
    | {"description": "With a ticket for those who showed a token, without for those who showed a ticket."},
    "Links.events": _LINK,
    "Links.input": _LINK | {"description": "The stored photo. Signed, expires."},
    "Links.garment": _LINK,
    "Links.output": _LINK | {"description": "The result. Signed, expires. Null until there is one."},
    "missed": {"description": "The events after `since`, in order."},
    "client_token": {
        "pattern": f"^{TOKEN_PATTERN.pattern}$",
        "description": "Only in the answer to an upload that brought no token: keep it, it is told once.",
    },
    "from": {"description": "The status before; null for `created`."},
    "data": {"description": "Depends on the event: the attempt, signed links, the error, why it was queued again."},
    "Problem.status": {"minimum": 400, "maximum": 599},
    "Problem.type": {"description": "Always `about:blank`: look at `code`."},
    "Problem.code": {"enum": sorted(CODES)},
    "Problem.retryable": {"description": "Whether the same again may succeed."},
    "Health.status": {"enum": ["ok", "degraded", "down"]},
    "Check.status": {"enum": ["ok", "degraded", "down"]},
    "Check.seconds": _SECONDS,
    "Check.count": _WHOLE,
    "SessionError.code": {"description": "One of the failure codes, or one of the processor's own."},
    "SessionError.message": {"description": "Safe to show to a person."},
    "SessionError.retryable": {"description": "Whether trying again may help."},
    "next_cursor": {"description": "Opens the next page; null: this was the last."},
    "deleted_at": _TIME,
    "reason": {"enum": ["deleted"]},
    "role": {"enum": ["image", "garment", "output"]},
    "sha256": {
        "pattern": "^[0-9a-f]{64}$",
        "description": "Of what was stored, which is not byte for byte what was sent.",
    },
    "bytes": _WHOLE,
    "key_id": {"description": "Which of the keys at /api/tryon/receipt-key."},
    "Receipt.signature": {
        "description": "Ed25519, base64url without padding, over the JSON of `session_id`, `reason`, `deleted_at` and `files`: "
        "keys sorted, no white space, UTF-8."
    },
    "ReceiptKey.algorithm": {"enum": ["Ed25519"]},
    "ping_seconds": {
        "exclusiveMinimum": 0,
        "description": "How often a `ping` comes; two periods without: connect again.",
    },
    "ByeFrame.code": {"minimum": 1000, "maximum": 4999, "description": "The close code that follows."},
    "ByeFrame.reason": {"description": "How it ended, or an error code."},
    "ByeFrame.retry_after_ms": _WHOLE
    | {"description": "Wait so long before you connect again; null: at once, then back off."},
    "ClientSync.since": _WHOLE,
}
"""What a type cannot say, by field name or by ``Struct.field`` (which wins)."""


def _markdown(text: str) -> str:
    """reStructuredText of a docstring as the Markdown that both documents want."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return " ".join(text.replace("``", "`").split())


def _refine(schema: Schema, more: Schema) -> Schema:
    """Add what :data:`FIELDS` says; of ``X or null`` to X, the description to the
    whole.
    """
    schema = {name: value for name, value in schema.items() if name != "default" or value is not None}
    rules = {name: value for name, value in more.items() if name != "description"}
    said = {name: value for name, value in more.items() if name == "description"}
    if "anyOf" in schema:
        members = [m if m == {"type": "null"} or "$ref" in m else m | rules for m in schema["anyOf"]]
        return {"anyOf": members} | said
    if "$ref" in schema:
        return schema if not said else {"allOf": [schema]} | said
    return schema | rules | said


def _tidy(name: str, component: Schema) -> Schema:
    component = dict(component)
    if "description" in component:
        component["description"] = _markdown(component["description"])
    if "enum" in component:
        return {"type": "string"} | component
    properties = {}
    for key, schema in component.get("properties", {}).items():
        if len(schema.get("enum", ())) == 1:  # the tag of a frame
            properties[key] = {"type": "string", "const": schema["enum"][0]}
        else:
            properties[key] = _refine(schema, FIELDS.get(f"{name}.{key}", FIELDS.get(key, {})))
    return component | {"properties": properties}


def _schemas(types: Sequence[Any]) -> dict[str, Schema]:
    """The structs and all they are made of, by name."""
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return {name: _tidy(name, component) for name, component in sorted(components.items())}


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


# -- HTTP: the tables ------------------------------------------------------------------

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"

HEADERS: Final[dict[str, Schema]] = {
    "X-Request-ID": {
        "description": "The caller's own if it is 1 to 64 of A-Z a-z 0-9 and -, else a new one. Stands in the logs.",
        "schema": {"type": "string"},
    },
    "Location": {"description": "Path of the session.", "schema": {"type": "string", "format": "uri-reference"}},
    "ETag": {"description": "Weak; changes with seq and progress.", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "Seconds to wait before the next try; of a session, before the next poll is worth it.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RateLimit": {
        "description": 'Uploads left for this address, and seconds until one more is free: `"uploads";r=9;t=60`. '
        "Missing while nothing is limited.",
        "schema": {"type": "string"},
        "example": '"uploads";r=9;t=60',
    },
    "RateLimit-Policy": {
        "description": 'Uploads in any window of so many seconds: `"uploads";q=10;w=60`.',
        "schema": {"type": "string"},
        "example": '"uploads";q=10;w=60',
    },
    "Idempotent-Replay": {
        "description": "The session was made by an earlier request; this one changed nothing.",
        "schema": {"type": "string", "const": "true"},
    },
}

PARAMETERS: Final[dict[str, Schema]] = {
    "session_id": {
        "name": "session_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
        "example": _ID,
    },
    "since": {
        "name": "since",
        "in": "query",
        "description": "The last seq you have seen: `missed` then holds the events after it.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "wait": {
        "name": "wait",
        "in": "query",
        "description": f"Long poll: wait so many seconds for news, {MAX_WAIT_SECONDS:g} at most. Answered at once when there is "
        "an event after `since`, with 304 when the time is over. Progress counts as news only against `If-None-Match`.",
        "schema": {"type": "number", "minimum": 0},
    },
    "last_event_id": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "What a browser sends when it comes back: the last seq it has seen. Wins over `since`.",
        "schema": {"type": "string"},
    },
    "idempotency_key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "1 to 255 visible ASCII characters: repeating a request under the same key makes no second session. "
        "Needs a client token; lives as long as the session.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    },
    "limit": {
        "name": "limit",
        "in": "query",
        "description": "Sessions a page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": LIMIT},
    },
    "cursor": {
        "name": "cursor",
        "in": "query",
        "description": "`next_cursor` of the page before.",
        "schema": {"type": "string"},
    },
    "if_none_match": {
        "name": "If-None-Match",
        "in": "header",
        "description": "The ETag of the last answer: 304 if nothing has changed.",
        "schema": {"type": "string"},
    },
    "key": {
        "name": "key",
        "in": "path",
        "required": True,
        "description": "Key of the file, with its slash; from a link.",
        "schema": {"type": "string"},
        "example": f"inputs/{_ID}-image.jpg",
    },
    "link_expires": {
        "name": "expires",
        "in": "query",
        "required": True,
        "description": "Unix seconds.",
        "schema": {"type": "string"},
    },
    "link_key": {
        "name": "key",
        "in": "query",
        "required": True,
        "description": "Id of the key that signed.",
        "schema": {"type": "string"},
    },
    "link_signature": {"name": "signature", "in": "query", "required": True, "schema": {"type": "string"}},
}

SECURITY: Final[dict[str, Schema]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "The client token: 22 to 128 characters of A-Z a-z 0-9 _ and -, made by the client from at least 128 "
        "random bits, or by the server at the first upload.",
    },
    "client_token": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Client-Token",
        "description": "The same token, for clients that cannot send Authorization.",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "A signed, expiring, read-only pass for one session, from its links. For clients that can set no "
        "headers: EventSource, a pasted link, wscat.",
    },
}

TOKEN: Final = ("bearer", "client_token")
TOKEN_OR_TICKET: Final = (*TOKEN, "ticket")
MAY_SEND_TOKEN: Final = (*TOKEN, "")
"""The empty name: none is fine, too."""

_UPLOAD_PARTS: Final[Schema] = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {
            "type": "string",
            "format": "binary",
            "description": "The person: JPEG, PNG or WebP, judged by its content. At most 10 MiB, 40 megapixels, 64 to 8192 "
            "pixels a side, unless configured otherwise.",
        },
        "garment": {"type": "string", "format": "binary", "description": "What to wear; the same rules."},
        "params": {
            "type": "string",
            "contentMediaType": JSON,
            "description": f"A JSON object of at most {MAX_PARAMS_BYTES} bytes, handed to the processor.",
        },
    },
}
BODIES: Final[dict[str, Schema]] = {
    "upload": {
        "required": True,
        "description": "At most 22 MiB unless configured otherwise. Unknown parts are ignored.",
        "content": {
            "multipart/form-data": {
                "schema": _UPLOAD_PARTS,
                "encoding": {
                    name: {"contentType": "image/jpeg, image/png, image/webp"} for name in ("image", "garment")
                },
            }
        },
    }
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One status that is no error. ``schema``: a component's name, or one in full."""

    text: str
    schema: str | Schema | None = None
    headers: tuple[str, ...] = ()
    media: str = JSON
    examples: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One row of the API.

    ``errors``: the codes it may answer with, from which the statuses follow.
    """

    method: str
    path: str
    name: str
    tag: str
    summary: str
    text: str = ""
    parameters: tuple[str, ...] = ()
    body: str | None = None
    security: tuple[str, ...] = ()
    answers: dict[int, Answer]
    errors: tuple[str, ...] = ()
    error_headers: tuple[str, ...] = ()


SESSION: Final = f"{SESSIONS}/{{session_id}}"
_OWNER_ERRORS: Final = ("invalid_token", "not_found", "unavailable")
_LOOK_ERRORS: Final = ("invalid_token", "invalid_ticket", "not_found", "unavailable")
_UPLOAD_ERRORS: Final = (
    "bad_multipart", "bad_idempotency_key", "invalid_token", "idempotency_in_flight", "body_too_large", "not_multipart",
    "unsupported_image", "missing_image", "unreadable_image", "too_many_pixels", "image_too_small", "image_too_large",
    "bad_params", "idempotency_needs_token", "idempotency_mismatch", "rate_limited", "queue_full", "unavailable",
    "storage_full",
)  # fmt: skip
_RATE_HEADERS: Final = ("RateLimit", "RateLimit-Policy")
_EVENT: Final[Schema] = {
    "type": "object",
    "description": "One event of the stream, as an EventSource gives it.",
    "properties": {
        "data": {
            "type": "string",
            "contentMediaType": JSON,
            "description": "A frame, as /api/asyncapi.json describes it.",
        },
        "id": {"type": "string", "pattern": "^[0-9]+$", "description": "The seq, on snapshot and event frames."},
        "retry": {"type": "integer", "minimum": 0, "description": "In milliseconds."},
    },
}
_PICTURE: Final = Answer(text="Ok or degraded.", schema="Health", examples={"ok": _plain(_HEALTH)})
_DOWN: Final = Answer(text="Down: the database or the storage does not answer, or the server stops.", schema="Health")

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        method="post",
        path=SESSIONS,
        name="submit",
        tag="sessions",
        summary="Upload a photo",
        text="Answers at once with the session; the work is done elsewhere. The stored photo is upright and carries no "
        "metadata. An upload without a token gets one, told once as `client_token`. A refused upload leaves nothing.",
        parameters=("idempotency_key",),
        body="upload",
        security=MAY_SEND_TOKEN,
        answers={
            201: Answer(
                text="Accepted and stored; queued, or about to be.",
                schema="SessionAnswer",
                headers=("Location", "Idempotent-Replay", *_RATE_HEADERS),
                examples={"accepted": _answer(_QUEUED), "without a token": _answer(_QUEUED, client_token=_TOKEN)},
            )
        },
        errors=_UPLOAD_ERRORS,
        error_headers=_RATE_HEADERS,
    ),
    Operation(
        method="get",
        path=SESSIONS,
        name="list",
        tag="sessions",
        summary="My sessions",
        text="Those of the client token, newest first.",
        parameters=("limit", "cursor"),
        security=TOKEN,
        answers={
            200: Answer(text="A page.", schema="SessionList", examples={"one": _plain(SessionList([_RUNNING], None))})
        },
        errors=("bad_request", "invalid_token", "token_required", "unavailable"),
    ),
    Operation(
        method="get",
        path=SESSION,
        name="session",
        tag="sessions",
        summary="Look at a session",
        text="Exactly what a snapshot on the socket shows. `Retry-After` tells how soon the next poll is worth it; it is "
        "missing once the session has ended. With `since` the answer also holds `missed`; with `wait` it is a long poll.",
        parameters=("session_id", "since", "wait", "if_none_match"),
        security=TOKEN_OR_TICKET,
        answers={
            200: Answer(
                text="The session.",
                schema="SessionAnswer",
                headers=("ETag", "Retry-After"),
                examples={"running": _answer(_RUNNING)},
            ),
            304: Answer(
                text="Nothing has changed since the ETag in `If-None-Match`, or no news came in time.",
                headers=("ETag", "Retry-After"),
            ),
        },
        errors=("bad_request", *_LOOK_ERRORS, "rate_limited"),
    ),
    Operation(
        method="delete",
        path=SESSION,
        name="erase",
        tag="sessions",
        summary="Erase a session now",
        text="With all retries of the same photo: files, rows and keys. Running work is stopped, whoever follows is told "
        "(4510), and from then on it is a 404. The receipt is signed.",
        parameters=("session_id",),
        security=TOKEN,
        answers={200: Answer(text="Erased.", schema="Receipt", examples={"receipt": _plain(_RECEIPT)})},
        errors=_OWNER_ERRORS,
    ),
    Operation(
        method="post",
        path=f"{SESSION}/cancel",
        name="cancel",
        tag="sessions",
        summary="Cancel a session",
        text="What waits is cancelled at once, what runs is asked to stop, what has ended stays as it is.",
        parameters=("session_id",),
        security=TOKEN,
        answers={
            200: Answer(text="Cancelled, or at its end before.", schema="SessionAnswer"),
            202: Answer(text="It runs, and will be cancelled.", schema="SessionAnswer"),
        },
        errors=_OWNER_ERRORS,
    ),
    Operation(
        method="post",
        path=f"{SESSION}/retry",
        name="retry",
        tag="sessions",
        summary="Try a failed or cancelled session again",
        text="Without a new upload: a new session over its own copy of the photos, with `retry_of` set and the time of "
        "erasure kept. Repeated while that one lives, it answers with it. Counts as an upload.",
        parameters=("session_id",),
        security=TOKEN,
        answers={
            201: Answer(
                text="The new session.",
                schema="SessionAnswer",
                headers=("Location", "Idempotent-Replay", *_RATE_HEADERS),
            )
        },
        errors=(*_OWNER_ERRORS, "not_finished", "rate_limited", "queue_full", "storage_full"),
        error_headers=_RATE_HEADERS,
    ),
    Operation(
        method="get",
        path=f"{SESSION}/history",
        name="history",
        tag="sessions",
        summary="Every transition of a session",
        text="The audit trail, from the beginning; it is also the event log that `since` resumes from. `delivered_at` is when "
        "the terminal event was first handed to a client, noted within a second; null before that.",
        parameters=("session_id",),
        security=TOKEN_OR_TICKET,
        answers={200: Answer(text="The events in order.", schema="History", examples={"completed": _plain(_HISTORY)})},
        errors=_LOOK_ERRORS,
    ),
    Operation(
        method="get",
        path=f"{SESSION}/ws",
        name="socket",
        tag="sessions",
        summary="Follow a session over WebSocket",
        text=f"Subprotocol `{SUBPROTOCOL}`; frames and close codes are in [the AsyncAPI document](/api/asyncapi.json). The "
        f"token may also come as the subprotocol pair `{SUBPROTOCOL}, {BEARER_SUBPROTOCOL}<token>`. Refusals that a person "
        "should understand are accepted, told as an `error` frame, and closed.",
        parameters=("session_id", "since"),
        security=TOKEN_OR_TICKET,
        answers={
            101: Answer(text="The socket."),
            403: Answer(text="A page of that origin may not connect.", media="text/plain", schema={"type": "string"}),
        },
        errors=("not_found", "unavailable"),
    ),
    Operation(
        method="get",
        path=f"{SESSION}/events",
        name="events",
        tag="sessions",
        summary="Follow a session as Server-Sent Events",
        text="The frames of the socket, one an event: `data` is the frame, `id` the seq on snapshot and event frames; no "
        "`event` field. The stream ends after `bye`. Overload is a stream of one `retry` line, because any other status "
        "would end an EventSource for good.",
        parameters=("session_id", "since", "last_event_id"),
        security=TOKEN_OR_TICKET,
        answers={
            200: Answer(text="The stream.", media="text/event-stream", schema=_EVENT),
            204: Answer(text="You have seen its end: don't come back."),
        },
        errors=("invalid_token", "invalid_ticket", "not_found"),
    ),
    Operation(
        method="get",
        path=f"{API}/receipt-key",
        name="receipt_key",
        tag="sessions",
        summary="The public keys of the receipts",
        answers={
            200: Answer(
                text="The first signs, all verify.", schema="ReceiptKeys", examples={"one": _plain(_RECEIPT_KEYS)}
            )
        },
    ),
    Operation(
        method="get",
        path=f"{FILES}/{{key}}",
        name="file",
        tag="sessions",
        summary="A photo or a result, by its signed link",
        text="Take the link from a session or an event as it is. A link that was tampered with or has expired, and a file "
        "that was erased, are a 404. Knows `Range`.",
        parameters=("key", "link_expires", "link_key", "link_signature"),
        answers={
            200: Answer(text="The image.", media="image/*", schema={"type": "string", "format": "binary"}),
            206: Answer(
                text="The part that `Range` asked for.", media="image/*", schema={"type": "string", "format": "binary"}
            ),
        },
        errors=("not_found", "unavailable"),
    ),
    Operation(
        method="get",
        path="/api/health",
        name="health",
        tag="service",
        summary="How everything is",
        text="`degraded`: uploads are accepted, but something is slower or missing. `down`: they cannot be.",
        answers={200: _PICTURE, 503: _DOWN},
    ),
    Operation(
        method="get",
        path="/api/health/live",
        name="live",
        tag="service",
        summary="Whether the process turns",
        text="Fails only when a restart would help.",
        answers={200: Answer(text="It does.", schema="Health")},
    ),
    Operation(
        method="get",
        path="/api/health/ready",
        name="ready",
        tag="service",
        summary="Whether to send requests here",
        text="Redis away is `degraded`, not unready: uploads and pushes go on without it.",
        answers={200: Answer(text="Yes.", schema="Health"), 503: _DOWN},
    ),
    Operation(
        method="get",
        path="/metrics",
        name="metrics",
        tag="service",
        summary="Metrics for Prometheus",
        answers={200: Answer(text="All names begin with `tryon_`.", media="text/plain", schema={"type": "string"})},
    ),
    Operation(
        method="get",
        path="/",
        name="page",
        tag="pages",
        summary="The demo page",
        answers={200: Answer(text="A page.", media="text/html", schema={"type": "string"})},
    ),
    Operation(
        method="get",
        path="/api/docs",
        name="docs",
        tag="pages",
        summary="This documentation as a page",
        answers={200: Answer(text="A page that needs no other server.", media="text/html", schema={"type": "string"})},
    ),
    Operation(
        method="get",
        path="/api/openapi.json",
        name="openapi",
        tag="pages",
        summary="The OpenAPI document",
        answers={200: Answer(text="OpenAPI 3.1.", schema={"type": "object"})},
    ),
    Operation(
        method="get",
        path="/api/asyncapi.json",
        name="asyncapi",
        tag="pages",
        summary="The AsyncAPI document",
        answers={200: Answer(text="AsyncAPI 3.", schema={"type": "object"})},
    ),
)

WAITS: Final = frozenset({"rate_limited", "queue_full", "unavailable", "storage_full", "idempotency_in_flight"})
"""Codes whose answers may carry Retry-After."""

EVERYWHERE: Final = ("not_found", "method_not_allowed", "internal_error")
"""May be the answer to any request: an unknown path, a wrong method, our own fault."""

# -- the socket: the tables ------------------------------------------------------------


FRAMES: Final[dict[type, Any]] = {
    SnapshotFrame: SnapshotFrame(_RUNNING, [], 25),
    EventFrame: _COMPLETED,
    ProgressFrame: ProgressFrame(_ID, 2, 0.4, "rendering", 1.8, "2026-11-22T09:00:01.214Z"),
    PingFrame: PingFrame("2026-11-22T09:00:25.000Z"),
    PongFrame: PongFrame("2026-11-22T09:00:26.000Z"),
    ErrorFrame: ErrorFrame("not_found", CODES["not_found"].codes["not_found"].detail),
    ByeFrame: ByeFrame(CloseCode.DONE, "completed", reconnect=False),
}
"""What the server sends, each with an example."""

CLIENT_MESSAGES: Final[dict[type, Any]] = {ClientPing: ClientPing(), ClientSync: ClientSync(since=2)}
"""What a client may send; anything else is ignored, and all of it counts."""

assert set(FRAMES) == set(get_args(Frame))

# -- the documents ---------------------------------------------------------------------

ABOUT: Final = """\
Upload a photo, get a session at once, and follow it to its end: pushed over a
WebSocket or as Server-Sent Events, or polled. All show the same story.

**Who may.** A client holds one anonymous token and shows it with every call. Whoever cannot set headers uses the ticket in
the session's links. A wrong, missing or foreign credential and an unknown id look the same: 404.

**Errors** are `application/problem+json` (RFC 9457) with `code`, `retryable` and `request_id`; unknown paths and methods,
too. Every response has `X-Request-ID`.
"""


def _refusal(codes: Sequence[str]) -> Schema:
    """The error answer of one status: which codes it may have, each with an example."""
    error = CODES[codes[0]]
    narrowed = {"type": "object", "properties": {"status": {"const": error.status}, "code": {"enum": sorted(codes)}}}
    return {
        "description": "; ".join(f"`{code}`: {error.codes[code].title.lower()}" for code in codes) + ".",
        "content": {
            PROBLEM: {
                "schema": {"allOf": [_ref("schemas", "Problem"), narrowed]},
                "examples": {code: {"value": _problem(code)} for code in codes},
            }
        },
    }


def _problem(code: str) -> Any:
    error: type[TryOnError] = CODES[code]
    known = error.codes[code]
    request_id = "2076b1c1-6655-4be1-b439-7850c66a32af"
    return _plain(Problem("about:blank", known.title, error.status, known.detail, code, known.retryable, request_id))


def _response(answer: Answer) -> Schema:
    response: Schema = {"description": answer.text, "headers": _headers(answer.headers)}
    if answer.schema is not None:
        schema = _ref("schemas", answer.schema) if isinstance(answer.schema, str) else answer.schema
        content: Schema = {"schema": schema}
        if answer.examples:
            content["examples"] = {name: {"value": value} for name, value in answer.examples.items()}
        response["content"] = {answer.media: content}
    if "Location" in answer.headers:  # a new session: what can be done with it
        response["links"] = {
            row.name: {"operationId": row.name, "parameters": {"session_id": "$response.body#/session_id"}}
            for row in OPERATIONS
            if "session_id" in row.parameters
        }
    return response


def _headers(names: Sequence[str]) -> Schema:
    return {name: _ref("headers", name) for name in (*names, "X-Request-ID")}


def _operation(row: Operation) -> Schema:
    by_status: defaultdict[int, list[str]] = defaultdict(list)
    for code in (*row.errors, "internal_error"):
        by_status[CODES[code].status].append(code)
    responses = {str(status): _response(answer) for status, answer in row.answers.items()}
    for status, codes in sorted(by_status.items()):
        waits = not WAITS.isdisjoint(codes)
        headers = _headers((*row.error_headers, "Retry-After") if waits else row.error_headers)
        responses[str(status)] = _refusal(codes) | {"headers": headers}
    operation: Schema = {
        "operationId": row.name,
        "tags": [row.tag],
        "summary": row.summary,
        "description": row.text,
        "parameters": [_ref("parameters", name) for name in row.parameters],
        "security": [{name: []} if name else {} for name in row.security],
        "responses": responses,
    }
    if row.body is not None:
        operation["requestBody"] = _ref("requestBodies", row.body)
    return {name: value for name, value in operation.items() if value or name == "security"}


def _error_table() -> list[Schema]:
    """Every error code there is, and where it may be met."""
    return [
        {
            "code": code,
            "status": error.status,
            "close_code": error.close_code,
            "title": error.codes[code].title,
            "detail": error.codes[code].detail,
            "retryable": error.codes[code].retryable,
            "operations": ["any"] if code in EVERYWHERE else [row.name for row in OPERATIONS if code in row.errors],
        }
        for code, error in CODES.items()
    ]


def _failure_table() -> list[Schema]:
    return [
        {"code": code, "message": failure.detail, "retryable": failure.retryable} for code, failure in FAILURES.items()
    ]


_INFO: Final[Schema] = {"version": __version__, "license": {"name": "MIT", "url": "https://opensource.org/license/mit"}}


@functools.cache
def openapi() -> Schema:
    """The OpenAPI 3.1 document."""
    paths: defaultdict[str, Schema] = defaultdict(dict)
    for row in OPERATIONS:
        paths[row.path][row.method] = _operation(row)
    tags = {
        "sessions": "Upload a photo and follow what becomes of it.",
        "service": "For operators.",
        "pages": "For people, and these documents.",
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "TryOn Push", "description": ABOUT} | _INFO,
        "tags": [{"name": name, "description": text} for name, text in tags.items()],
        "paths": dict(paths),
        "components": {
            "schemas": _schemas([SessionAnswer, SessionList, History, Receipt, ReceiptKeys, Health, Problem]),
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "requestBodies": BODIES,
            "securitySchemes": SECURITY,
        },
        "x-error-codes": _error_table(),
        "x-failure-codes": _failure_table(),
    }


def _errors_closed_with(code: int) -> list[str]:
    """Only those with a close code of their own are ever met on a socket."""
    return [name for name, error in CODES.items() if error.close_code == code and "close_code" in vars(error)]


def _message(struct: type, example: Any) -> tuple[str, Schema]:
    tag = struct.__struct_config__.tag  # type: ignore[attr-defined]  # every struct has it
    return tag, {
        "name": tag,
        "title": tag,
        "summary": _markdown(struct.__doc__ or ""),
        "contentType": JSON,
        "payload": _ref("schemas", struct.__name__),
        "examples": [{"name": tag, "payload": _plain(example)}],
    }


@functools.cache
def asyncapi() -> Schema:
    """The AsyncAPI 3 document of the socket."""
    sent = dict(_message(struct, example) for struct, example in FRAMES.items())
    received = {f"client_{tag}": body for tag, body in (_message(s, e) for s, e in CLIENT_MESSAGES.items())}
    handshake = {
        "type": "object",
        "properties": {
            name: {"type": schema["schema"]["type"], "description": schema["description"]}
            for name, schema in (
                ("since", PARAMETERS["since"]),
                ("ticket", {"schema": {"type": "string"}} | SECURITY["ticket"]),
            )
        },
    }
    offered = {
        "type": "object",
        "properties": {
            "Sec-WebSocket-Protocol": {
                "type": "string",
                "description": f"`{SUBPROTOCOL}`, or `{SUBPROTOCOL}, {BEARER_SUBPROTOCOL}<token>` from a browser.",
            }
        },
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"TryOn Push: the socket, {SUBPROTOCOL}",
            "description": "The server speaks first; a client never has to send anything. One JSON object per text frame. "
            "The first frame is always a snapshot, on the first connect and on every other. Unknown types and fields are to "
            "be ignored. The last frame is `bye`, then the close code.",
        }
        | _INFO,
        "servers": {
            "here": {
                "host": "{host}",
                "protocol": "ws",
                "variables": {"host": {"default": "127.0.0.1:8000", "description": "Where the service listens."}},
                "security": [_ref("securitySchemes", name) for name in TOKEN_OR_TICKET],
            }
        },
        "defaultContentType": JSON,
        "channels": {
            "session": {
                "address": f"{SESSION}/ws",
                "title": "One session",
                "parameters": {"session_id": {"description": "From the answer to the upload.", "examples": [_ID]}},
                "messages": {name: _ref("messages", name) for name in (*sent, *received)},
                "bindings": {
                    "ws": {"method": "GET", "query": handshake, "headers": offered, "bindingVersion": "0.1.0"}
                },
            }
        },
        "operations": {
            "follow": {
                "action": "send",
                "channel": {"$ref": "#/channels/session"},
                "summary": "What the server sends.",
                "messages": [{"$ref": f"#/channels/session/messages/{name}"} for name in sent],
            },
            "say": {
                "action": "receive",
                "channel": {"$ref": "#/channels/session"},
                "summary": "What a client may send; anything else is ignored. 100 messages in 10 seconds at most, then 4500.",
                "messages": [{"$ref": f"#/channels/session/messages/{name}"} for name in received],
            },
        },
        "components": {
            "schemas": _schemas([*FRAMES, *CLIENT_MESSAGES]),
            "messages": sent | received,
            "securitySchemes": {
                "bearer": SECURITY["bearer"],
                "client_token": SECURITY["client_token"] | {"type": "httpApiKey"},
                "ticket": SECURITY["ticket"] | {"type": "httpApiKey"},
            },
        },
        "x-close-codes": [
            {
                "code": row.code,
                "meaning": row.meaning,
                "reconnect": row.reconnect.value,
                "reasons": [*row.reasons, *_errors_closed_with(row.code)],
            }
            for row in CLOSE_CODES
        ],
    }


def _document(body: Schema) -> Response:
    return Response(encode(body), media_type=JSON, headers={"Cache-Control": "no-cache"})


async def openapi_json(request: Request) -> Response:
    return _document(openapi())


async def asyncapi_json(request: Request) -> Response:
    return _document(asyncapi())
