"""Examples for both documents: values of the real structs.

The type checker finds a field that is renamed.
"""

from __future__ import annotations

from typing import Any, Final, get_args

import msgspec

from server.web.api.health import Check, Health
from server.web.api.sessions import ReceiptKey, ReceiptKeys, SessionList
from server.web.common.problems import Problem
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.errors import CODES, RateLimited, TryOnError
from tryon.protocol.frames import (
    ByeFrame,
    ClientPing,
    ClientSync,
    ClientSyncAll,
    EndedFrame,
    ErrorFrame,
    EventFrame,
    Frame,
    OwnerFrame,
    PingFrame,
    PongFrame,
    ProgressFrame,
    SnapshotFrame,
    SyncedFrame,
    encode,
)
from tryon.protocol.limits import LimitsView, UploadsView
from tryon.protocol.paths import FILES, SESSIONS
from tryon.protocol.processors import OutputRoleView, ProcessorView, RoleView
from tryon.protocol.quotas import QuotaAmount, QuotaView
from tryon.protocol.states import Event, GoneReason, Status
from tryon.protocol.views import ErasedFile, FileView, History, HistoryEvent, Links, Receipt, SessionView, Share


def plain(value: Any) -> Any:
    """Return a struct as the JSON that is sent."""
    return msgspec.json.decode(encode(value))


SESSION_ID: Final = "019ab9d4-7c1e-7d52-9c6e-0f3a6d1b2c4e"
_SELF: Final = f"{SESSIONS}/{SESSION_ID}"
_TICKET: Final = "4365b6f1.1795338900.CBVUp6y64tLy8ctrYvk3qQ"
_SIGNATURE: Final = "expires=1795338300&key=4365b6f1&signature=u9ED_wlum1IxKfDbSPt9VA"
_TOKEN: Final = "k7Qm2pXo5uRtYw8zB1cD4eF6gH9jK0lM3nP5qS7tV2x"  # noqa: S105 - an example
_INPUT: Final = f"{FILES}/inputs/{SESSION_ID}-person-0.jpg?{_SIGNATURE}"
_OUTPUT: Final = f"{FILES}/outputs/{SESSION_ID}-1-result-0.jpg?{_SIGNATURE}"
_PERSON: Final = FileView("person", 0, "image/jpeg", 1200, 1600, 148201, _INPUT)
_RESULT: Final = FileView("result", 0, "image/jpeg", 768, 1024, 93412, _OUTPUT)

_RUNNING: Final = SessionView(
    session_id=SESSION_ID,
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
    copy_of=None,
    params={},
    seed=7,
    step=12,
    steps=30,
    upstream_position=None,
    inputs=[_PERSON],
    outputs=[],
    preview=None,
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
    _RUNNING,
    status=Status.CREATED,
    seq=1,
    attempt=0,
    stage=None,
    progress=None,
    eta_seconds=None,
    step=None,
    steps=None,
)
_PROCESSING: Final = EventFrame(
    session_id=SESSION_ID,
    seq=2,
    event=Event.PROCESSING,
    from_=Status.CREATED,
    status=Status.PROCESSING,
    terminal=False,
    at="2026-11-22T09:00:00.012Z",
    data={"attempt": 1, "processor": "mock"},
)
_COMPLETED: Final = EventFrame(
    session_id=SESSION_ID,
    seq=3,
    event=Event.COMPLETED,
    from_=Status.PROCESSING,
    status=Status.COMPLETED,
    terminal=True,
    at="2026-11-22T09:00:03.020Z",
    data={"output": _OUTPUT, "outputs": [plain(_RESULT)]},
)
_CREATED: Final = {"input": _INPUT, "inputs": [plain(_PERSON)], "params": {}, "seed": 7}
_HISTORY: Final = History(
    [
        HistoryEvent(1, Event.CREATED, None, Status.CREATED, _RUNNING.created_at, 0, _CREATED),
        HistoryEvent(2, Event.PROCESSING, Status.CREATED, Status.PROCESSING, _PROCESSING.at, 1, _PROCESSING.data),
        HistoryEvent(3, Event.COMPLETED, Status.PROCESSING, Status.COMPLETED, _COMPLETED.at, 1, _COMPLETED.data),
    ]
)
_RECEIPT: Final = Receipt(
    SESSION_ID,
    GoneReason.DELETED,
    "2026-11-22T09:05:00.000Z",
    [ErasedFile(SESSION_ID, "person", 148201, "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")],
    "none",
    "4365b6f1",
    "n0Uu4b2mKq1kq0yWm5F3v8yJ1n3tqk2bX7c5d9e0f1A2b3C4d5E6f7G8h9I0jKlMnOpQrStUvWxYz0123456AA",
)
_SHARE: Final = Share(_OUTPUT, "2026-11-23T09:00:00.000Z")
_LIMITS: Final = LimitsView(
    formats=["image/jpeg", "image/png", "image/webp", "image/avif"],
    max_image_bytes=10 * 2**20,
    max_body_bytes=22 * 2**20,
    max_pixels=40_000_000,
    min_side=64,
    max_side=8192,
    max_params_bytes=4096,
    uploads=UploadsView(10, 60),
    retention_seconds=86400.0,
    deadline_seconds=600.0,
    link_seconds=300,
    max_attempts=3,
    demo=False,
)
_QUOTA: Final = QuotaView(
    "basic",
    QuotaAmount(20, 3, 17),
    QuotaAmount(2, 1, 1),
    QuotaAmount(None, 618204, None),
    None,
    "2026-11-23T00:00:00.000Z",
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
        "processor": Check("ok"),
    },
)

