"""The schemas and the descriptions that OpenAPI and AsyncAPI share, as tables.

Schemas come from the structs that are sent; :data:`FIELDS` adds units, limits and
descriptions, which a type cannot express.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from server.domain.session import MAX_SEED
from server.web.api.params import MAX_PARAMS_BYTES
from server.web.api.sessions import LIMIT, MAX_LIMIT
from server.web.docs.examples import SESSION_ID
from server.web.transports.long_poll import MAX_WAIT_SECONDS
from tryon.protocol.credentials import TOKEN_PATTERN
from tryon.protocol.errors import CODES, LIMITS, QUOTAS
from tryon.protocol.paths import ASYNCAPI, PROCESSOR, RECEIPT_KEY
from tryon.protocol.states import GoneReason, Status

Schema = dict[str, Any]

# -- the fields ------------------------------------------------------------------------

_TIME: Final[Schema] = {"format": "date-time"}
_WHOLE: Final[Schema] = {"minimum": 0}
_LINK: Final[Schema] = {"format": "uri-reference"}
_SECONDS: Final[Schema] = {"minimum": 0, "description": "In seconds."}

_ENDS: Final = (*(status.value for status in Status if status.terminal), *(reason.value for reason in GoneReason))

FIELDS: Final[dict[str, Schema]] = {
    "session_id": {"format": "uuid"},
    "retry_of": {"format": "uuid", "description": "The session that this one retries."},
    "copy_of": {
        "format": "uuid",
        "description": "The session whose photos this one has copied (`from`); it is erased with it.",
    },
    "seq": {"minimum": 1, "description": "Counts the session's transitions from 1."},
    "ErrorFrame.code": {"description": "An error code."},
    "attempt": _WHOLE | {"description": "Number of times a worker has claimed it."},
    "terminal": {"description": "True once it is completed, failed or cancelled: no event follows."},
    "stage": {"description": "The current step of the work, in a few words."},
    "progress": {"minimum": 0, "maximum": 1},
    "queue_position": {
        "minimum": 1,
        "description": "Place in the queue, 1 is next; null while it does not wait or the place is unknown.",
    },
    "eta_seconds": _WHOLE | {"description": "Seconds to the expected end; null without an estimate."},
    "created_at": _TIME,
    "updated_at": _TIME,
    "at": _TIME,
    "deadline": _TIME | {"description": "The latest time of its end, waiting included."},
    "expires_at": _TIME | {"description": "The time of its erasure."},
    "processor": {"description": "Name of the processor that makes the picture."},
    "Links.self": _LINK | {"description": "Path of the session; a request needs the client token or a ticket."},
    "Links.ws": _LINK
    | {"description": "Path of the WebSocket; with a ticket if the request showed a token, else without."},
    "Links.events": _LINK,
    "Links.input": _LINK | {"description": "The stored photo: signed, expires."},
    "Links.garment": _LINK,
    "Links.output": _LINK | {"description": "The result: signed, expires. Null until it is completed."},
    "missed": {"description": "The events after `since`, in order."},
    "client_token": {
        "pattern": f"^{TOKEN_PATTERN.pattern}$",
        "description": "Only in the answer to an upload without a token. Keep it: no later answer repeats it.",
    },
    "from": {"description": "The status before; null for `created`."},
    "data": {"description": "Depends on the event: the attempt, signed links, the error, the reason of a requeue."},
    "Problem.status": {"minimum": 400, "maximum": 599},
    "Problem.type": {"description": "Always `about:blank`; programs read `code`."},
    "Problem.code": {"enum": sorted(CODES)},
    "Problem.limit": {
        "enum": sorted({*LIMITS, *QUOTAS}),
        "description": "The limit that `rate_limited` or `over_quota` speaks of.",
    },
    "Problem.retryable": {"description": "Whether the same request may succeed later."},
    "Health.status": {"enum": ["ok", "degraded", "down"]},
    "Check.status": {"enum": ["ok", "degraded", "down"]},
    "Check.seconds": _SECONDS,
    "Check.count": _WHOLE,
    "SessionError.code": {"description": "One of the failure codes, or one of the processor's own."},
    "SessionError.message": {"description": "Safe to show to a user."},
    "SessionError.retryable": {"description": "Whether a retry may succeed."},
    "next_cursor": {"description": "Value of `cursor` for the next page; null on the last page."},
    "deleted_at": _TIME,
    "reason": {"enum": [GoneReason.DELETED.value]},
    "role": {"description": "A role of the processor's inputs or outputs, or `preview`."},
    "index": _WHOLE | {"description": "Its place among the files of its role, from 0."},
    "width": {"minimum": 1, "description": "In pixels; null if it is unknown."},
    "height": {"minimum": 1, "description": "In pixels; null if it is unknown."},
    "FileView.link": _LINK | {"description": "Signed, expires."},
    "PreviewView.link": _LINK | {"description": "Signed, expires."},
    "ProgressFrame.preview": _LINK | {"description": "The last intermediate picture: signed, expires."},
    "params": {"description": "The parameters that it runs with: the client's, with the processor's defaults."},
    "seed": _WHOLE
    | {
        "maximum": MAX_SEED,
        "description": "The number that random numbers are drawn from: that of `params`, or drawn.",
    },
    "step": _WHOLE | {"description": "The step that the model is at."},
    "steps": _WHOLE | {"description": "The number of steps that the model will take."},
    "upstream_position": {
        "minimum": 1,
        "description": "Place in the queue of the service that makes the picture, 1 is next.",
    },
    "inputs": {"description": "The photos by role, in the processor's order."},
    "outputs": {"description": "The results, the most important one first."},
    "sha256": {
        "pattern": "^([0-9a-f]{64})?$",
        "description": "Hash of the stored bytes, which differ from the uploaded ones; empty if it is unknown.",
    },
    "Problem.part": {"description": "The part of the upload that was refused."},
    "Problem.pointer": {"description": "With `bad_params`: the place in `params` (RFC 6901); empty: all of it."},
    "Share.link": _LINK | {"description": "Opens the first output without a credential."},
    "Share.expires_at": _TIME | {"description": "The end of the link: after 24 hours, or with the session."},
    "QuotaAmount.limit": _WHOLE,
    "QuotaAmount.used": _WHOLE,
    "QuotaAmount.remaining": _WHOLE,
    "resets_at": _TIME | {"description": "The next midnight in UTC, when `uploads_per_day` begins anew."},
    "UploadsView.count": {"minimum": 1},
    "UploadsView.seconds": {"minimum": 1},
    "LimitsView.formats": {"description": "Media types of photos; they are judged by their content."},
    "LimitsView.max_image_bytes": {"minimum": 1, "description": "Bytes of a photo, at most."},
    "LimitsView.max_body_bytes": {"minimum": 1, "description": "Bytes of the body of an upload, at most."},
    "LimitsView.max_pixels": {"minimum": 1, "description": "Width times height of a photo, at most."},
    "LimitsView.min_side": {"minimum": 1, "description": "Pixels of a side, at least."},
    "LimitsView.max_side": {"minimum": 1, "description": "Pixels of a side, at most."},
    "LimitsView.max_params_bytes": {"minimum": 1, "description": "Bytes of `params`, at most."},
    "LimitsView.uploads": {"description": "Uploads of one client address in any window; null without a limit."},
    "LimitsView.retention_seconds": _WHOLE | {"description": "From the creation of a session to its erasure."},
    "LimitsView.deadline_seconds": _WHOLE | {"description": "From the creation of a session to its latest end."},
    "LimitsView.link_seconds": _WHOLE | {"description": "Life of the signed links in a session."},
    "LimitsView.max_attempts": {"minimum": 1, "description": "Lost workers after which a session fails."},
    "LimitsView.demo": {"description": "Whether an owner may crash the worker of a session, to watch it recover."},
    "RoleView.name": {"description": "The name of its part in an upload; `image` stands for the first role."},
    "RoleView.count": {"minimum": 1, "description": "How many parts of this name there may be."},
    "RoleView.max_bytes": {"minimum": 1, "description": "Bytes of each, at most."},
    "RoleView.max_pixels": {"minimum": 1, "description": "Width times height of each, at most."},
    "ProcessorView.params_schema": {"description": "JSON Schema (2020-12) of `params`."},
    "ProcessorView.privacy": {"description": "Where the photo goes, and how long it stays there."},
    "ProcessorView.typical_seconds": {"exclusiveMinimum": 0, "description": "How long a run takes; null if unknown."},
    "bytes": _WHOLE,
    "upstream": {
        "enum": ["none", "pending", "deleted", "kept"],
        "description": "What the service that the last attempt ran on keeps: nothing; it is told to delete it; it has; or "
        "it cannot be told to, and keeps it as the processor's `privacy` says.",
    },
    "key_id": {"description": f"Id of one of the keys at {RECEIPT_KEY}."},
    "Receipt.signature": {
        "description": "Ed25519, base64url without padding, over the JSON of `session_id`, `reason`, `deleted_at`, `files` "
        "and `upstream`: keys sorted, no white space, UTF-8."
    },
    "ReceiptKey.algorithm": {"enum": ["Ed25519"]},
    "ping_seconds": {
        "exclusiveMinimum": 0,
        "description": "Seconds between two `ping` frames; reconnect after two periods without one.",
    },
    "ByeFrame.code": {"minimum": 1000, "maximum": 4999, "description": "The close code that follows."},
    "EndedFrame.reason": {"enum": [*_ENDS]},
    "ByeFrame.reason": {"description": "The final status, an error code, or a reason listed with the close code."},
    "ByeFrame.retry_after_ms": _WHOLE
    | {"description": "Milliseconds to wait before reconnecting; null: reconnect at once, then back off."},
    "ClientSync.since": _WHOLE,
}
"""Units, limits and descriptions of fields, by name or by ``Struct.field``.

