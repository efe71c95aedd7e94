"""Answers of a made-up server to the demo page: limits, sessions, a receipt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from tryon.protocol import errors

Json: TypeAlias = Any

SESSIONS: Final = "/api/tryon/sessions"
ID: Final = "0199f3a0-5c1e-7d4a-9b2f-3e8d6c5a4b10"
ROLES: Final = [
    {"name": "person", "required": True, "count": 1, "hint": ""},
    {"name": "garment", "required": False, "count": 1, "hint": ""},
]
SCHEMA: Final = {
    "type": "object",
    "properties": {
        "style": {"type": "string", "title": "Style", "enum": ["natural", "studio"], "default": "natural"},
        "strength": {"type": "number", "title": "Strength", "minimum": 0, "maximum": 1, "default": 0.8},
        "keep_background": {"type": "boolean", "title": "Keep the background", "default": True},
    },
}
LIMITS: Final = {
    "formats": ["image/jpeg", "image/png", "image/webp"],
    "max_image_bytes": 10_000_000,
    "max_body_bytes": 22_000_000,
    "max_pixels": 40_000_000,
    "min_side": 64,
    "max_side": 12_000,
    "max_params_bytes": 4096,
    "uploads": {"count": 10, "seconds": 60},
    "retention_seconds": 86_400,
    "deadline_seconds": 300,
    "link_seconds": 300,
    "max_attempts": 3,
    "demo": True,
}
PERSON, GARMENT, RESULT = "before", "garment-1", "after"


def later(**span: float) -> str:
    """Return the time in so long, as the API writes it."""
    moment = datetime.now(UTC) + timedelta(**span)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def picture(role: str, name: str) -> Json:
    """Return the view of a file: one of the page's samples."""
    size = (540, 600) if name.startswith("garment") else (600, 800)
    link = f"/static/samples/{name}.webp?signature=made-up"
    return {
        "role": role,
        "index": 0,
        "type": "image/webp",
        "width": size[0],
        "height": size[1],
        "bytes": 31_000,
        "link": link,
    }


def session(status: str = "processing", **changes: Any) -> Json:
    """Return the view of a session in this state, with ``changes``."""
    completed, terminal = status == "completed", status in ("completed", "failed", "cancelled")
    output = picture("result", RESULT) if completed else None
    seq = {"created": 1, "processing": 2}.get(status, 3)
    found = {
        "session_id": ID,
        "status": status,
        "seq": seq,
        "terminal": terminal,
        "attempt": 0 if status == "created" else 1,
        "stage": "fitting_the_garment" if status == "processing" else None,
        "progress": {"created": None, "processing": 0.42, "completed": 1.0}.get(status),
        "queue_position": 3 if status == "created" else None,
        "eta_seconds": {"created": 10.0, "processing": 6.0}.get(status),
        "error": None,
        "created_at": later(seconds=-9),
        "updated_at": later(seconds=-1),
        "deadline": later(minutes=5),
        "expires_at": later(hours=23, minutes=59, seconds=30),
        "processor": "mock",
        "retry_of": None,
        "copy_of": None,
        "params": {},
        "seed": 7,
        "step": None,
        "steps": None,
        "upstream_position": None,
        "inputs": [picture("person", PERSON), picture("garment", GARMENT)],
        "outputs": [output] if output else [],
        "preview": None,
        "links": {
            "self": f"{SESSIONS}/{ID}",
            "ws": f"{SESSIONS}/{ID}/ws?ticket=made-up",
            "events": f"{SESSIONS}/{ID}/events?ticket=made-up",
            "input": picture("person", PERSON)["link"],
            "garment": picture("garment", GARMENT)["link"],
            "output": output["link"] if output else None,
        },
    }
    return found | changes


def failed(code: str) -> Json:
    """Return the view of a session that failed so."""
    failure = errors.FAILURES[code]
    return session("failed", error={"code": code, "message": failure.detail, "retryable": failure.retryable})


def refusal(code: str, part: str | None = None) -> tuple[int, Json]:
    """Return status and body of a refused request."""
    error = errors.CODES[code]
    known = error.codes[code]
    body = {"code": code, "title": known.title, "detail": known.detail, "retryable": known.retryable, "part": part}
    return error.status, body


def event(name: str, status: str, *, seq: int = 3, **data: Any) -> Json:
    """Return the frame of an event."""
    return {
        "type": "event", "session_id": ID, "seq": seq, "event": name, "from": "processing", "status": status,
        "terminal": status in ("completed", "failed", "cancelled"), "at": later(), "data": data,
    }  # fmt: skip


def progress(part: float | None, stage: str = "fitting_the_garment", *, eta: float | None = None) -> Json:
    """Return a frame with the progress of the session that is worked on."""
    return {
        "type": "progress", "session_id": ID, "seq": 2, "progress": part, "stage": stage, "eta_seconds": eta,
        "at": later(),
    }  # fmt: skip


def receipt() -> Json:
    """Return the receipt of the session's deletion."""
    files = [
        {"session_id": ID, "role": role, "bytes": 31_000, "sha256": letter * 64}
        for role, letter in (("person", "a"), ("garment", "b"), ("result", "c"))
    ]
    return {
        "session_id": ID, "reason": "deleted", "deleted_at": later(), "files": files, "upstream": "none",
        "key_id": "9f2c41d0", "signature": "d" * 86,
    }  # fmt: skip
