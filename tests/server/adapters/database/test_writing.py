"""The conditions of a change, and the rows and events that it writes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text, update

from server.adapters.database import tables
from server.adapters.database.changes import Fail
from server.adapters.database.database import Database
from server.adapters.database.due import Queued
from testkit.running import new_session
from testkit.values import new_session_id
from tests.server.adapters.database.steps import asked, brought_to, change, opened, trail
from tryon.protocol.states import TRANSITIONS, Event, Status

OUTCOMES = [event for event in Event if event is not Event.CREATED]
FORBIDDEN = [(before, event) for before in Status for event in OUTCOMES if (before, event) not in TRANSITIONS]


async def past_its_deadline(database: Database, session_id: str) -> None:
    """Set the deadline of a session to one second ago."""
    async with database.connections.write() as connection:
        table = tables.sessions
        await connection.execute(
            update(table).where(table.c.id == session_id).values(deadline_at=tables.database_time(-1))
        )


@pytest.mark.parametrize("status", Status)
async def test_forbidden_transition_changes_nothing(database: Database, status: Status) -> None:
    """Every outcome that the table of transitions does not allow is refused."""
    session = await brought_to(database, status)
    for before, event in FORBIDDEN:
        if before is status:
            assert await database.writer.transition(asked(session, event)) is None, event
    assert await database.reader.get(session.id) == session
    assert len(await trail(database, session.id)) == session.seq


async def test_transition_writes_matching_row_and_event(database: Database) -> None:
    session = await database.writer.insert(new_session())
    moved = await database.writer.claim(session.id, worker="w1", lease_seconds=12, actor="worker:w1")
    assert moved is not None
    row = await database.reader.get(session.id)
    assert moved.session == row
    assert moved.event == (await trail(database, session.id))[-1]
    assert (moved.event.seq, moved.event.at, moved.event.status) == (row.seq, row.updated_at, row.status)
    assert moved.event.data == {"attempt": 1, "processor": "mock"}
    assert row.lease_expires_at is not None
    assert abs((row.lease_expires_at - row.updated_at).total_seconds() - 12) < 0.1


async def test_terminal_transition_releases_lease_and_sets_end(database: Database) -> None:
    session = await brought_to(database, Status.PROCESSING)
    done = (await change(database, session, Event.COMPLETED)).session
    assert (done.lease_owner, done.lease_expires_at) == (None, None)
    assert done.finished_at is not None
    assert abs(done.finished_at - done.updated_at) < timedelta(seconds=0.1)


@pytest.mark.parametrize("wrong", [{"seq": 1}, {"seq": 3}, {"attempt": 0}, {"attempt": 2}])
async def test_transition_from_stale_view_changes_nothing(database: Database, wrong: dict[str, Any]) -> None:
    """A wrong seq or attempt makes the compare-and-set miss."""
    session = await brought_to(database, Status.PROCESSING)
    assert await database.writer.transition(asked(session, Event.COMPLETED, **wrong)) is None
    assert await database.reader.get(session.id) == session


async def test_claim_fails_after_deadline(database: Database) -> None:
    session = await database.writer.insert(new_session(deadline_seconds=-1))
    assert await database.writer.claim(session.id, worker="w", lease_seconds=60, actor="w") is None
    assert await database.reader.get(session.id) == session


async def test_completion_fails_after_deadline(database: Database) -> None:
    session = await database.writer.insert(new_session(deadline_seconds=-1))
    # Moved without the condition, as a claim in time would have been.
    held = (await change(database, session, Event.PROCESSING)).session
    attempt = asked(held, Event.COMPLETED, attempt=1, within_deadline=True)
    assert await database.writer.transition(attempt) is None
    assert await database.reader.get(session.id) == held


async def test_old_attempt_is_fenced_out(database: Database) -> None:
    """A worker whose session was requeued and claimed again changes nothing."""
    first = await brought_to(database, Status.PROCESSING)
    await change(database, first, Event.REQUEUED)
    second = await database.writer.claim(first.id, worker="w2", lease_seconds=60, actor="w2")
    assert second is not None
    for event in (Event.COMPLETED, Event.FAILED, Event.REQUEUED):
        attempt = asked(first, event, attempt=first.attempt)
        assert await database.writer.transition(attempt) is None
    assert await database.writer.renew(first.id, attempt=first.attempt, lease_seconds=600) is None
    assert await database.reader.get(first.id) == second.session


async def test_renewal_extends_lease_of_its_attempt(database: Database) -> None:
    session = await brought_to(database, Status.PROCESSING)
    assert await database.writer.renew(session.id, attempt=1, lease_seconds=600) is False
    after = await database.reader.get(session.id)
    assert after is not None and after.lease_expires_at is not None and session.lease_expires_at is not None
    assert after.lease_expires_at > session.lease_expires_at + timedelta(seconds=500)
    assert after.seq == session.seq


async def test_requeue_waits_until_lease_has_lapsed(database: Database) -> None:
    session = await brought_to(database, Status.PROCESSING)
    attempt = asked(session, Event.REQUEUED, lease_lapsed=True)
    assert await database.writer.transition(attempt) is None
    assert await database.writer.renew(session.id, attempt=1, lease_seconds=-1) is False
    assert await database.writer.transition(attempt) is not None


async def test_time_out_fails_all_overdue_sessions(database: Database) -> None:
    """Overdue sessions fail once, in one transaction; all others stay."""
    late = [await database.writer.insert(new_session(deadline_seconds=-1)) for _ in range(3)]
    running = await database.writer.insert(new_session(deadline_seconds=60))
    claim = await database.writer.claim(running.id, worker="w", lease_seconds=60, actor="test")
    assert claim is not None
    await past_its_deadline(database, running.id)
    spared = [await brought_to(database, status) for status in Status]
    timeout = Fail("timeout", "It took too long.", retryable=True)
    start = await database.feed.cursor()
    ids = [session.id for session in (*late, running, *spared)]
    moved = await database.writer.time_out(ids, timeout, actor="reconciler")
    assert {each.session.id for each in moved} == {running.id, *(session.id for session in late)}
    for each in moved:
        session = each.session
        assert (session.status, session.error_code, session.lease_owner) == (Status.FAILED, "timeout", None)
        assert session.finished_at is not None
        last = (await trail(database, session.id))[-1]
        assert (last.seq, last.event, last.actor, last.data) == (
            session.seq,
            Event.FAILED,
            "reconciler",
            each.event.data,
        )
        assert last.data == {"error": {"code": "timeout", "message": "It took too long.", "retryable": True}}
        assert last.from_status is (Status.PROCESSING if session.id == running.id else Status.CREATED)
    assert len((await database.feed.page(start)).events) == 4
    assert await database.writer.time_out(ids, timeout, actor="reconciler") == []


async def test_enqueue_is_counted_once_per_view(database: Database) -> None:
    session = await database.writer.insert(new_session())
    queued = Queued(session.id, 1, 1)
    assert await database.writer.count_enqueues([queued])
    assert not await database.writer.count_enqueues([queued])
    now = await database.reader.get(session.id)
    assert now is not None and now.enqueues == 2


async def test_first_delivery_of_ended_session_is_noted(database: Database) -> None:
    """Running sessions have none, and the first time stands."""
    running, ended = await brought_to(database, Status.PROCESSING), await brought_to(database, Status.FAILED)
    handed = {running.id: database.clock.now(), ended.id: database.clock.now()}
    assert await database.writer.note_delivered(handed) == {ended.id: ended.finished_at}
    assert await database.writer.note_delivered({ended.id: database.clock.now() + 5}) == {}
    row = await database.reader.get(ended.id)
    assert row is not None and row.delivered_at is not None
    assert row.delivered_at.timestamp() == pytest.approx(handed[ended.id], abs=1)


async def test_deliveries_lock_rows_in_id_order(postgres_url: str) -> None:
    """Take locks in one order, or two processes would wait for each other.

    Both may note the same sessions, or one notes and one deletes them.
    """
    low, high = sorted(new_session_id() for _ in range(2))
    async with opened(postgres_url) as database, opened(postgres_url) as other:
        for session_id in (high, low):  # the order in the table
            session = await database.writer.insert(new_session(id=session_id))
            await change(database, session, Event.FAILED)
        async with other.connections.write() as connection:
            await connection.execute(text("SELECT 1 FROM tryon_sessions WHERE id = :id FOR UPDATE"), {"id": low})
            noting = asyncio.create_task(
                database.writer.note_delivered({high: database.clock.now(), low: database.clock.now()})
            )
            async with asyncio.timeout(10):
                while not (await connection.execute(text("SELECT 1 FROM pg_locks WHERE NOT granted"))).all():
                    await asyncio.sleep(0.005)
            query = text("SELECT id FROM tryon_sessions WHERE id = :id FOR UPDATE NOWAIT")
            assert (await connection.execute(query, {"id": high})).one(), "it waits for the first and holds none"
        assert set(await noting) == {low, high}


async def test_claim_is_refused_when_session_is_deleted_during_lock_wait(postgres_url: str) -> None:
    """The claim begins first and waits for the lock; the session expires after that."""
    async with opened(postgres_url) as database, opened(postgres_url) as other:
        session = await database.writer.insert(new_session())
        async with other.connections.write() as connection:
            await connection.execute(text("SELECT 1 FROM tryon_sessions WHERE id = :id FOR UPDATE"), {"id": session.id})
            claiming = asyncio.create_task(database.writer.claim(session.id, worker="w", lease_seconds=60, actor="w"))
            async with asyncio.timeout(10):
                while not (await connection.execute(text("SELECT 1 FROM pg_locks WHERE NOT granted"))).all():
                    await asyncio.sleep(0.005)
            expire = update(tables.sessions).where(tables.sessions.c.id == session.id)
            await connection.execute(expire.values(expires_at=tables.database_time()))
        assert await claiming is None
