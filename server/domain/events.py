"""Frames of ``tryon.v1`` and the bus message that carries them through Redis.

A frame is one JSON object. A bus message is a fixed 18-byte prefix, then the frame, byte for byte as the client will
see it::

    e0000000003000001 {"type":"event",...}
    |\\________/\\____/
    |  seq      attempt
    kind: e event, t terminal event, p progress, g gone

so that whoever passes it on needs to know nothing of JSON (:func:`parse_prefix`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from server.domain.session import AuditEvent, Progress, SessionView, timestamp
from server.domain.states import Event, GoneReason, Status

SUBPROTOCOL: Final = "tryon.v1"
BEARER_SUBPROTOCOL: Final = "tryon.bearer."
PREFIX_BYTES: Final = 18

EVENT: Final = ord("e")
TERMINAL: Final = ord("t")
PROGRESS: Final = ord("p")
GONE: Final = ord("g")


class EventFrame(msgspec.Struct, frozen=True, tag_field="type", tag="event"):
    """One transition. ``data`` depends on the event: the attempt, signed links, the error."""

    session_id: str
    seq: int
    event: Event
    from_: Status | None = msgspec.field(name="from")
    status: Status
    terminal: bool
    at: str
    data: dict[str, Any]


class SnapshotFrame(msgspec.Struct, frozen=True, tag_field="type", tag="snapshot"):
    """The whole session, always first. ``missed`` holds the events after ``?since=``, in order."""

    session: SessionView
    missed: list[EventFrame]
    ping_seconds: int | float


class ProgressFrame(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="progress"):
    """The latest word about the transition ``seq``; not an event, may be dropped or coalesced.

    While a session waits it tells the place in the queue, ``queue_position``; else that field is missing.
    """

    session_id: str
    seq: int
    progress: float | None
    stage: str | None
    eta_seconds: float | None
    at: str
    queue_position: int | None = None


class PingFrame(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """For the page's watchdog: no ping for two periods means the connection is dead."""

    at: str


class PongFrame(msgspec.Struct, frozen=True, tag_field="type", tag="pong"):
    """The answer to a client's ``{"type":"ping"}``."""

    at: str


class ErrorFrame(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """A refusal that a person should understand; ``bye`` follows."""

    code: str
    message: str


class ByeFrame(msgspec.Struct, frozen=True, tag_field="type", tag="bye"):
    """The last frame before the close: the close code again, and whether and when to come back."""

    code: int
    reason: str
    reconnect: bool
    retry_after_ms: int | None = None


class HistoryEvent(msgspec.Struct, frozen=True):
    """One row of the audit trail as ``GET .../history`` shows it."""

    seq: int
    event: Event
    from_: Status | None = msgspec.field(name="from")
    status: Status
    at: str
    attempt: int
    data: dict[str, Any]


class History(msgspec.Struct, frozen=True):
    """``delivered_at``: when the terminal event was first handed to a client; null if that has not happened (yet)."""

    events: list[HistoryEvent]
    delivered_at: str | None = None


Frame = SnapshotFrame | EventFrame | ProgressFrame | PingFrame | PongFrame | ErrorFrame | ByeFrame

_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """Any frame, view or problem as JSON."""
    return _encoder.encode(value)


LinkFile = Callable[[str], str | None]
FILE_FIELDS: Final = ("input", "garment", "output")


def signed_data(data: dict[str, Any], link: LinkFile) -> dict[str, Any]:
    """An event's data with its file keys replaced by links: links are signed whenever an event leaves."""
    return {name: link(value) if name in FILE_FIELDS and value else value for name, value in data.items()}


def event_frame(event: AuditEvent, link: LinkFile) -> EventFrame:
    return EventFrame(
        session_id=event.session_id,
        seq=event.seq,
        event=event.event,
        from_=event.from_status,
        status=event.status,
        terminal=event.status.terminal,
        at=timestamp(event.at),
        data=signed_data(event.data, link),
    )


def history_event(event: AuditEvent, link: LinkFile) -> HistoryEvent:
    return HistoryEvent(
        seq=event.seq,
        event=event.event,
        from_=event.from_status,
        status=event.status,
        at=timestamp(event.at),
        attempt=event.attempt,
        data=signed_data(event.data, link),
    )


def progress_frame(session_id: str, progress: Progress) -> ProgressFrame:
    return ProgressFrame(
        session_id=session_id,
        seq=progress.seq,
        progress=progress.progress,
        stage=progress.stage,
        eta_seconds=progress.eta_seconds,
        at=progress.at,
    )


def bus_message(kind: int, seq: int, attempt: int, frame: bytes) -> bytes:
    return b"%c%010d%06d " % (kind, seq, attempt) + frame


_KINDS: Final = frozenset((EVENT, TERMINAL, PROGRESS, GONE))


def parse_prefix(message: bytes) -> tuple[int, int]:
    """Kind and seq; the attempt only Redis asks for. Raises ValueError on anything that is not a bus message."""
    if message[17:18] != b" " or (kind := message[0]) not in _KINDS:
        raise ValueError(f"not a bus message: {message[:20]!r}")
    return kind, int(message[1:11])


def event_message(event: AuditEvent, link: LinkFile) -> bytes:
    kind = TERMINAL if event.status.terminal else EVENT
    return bus_message(kind, event.seq, event.attempt, encode(event_frame(event, link)))


def progress_message(session_id: str, progress: Progress) -> bytes:
    return bus_message(PROGRESS, progress.seq, progress.attempt, encode(progress_frame(session_id, progress)))


def gone_message(reason: GoneReason) -> bytes:
    return bus_message(GONE, 0, 0, encode(ByeFrame(4510, reason.value, reconnect=False)))
