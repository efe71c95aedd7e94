"""Frames of ``tryon.v1`` and the bus message that carries them through Redis.

A frame is one JSON object. A bus message is a fixed 18-byte prefix, then the frame,
byte for byte as the client will see it::

    e0000000003000001 {"type":"event",...}
    |\\________/\\____/
    |  seq      attempt
    kind: e event, w event after which the session waits, t terminal event, p progress, g gone

so that whoever passes it on needs to know nothing of JSON (:func:`parse_prefix`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from server.domain.session import AuditEvent, Progress, timestamp
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.frames import ByeFrame, EventFrame, ProgressFrame, encode
from tryon.protocol.states import GoneReason, Status
from tryon.protocol.views import HistoryEvent

PREFIX_BYTES: Final = 18

EVENT: Final = ord("e")
WAITING: Final = ord("w")
TERMINAL: Final = ord("t")
PROGRESS: Final = ord("p")
GONE: Final = ord("g")


LinkFile = Callable[[str], str | None]
FILE_FIELDS: Final = ("input", "garment", "output")


def signed_data(data: dict[str, Any], link: LinkFile) -> dict[str, Any]:
    """An event's data with its file keys replaced by links: links are signed whenever
    an event leaves.
    """
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


_KINDS: Final = frozenset((EVENT, WAITING, TERMINAL, PROGRESS, GONE))


def parse_prefix(message: bytes) -> tuple[int, int]:
    """Kind and seq; the attempt only Redis asks for.

    Raises ValueError on anything that is not a bus message.
    """
    if message[17:18] != b" " or (kind := message[0]) not in _KINDS:
        raise ValueError(f"not a bus message: {message[:20]!r}")
    return kind, int(message[1:11])


def event_message(event: AuditEvent, link: LinkFile) -> bytes:
    kind = TERMINAL if event.status.terminal else WAITING if event.status is Status.CREATED else EVENT
    return bus_message(kind, event.seq, event.attempt, encode(event_frame(event, link)))


def progress_message(session_id: str, progress: Progress) -> bytes:
    return bus_message(PROGRESS, progress.seq, progress.attempt, encode(progress_frame(session_id, progress)))


def gone_message(reason: GoneReason) -> bytes:
    return bus_message(GONE, 0, 0, encode(ByeFrame(CloseCode.GONE, reason.value, reconnect=False)))
