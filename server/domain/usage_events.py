"""Usage events: what one session has used, for the integrator's accounts.

One for each session that has ended, in whatever way: completed, failed, cancelled,
deleted or expired before its end. The id follows from the session's, so a repeat is
known as one. It names the owner by its id and holds nothing of the photo.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from server.domain.session import AuditEvent, Session, timestamp
from tryon.protocol.states import Event

TYPE: Final = "usage.session"


class UsageEvent(msgspec.Struct, frozen=True):
    """The usage of one session.

    ``status``: completed, failed or cancelled; deleted or expired for one that was
    erased before it had ended. ``attempts``: claims by workers. ``usage``: units that
    the processor has reported, summed over the attempts. ``bytes``: of the photos and
    results. ``processing_seconds``: time that workers held it, all attempts together.
    """

    id: str
    session_id: str
    owner: str
    processor: str
    status: str
    error: str | None
    attempts: int
    usage: dict[str, float]
    bytes: int
    created_at: str
    started_at: str | None
    ended_at: str
    processing_seconds: float


class UsageMessage(msgspec.Struct, frozen=True):
    """The body of a call; ``timestamp``: the time of the end."""

    type: str
    timestamp: str
    data: UsageEvent


def event_id(session_id: str) -> str:
    """Return the id of a session's usage event, which is its ``webhook-id``."""
    return f"use_{hashlib.sha256(f'tryon.usage.{session_id}'.encode()).hexdigest()[:32]}"


def usage_event(
    session: Session,
    events: Iterable[AuditEvent],
    *,
    status: str,
    ended_at: datetime,
    stored_bytes: int,
    unfinished: Mapping[str, float] | None = None,
) -> UsageEvent:
    """Return what a session has used until its end, from its audit trail in order.

    ``unfinished``: the usage of an attempt whose end is not in the trail.
    """
    used: dict[str, float] = {}
    started: datetime | None = None
    running: datetime | None = None
    seconds = 0.0
    for event in events:
        if running is not None:
            seconds += max(0.0, (event.at - running).total_seconds())
            running = None
        if event.event is Event.PROCESSING:
            running = event.at
            started = started or event.at
        _add(used, event.data.get("usage") or {})
    _add(used, unfinished or {})
    if running is not None:
        seconds += max(0.0, (ended_at - running).total_seconds())
    return UsageEvent(
        id=event_id(session.id),
        session_id=session.id,
        owner=session.owner,
        processor=session.processor,
        status=status,
        error=session.error_code,
        attempts=session.attempt,
        usage=used,
        bytes=stored_bytes,
        created_at=timestamp(session.created_at),
        started_at=None if started is None else timestamp(started),
        ended_at=timestamp(ended_at),
        processing_seconds=round(seconds, 3),
    )


def _add(used: dict[str, float], more: Mapping[str, float]) -> None:
    for unit, amount in more.items():
        used[unit] = used.get(unit, 0.0) + amount


def usage_body(event: UsageEvent) -> bytes:
    """Return the body of the call that tells of an event."""
    return msgspec.json.encode(UsageMessage(TYPE, event.ended_at, event))