_PROCESSOR: Final = ProcessorView(
    name="fit",
    version="1.2",
    label="A model of a garment on a person",
    roles=[
        RoleView(
            name="person",
            required=True,
            formats=["image/jpeg", "image/png", "image/webp"],
            max_bytes=10 * 2**20,
            max_pixels=40_000_000,
            hint="One person, from the front",
        ),
        RoleView(
            name="garment",
            count=3,
            formats=["image/jpeg", "image/png"],
            max_bytes=10 * 2**20,
            max_pixels=4_000_000,
            hint="One garment on a plain ground",
        ),
    ],
    params_schema={
        "type": "object",
        "properties": {"steps": {"type": "integer", "minimum": 1, "maximum": 50, "default": 30}},
        "additionalProperties": False,
    },
    outputs=[OutputRoleView("result", ["image/jpeg"], 2)],
    generated=True,
    privacy="The photo goes to model.example and is deleted there with the session.",
    typical_seconds=12.5,
    cancel=True,
    preview=True,
)


def problem(code: str) -> Any:
    """Return the error answer with this code as the JSON that is sent."""
    error: type[TryOnError] = CODES[code]
    known = error.codes[code]
    request_id = "2076b1c1-6655-4be1-b439-7850c66a32af"
    limit = "upload_rate" if error is RateLimited else None
    return plain(
        Problem("about:blank", known.title, error.status, known.detail, code, known.retryable, request_id, limit)
    )


ANSWERS: Final[dict[tuple[str, int], dict[str, Any]]] = {
    ("submit", 201): {"accepted": plain(_QUEUED), "without a token": plain(_QUEUED) | {"client_token": _TOKEN}},
    ("list", 200): {"one": plain(SessionList([_RUNNING], None))},
    ("session", 200): {"running": plain(_RUNNING)},
    ("erase", 200): {"receipt": plain(_RECEIPT)},
    ("share", 201): {"for a day": plain(_SHARE)},
    ("history", 200): {"completed": plain(_HISTORY)},
    ("receipt_key", 200): {"one": plain(_RECEIPT_KEYS)},
    ("processor", 200): {"a model": plain(_PROCESSOR)},
    ("limits", 200): {"defaults": plain(_LIMITS)},
    ("quota", 200): {"a plan": plain(_QUOTA)},
    ("health", 200): {"ok": plain(_HEALTH)},
}
"""Examples by operation and status: the name of each, and the JSON that is sent."""

FRAMES: Final[dict[type, Any]] = {
    SnapshotFrame: SnapshotFrame(_RUNNING, [], 25),
    EventFrame: _COMPLETED,
    ProgressFrame: ProgressFrame(SESSION_ID, 2, 0.4, "rendering", 1.8, "2026-11-22T09:00:01.214Z", step=12, steps=30),
    PingFrame: PingFrame("2026-11-22T09:00:25.000Z"),
    PongFrame: PongFrame("2026-11-22T09:00:26.000Z"),
    ErrorFrame: ErrorFrame("not_found", CODES["not_found"].codes["not_found"].detail),
    ByeFrame: ByeFrame(CloseCode.DONE, Status.COMPLETED, reconnect=False),
}
"""Frames that the server sends, each with an example."""

CLIENT_MESSAGES: Final[dict[type, Any]] = {ClientPing: ClientPing(), ClientSync: ClientSync(since=2)}
"""Frames that a client may send, each with an example."""

OWNER_FRAMES: Final[dict[type, Any]] = {
    EndedFrame: EndedFrame(SESSION_ID, Status.COMPLETED),
    SyncedFrame: SyncedFrame(1, False, 25),
}
"""Further frames of a connection that follows all sessions of an owner."""

OWNER_MESSAGES: Final[dict[type, Any]] = {ClientPing: ClientPing(), ClientSyncAll: ClientSyncAll({SESSION_ID: 2})}
"""Frames that a client of such a connection may send, each with an example."""

assert set(FRAMES) == set(get_args(Frame))
assert set(FRAMES) | set(OWNER_FRAMES) == set(get_args(OwnerFrame))
