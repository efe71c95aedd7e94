"""Events and progress as clients see them: file keys become signed links.

Links are signed whenever an event leaves, since the database keeps only keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from server.domain.session import AuditEvent, Progress, timestamp
from tryon.protocol.frames import EventFrame, ProgressFrame
from tryon.protocol.views import EventData, HistoryEvent

LinkFile = Callable[[str], str | None]
"""Returns the signed link to a file, by its key."""

FILE_FIELDS: Final = ("input", "garment", "output")
"""Fields of an event's data that hold file keys."""


def signed_data(data: EventData, link: LinkFile) -> EventData:
    """Return an event's data with its file keys replaced by links."""
    return {name: link(value) if name in FILE_FIELDS and value else value for name, value in data.items()}


def event_frame(event: AuditEvent, link: LinkFile) -> EventFrame:
    """Return the frame of one transition, without its actor."""
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
    """Return one transition as a row of the history, without its actor."""
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
    """Return the frame of the latest progress."""
    return ProgressFrame(
        session_id=session_id,
        seq=progress.seq,
        progress=progress.progress,
        stage=progress.stage,
        eta_seconds=progress.eta_seconds,
        at=progress.at,
    )
