"""The sessions that time alone moves on."""

from __future__ import annotations

from datetime import UTC, datetime

from server.adapters.database.database import Database
from testkit.running import new_session
from tests.server.adapters.database.steps import brought_to
from tryon.protocol.states import Status


async def test_due_sessions_are_found_by_kind(database: Database) -> None:
    """Waiting, lapsed, late and expired sessions are found, and no other."""
    waiting = await brought_to(database, Status.CREATED)
    await brought_to(database, Status.PROCESSING)
    await brought_to(database, Status.COMPLETED)
    assert await database.due.long_waiting(seconds=-1) == [(waiting.id, 1, 1)]
    assert await database.due.long_waiting(seconds=60) == []
    lapsed = await brought_to(database, Status.PROCESSING)
    await database.writer.renew(lapsed.id, attempt=1, lease_seconds=-1)
    late = await database.writer.insert(new_session(deadline_seconds=-1))
    expired = await database.writer.insert(new_session(retention_seconds=-1))
    older = await database.writer.insert(new_session(retention_seconds=-2, deadline_seconds=-3))
    assert [session.id for session in await database.due.due()] == [lapsed.id, late.id]
    assert [session.id for session in await database.due.due(limit=1)] == [lapsed.id]
    assert [session.id for session in await database.due.due(after=await database.reader.get(lapsed.id))] == [late.id]
    assert [session.id for session in await database.due.expired(limit=9)] == [older.id, expired.id]
    assert [session.id for session in await database.due.expired(limit=1)] == [older.id]
    soonest = await database.due.next_due()
    assert soonest is not None and soonest < datetime.now(UTC)
