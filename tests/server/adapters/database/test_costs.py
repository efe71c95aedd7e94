"""The recurring reads cost what is due, however many sessions live."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from server.adapters.database import upkeep
from server.adapters.database.changes import Fail
from server.adapters.database.database import Database
from server.adapters.database.due import Queued
from server.domain.allowance import Allowance
from testkit.crowds import add_events, add_sessions
from testkit.running import new_session
from tests.server.adapters.database.costs import rows_examined
from tests.server.adapters.database.steps import asked, brought_to, opened
from tryon.protocol.states import Event, Status

CROWD = {Status.COMPLETED: 10_000, Status.PROCESSING: 10_000, Status.CREATED: 20}

FEW = 400
"""Maximum rows that a read may look at: a fiftieth of those that live."""


async def test_recurring_reads_examine_few_rows_of_many(database: Database) -> None:
    """One session is due in each way; 20,000 that are not are never looked at."""
    await add_sessions(database, CROWD)
    lapsed = await brought_to(database, Status.PROCESSING)
    await database.writer.renew(lapsed.id, attempt=1, lease_seconds=-1)
    await database.writer.insert(new_session(deadline_seconds=-1))
    expired = await database.writer.insert(new_session(retention_seconds=-1))
    now = datetime.now(UTC)
    end = await database.feed.cursor()
    reads: dict[str, Callable[[], Awaitable[object]]] = {
        "due": database.due.due,
        "due, second page": lambda: database.due.due(after=lapsed),
        "expired": lambda: database.due.expired(limit=1000),
        "next_due": database.due.next_due,
        "next_due after a pass": lambda: database.due.next_due(now),
        "long_waiting": lambda: database.due.long_waiting(seconds=5),
        "count_waiting": database.reader.count_waiting,
        "feed": lambda: database.feed.page(end),
        "feed, first cursor": database.feed.cursor,
        "seqs": lambda: database.reader.seqs([lapsed.id, expired.id]),
        "a session with its events": lambda: database.reader.with_events(lapsed.id, 0),
        "an owner's sessions": lambda: database.reader.of_owner("crowd", limit=20, before=None),
        "old tombstones": database.upkeep.delete_old_tombstones,
    }
    examined = {name: await rows_examined(database, read) for name, read in reads.items()}
    assert {name: rows for name, rows in examined.items() if rows > FEW} == {}, examined
    assert [session.id for session in await database.due.expired(limit=9)] == [expired.id]


async def test_changes_of_a_session_examine_few_rows_of_many(database: Database) -> None:
    await add_sessions(database, CROWD)
    read, write = database.reader, database.writer
    waiting, running, ended, failed = [
        await brought_to(database, status)
        for status in (Status.CREATED, Status.PROCESSING, Status.COMPLETED, Status.FAILED)
    ]
    late = await write.insert(new_session(deadline_seconds=-1))
    retry = await write.insert(new_session(retry_of=failed.id))
    timeout = Fail("timeout", "It took too long.", retryable=True)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "renew": lambda: write.renew(running.id, attempt=1, lease_seconds=60),
        "request_cancel": lambda: write.request_cancel(running.id, seq=2),
        "transition": lambda: write.transition(asked(running, Event.COMPLETED)),
        "count_enqueues": lambda: write.count_enqueues([Queued(waiting.id, 1, 1)]),
        "claim": lambda: write.claim(waiting.id, worker="w", lease_seconds=60, actor="w"),
        "time_out": lambda: write.time_out([late.id], timeout, actor="reconciler"),
        "note_delivered": lambda: write.note_delivered({ended.id: database.clock.now()}),
        "bound_ends": lambda: write.bound_ends(deadline_seconds=10**6, retention_seconds=10**6),
        "by_idempotency_key": lambda: read.by_idempotency_key("owner", "key"),
        "retry_of": lambda: read.retry_of(failed.id),
        "family": lambda: read.family(failed.id),
        "mark_deleted": lambda: write.mark_deleted(failed.id, id_hash=str),
        "reasons_among": lambda: read.reasons_among([failed.id]),
        "ids_among": lambda: read.ids_among([failed.id]),
        "erase": lambda: write.erase([failed.id, retry.id]),
        "insert": lambda: write.insert(new_session(address_hash="x", allowance=Allowance(owner_bytes=2**40))),
    }
    examined = {name: await rows_examined(database, call) for name, call in calls.items()}
    assert {name: rows for name, rows in examined.items() if rows > FEW} == {}, examined


async def test_stray_events_are_found_without_memory_for_a_hash(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comparing each event with each session would take days; they are joined."""
    monkeypatch.setattr(upkeep, "EVENTS_A_SEARCH", 1500)
    async with opened(postgres_url) as database, database.connections.read() as connection:
        name = (await connection.execute(text("SELECT current_database()"))).scalar_one()
        await connection.execute(text(f"ALTER DATABASE {name} SET work_mem = '64kB'"))
    async with opened(postgres_url) as database:
        await add_sessions(database, {Status.COMPLETED: 4000})
        assert await rows_examined(database, database.upkeep.delete_stray_events) <= 5 * 4000
        await add_events(database, first=10_000, count=1200)
        assert await database.upkeep.delete_stray_events() == 1200
        assert await database.upkeep.delete_stray_events() == 0
        assert await rows_examined(database, database.upkeep.delete_stray_events) >= 2 * 4000
