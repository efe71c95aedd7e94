"""Reads of sessions with their events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from server.adapters.database.database import Database
from testkit.running import new_session
from tests.server.adapters.database.steps import brought_to, trail
from tryon.protocol.states import Status


async def test_with_events_returns_events_after_seq(database: Database) -> None:
    session = await brought_to(database, Status.COMPLETED)
    for since, expected in ((None, []), (0, [1, 2, 3]), (1, [2, 3]), (3, []), (99, [])):
        found = await database.reader.with_events(session.id, since)
        assert found is not None
        assert found.session == session
        assert [event.seq for event in found.events] == expected


async def test_with_events_runs_one_statement(database: Database) -> None:
    """Session and events belong together only if one statement read them."""
    session = await brought_to(database, Status.COMPLETED)
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    sqlalchemy_event.listen(database.connections.engine.sync_engine, "before_cursor_execute", note)
    found = await database.reader.with_events(session.id, 0)
    assert found is not None and len(found.events) == 3
    assert len([statement for statement in statements if "tryon_" in statement]) == 1


async def test_expired_session_is_unreadable_before_erasure(database: Database) -> None:
    session = await database.writer.insert(new_session(retention_seconds=-0.001))
    assert await database.reader.get(session.id) is None
    assert await database.reader.with_events(session.id, 0) is None
    assert [expired.id for expired in await database.due.expired(limit=9)] == [session.id]
    assert [row.id for row in await database.writer.erase([session.id])] == [session.id]


async def test_owners_are_read_together_newest_first(database: Database) -> None:
    """Return each owner's newest unfinished sessions up to a limit; skip ended ones."""
    one, other = "1" * 64, "2" * 64
    first, second, third, foreign = [
        (await database.writer.insert(new_session(owner=owner))).id for owner in (one, one, one, other)
    ]
    ended = await brought_to(database, Status.COMPLETED, owner=one)
    found = await database.reader.unfinished_of_owners([one, other, "3" * 64], limit=2)
    assert sorted(found) == sorted([(one, second), (one, third), (other, foreign)])
    assert [name for owner, name in found if owner == one] == [third, second]
    assert first not in dict(found).values()
    assert await database.reader.finished_of_owner(one, created_seconds=4e9, limit=9) == [ended.id]


async def test_times_are_aware_and_in_utc(database: Database) -> None:
    session = await brought_to(database, Status.PROCESSING)
    times = [session.created_at, session.updated_at, session.deadline_at, session.expires_at, session.lease_expires_at]
    times += [event.at for event in await trail(database, session.id)]
    for at in times:
        assert at is not None
        assert at.tzinfo is UTC
        assert abs(at - datetime.now(UTC)) < timedelta(days=2)
    assert session.deadline_at - session.created_at == pytest.approx(timedelta(seconds=600), abs=timedelta(seconds=1))
