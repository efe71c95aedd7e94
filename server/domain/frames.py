"""Events and progress as clients see them: file keys become signed links.

Links are signed whenever an event leaves, since the database keeps only keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from server.domain.session import AuditEvent, Progress, timestamp
from server.domain.stored_files import StoredFile
from tryon.protocol.frames import EventFrame, ProgressFrame
from tryon.protocol.views import EventData, HistoryEvent

LinkFile = Callable[[str], str]
"""Returns the signed link to a file, by its key."""

FILE_FIELDS: Final = ("input", "garment", "output")
"""Fields of an event's data that hold file keys."""

FILE_LISTS: Final = ("inputs", "outputs")
"""Fields of an event's data that hold files, each with its ``key``."""


def files_data(files: Iterable[StoredFile]) -> list[EventData]:
    """Return how an event's data lists files: as the session does, but by their keys.

    :func:`signed_data` replaces the keys by links.
    """
    return [
        {
            "role": file.role,
            "index": file.index,
            "type": file.type,
            "width": file.width or None,
            "height": file.height or None,
            "bytes": file.bytes,
            "key": file.key,
        }
        for file in files
    ]


def signed_data(data: EventData, link: LinkFile) -> EventData:
    """Return an event's data, links in place of file keys, without its trace."""
    signed = {}
    for name, value in data.items():
        if name == "trace":
            continue
        if name in FILE_FIELDS and value:
            value = link(value)
        elif name in FILE_LISTS:
            value = [_linked(file, link) for file in value]
        signed[name] = value
    return signed


def _linked(file: EventData, link: LinkFile) -> EventData:
    shown = {name: value for name, value in file.items() if name != "key"}
    return shown | {"link": link(file["key"])}


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
        trace=event.data.get("trace", msgspec.UNSET),
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


def progress_frame(session_id: str, progress: Progress, link: LinkFile | None = None) -> ProgressFrame:
    """Return the frame of the latest progress; ``link``: for its preview, if any."""
    return ProgressFrame(
        session_id=session_id,
        seq=progress.seq,
        progress=progress.progress,
        stage=progress.stage,
        eta_seconds=progress.eta_seconds,
        at=progress.at,
        step=progress.step,
        steps=progress.steps,
        upstream_position=progress.upstream_position,
        preview=link(progress.preview) if link and progress.preview else None,
    )
