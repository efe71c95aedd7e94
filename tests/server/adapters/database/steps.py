"""Steps that the tests of the database share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from server.adapters.database.changes import Change, Moved
from server.adapters.database.database import Database, open_database
from server.config.database_settings import DatabaseSettings
from server.domain.session import AuditEvent, Session
from server.system.clock import SystemClock
from testkit.fixtures import PATIENT_DATABASE
from testkit.running import new_session, outcome_of
from tryon.protocol.states import TRANSITIONS, Event, Status


@contextlib.asynccontextmanager
async def opened(database_url: str, **settings: Any) -> AsyncIterator[Database]:
    """Open a further database over the same URL, as another process would.

    ``settings``: those of the connections to PostgreSQL.
    """
    database = open_database(
        database_url, clock=SystemClock(), settings=DatabaseSettings(**PATIENT_DATABASE | settings)
    )
    try:
        yield database
    finally:
        await database.close()


async def brought_to(database: Database, status: Status, **overrides: Any) -> Session:
    """Insert a session and move it to this state."""
    session = await database.writer.insert(new_session(**overrides))
    if status is Status.CREATED:
        return session
    moved = await database.writer.claim(session.id, worker="w", lease_seconds=60, actor="w")
    assert moved is not None
    if status is Status.PROCESSING:
        return moved.session
    event = {Status.COMPLETED: Event.COMPLETED, Status.FAILED: Event.FAILED, Status.CANCELLED: Event.CANCELLED}[status]
    return (await change(database, moved.session, event)).session


def asked(session: Session, event: Event, **conditions: Any) -> Change:
    """Build a change of a session in the state of this view."""
    return Change(
        session_id=session.id, outcome=outcome_of(event), from_status=session.status, actor="test", **conditions
    )


async def change(database: Database, session: Session, event: Event) -> Moved:
    """Make a transition that must succeed."""
    moved = await database.writer.transition(asked(session, event))
    assert moved is not None
    return moved


async def trail(database: Database, session_id: str) -> list[AuditEvent]:
    """Return all events of a living session."""
    found = await database.reader.with_events(session_id, 0)
    assert found is not None
    return found.events


def assert_whole(events: list[AuditEvent]) -> None:
    """Fail on a hole, a repeat, or an event that begins where none has ended."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.from_status for event in events] == [None, *(event.status for event in events[:-1])]
    assert all(TRANSITIONS[event.from_status, event.event] is event.status for event in events)