The second takes precedence.
"""


def markdown(text: str) -> str:
    """Return a docstring's reStructuredText as Markdown on one line."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return " ".join(text.replace("``", "`").split())


def _refine(schema: Schema, more: Schema) -> Schema:
    """Return a field's schema with a rule of :data:`FIELDS` added.

    Of ``X or null``, the limits are added to X and the description to the whole.
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
        component["description"] = markdown(component["description"])
    if "enum" in component:
        return {"type": "string"} | component
    properties = {}
    for key, schema in component.get("properties", {}).items():
        if len(schema.get("enum", ())) == 1:  # the tag of a frame
            properties[key] = {"type": "string", "const": schema["enum"][0]}
        else:
            properties[key] = _refine(schema, FIELDS.get(f"{name}.{key}", FIELDS.get(key, {})))
    return component | {"properties": properties}


def schemas(types: Sequence[Any]) -> dict[str, Schema]:
    """Return the schemas of these structs and of all structs in them, by name."""
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return {name: _tidy(name, component) for name, component in sorted(components.items())}


def ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


# -- headers, parameters, credentials, bodies ------------------------------------------

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"

HEADERS: Final[dict[str, Schema]] = {
    "X-Request-ID": {
        "description": "The request's own id if it is 1 to 64 of A-Z a-z 0-9 and -, else a new one. It stands in the logs.",
        "schema": {"type": "string"},
    },
    "Location": {"description": "Path of the session.", "schema": {"type": "string", "format": "uri-reference"}},
    "ETag": {
        "description": "Of a session: weak, it changes with seq and progress. Of a page: a hash of its content.",
        "schema": {"type": "string"},
    },
    "Accept": {"description": "The content type to send.", "schema": {"type": "string"}},
    "Accept-Encoding": {"description": "The content codings to send.", "schema": {"type": "string"}},
    "Content-Range": {
        "description": "The part, or with 416 the size: `bytes */2048`. Missing if there are several parts.",
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the next request; of a session, before the next poll.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RateLimit": {
        "description": 'Uploads left for this address, and seconds until one more is allowed: `"uploads";r=9;t=60`. '
        "Missing without a limit.",
        "schema": {"type": "string"},
        "example": '"uploads";r=9;t=60',
    },
    "RateLimit-Policy": {
        "description": 'Uploads (q) in any window of w seconds: `"uploads";q=10;w=60`.',
        "schema": {"type": "string"},
        "example": '"uploads";q=10;w=60',
    },
    "Idempotent-Replay": {
        "description": "The session was created by an earlier request; this one changed nothing.",
        "schema": {"type": "string", "const": "true"},
    },
}

PARAMETERS: Final[dict[str, Schema]] = {
    "session_id": {
        "name": "session_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
        "example": SESSION_ID,
    },
    "since": {
        "name": "since",
        "in": "query",
        "description": "The last seq the client has seen: `missed` then holds the events after it.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "wait": {
        "name": "wait",
        "in": "query",
        "description": f"Long poll: seconds to wait for a change, {MAX_WAIT_SECONDS:g} at most. Answered at once if there is "
        "an event after `since`, with 304 when the time is over. Progress is a change only against `If-None-Match`.",
        "schema": {"type": "number", "minimum": 0},
    },
    "last_event_id": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "Sent by a browser that reconnects: the last seq it has seen. It takes precedence over `since`.",
        "schema": {"type": "string"},
    },
    "since_all": {
        "name": "since",
        "in": "query",
        "description": "The cursor of all sessions: pairs `<id>.<seq>`, joined by `~`; ids in 36 characters, or their 16 bytes "
        "in 22 of base64url. Each snapshot's `missed` holds the events after it; a session without a pair has all of them.",
        "schema": {"type": "string"},
        "example": f"{SESSION_ID}.2",
    },
    "last_event_id_all": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The last `id` that the client has read, which is such a cursor. It takes precedence over `since`.",
        "schema": {"type": "string"},
    },
    "idempotency_key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "1 to 255 visible ASCII characters: repeating a request with the same key creates no second session. "
        "Needs a client token; lives as long as the session.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    },
    "limit": {
        "name": "limit",
        "in": "query",
        "description": "Sessions on a page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": LIMIT},
    },
    "cursor": {
        "name": "cursor",
        "in": "query",
        "description": "`next_cursor` of the previous page.",
        "schema": {"type": "string"},
    },
    "if_none_match": {
        "name": "If-None-Match",
        "in": "header",
        "description": "The ETag of the last answer; 304 if nothing has changed.",
        "schema": {"type": "string"},
    },
    "key": {
        "name": "key",
        "in": "path",
        "required": True,
        "description": "Key of the file, with its slash, from a link.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9/._-]+$"},
        "example": f"inputs/{SESSION_ID}-person-0.jpg",
    },
    "link_expires": {
        "name": "expires",
        "in": "query",
        "required": True,
        "description": "End of the link, in Unix seconds.",
        "schema": {"type": "string"},
    },
    "link_key": {
        "name": "key",
        "in": "query",
        "required": True,
        "description": "Id of the key that signed the link.",
        "schema": {"type": "string"},
    },
    "link_signature": {"name": "signature", "in": "query", "required": True, "schema": {"type": "string"}},
}

SECURITY: Final[dict[str, Schema]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "The client token: 22 to 128 characters of A-Z a-z 0-9 _ and -, made by the client from at least 128 "
        "random bits, or by the server at the first upload. Or the JWT of a user, if the server has `TRYON_JWT_ISSUER`.",
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
        "description": "A signed, expiring, read-only pass for one session, from its links. For clients that cannot set "
        "headers: EventSource, a pasted link, wscat.",
    },
}

_UPLOAD_PARTS: Final[Schema] = {
    "type": "object",
    "required": ["person"],
    "propertyNames": {"pattern": r"^[^\x00\r\n]*$"},  # what a header of a part can hold
    "properties": {
        "person": {
            "type": "string",
            "format": "binary",
            "description": "The photo of a person: JPEG, PNG, WebP or AVIF, judged by its content. At most 10 MiB and "
            "40 megapixels, 64 to 8192 pixels a side, unless configured otherwise. `image` is another name of this part.",
        },
        "garment": {"type": "string", "format": "binary", "description": "The photo of a garment; the same limits."},
        "params": {
            "type": "string",
            "contentMediaType": JSON,
            "description": f"A JSON object of at most {MAX_PARAMS_BYTES} bytes that fits the processor's `params_schema`.",
        },
        "from": {
            "type": "string",
            "format": "uuid",
            "description": "A session of the same client: its photos are copied for the roles that are not sent. The new "
            "session is erased with it, and lives no longer.",
        },
        "webhook": {
            "type": "string",
            "format": "uri",
            "description": "Address that is called when the session ends, if the operator allows its host.",
        },
    },
}
BODIES: Final[dict[str, Schema]] = {
    "upload": {
        "required": True,
        "description": "At most 22 MiB unless configured otherwise. The parts of another processor are those of its roles: "
        f"{PROCESSOR}. Unknown fields are ignored, unknown files refused.",
        "content": {
            "multipart/form-data": {
                "schema": _UPLOAD_PARTS,
                "encoding": {
                    name: {"contentType": "image/jpeg, image/png, image/webp"} for name in ("person", "garment")
                },
            }
        },
    }
}


_EVENT: Final[Schema] = {
    "type": "object",
    "description": "One event of the stream, as an EventSource receives it.",
    "properties": {
        "data": {
            "type": "string",
            "contentMediaType": JSON,
            "description": f"A frame, as described in {ASYNCAPI}.",
        },
        "id": {"type": "string", "pattern": "^[0-9]+$", "description": "The seq, on snapshot and event frames."},
        "retry": {"type": "integer", "minimum": 0, "description": "Milliseconds until the browser reconnects."},
    },
}

_TEXT: Final[Schema] = {"type": "string"}
_BINARY: Final[Schema] = {"type": "string", "format": "binary"}

MEDIA: Final[dict[str, Schema]] = {
    JSON: {"type": "object"},
    "text/event-stream": _EVENT,
    "text/plain": _TEXT,
    "text/html": _TEXT,
    "image/*": _BINARY,
}
"""The schema of each content type of an answer that is not a struct."""
