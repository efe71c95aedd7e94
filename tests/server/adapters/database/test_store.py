"""What the store promises, held to it on SQLite and PostgreSQL, against a second and
third process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text, update

from server.adapters.database import tables
from server.adapters.database.changes import Change, Complete, Fail, Moved
from server.adapters.database.database import Database, open_database
from server.adapters.database.errors import Taken
from server.adapters.database.feed import Cursor
from server.domain.session import AuditEvent, Session, new_session_id
from server.system.clock import SystemClock
from testkit.processes import ROOT
from testkit.running import new_session, outcome_of
from testkit.servers import PostgresServer
from tryon.protocol.errors import NotFound, Unavailable
from tryon.protocol.states import TRANSITIONS, Event, GoneReason, Status

SESSIONS_A_RACE = 8


class Racer:
    """One further process with a store of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.adapters.database.racer"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the racing process died; its traceback is above"
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate()


class Racers:
    """Two processes that do things to one database at the same moment."""

    def __init__(self, racers: list[Racer], url: str) -> None:
        self._racers = racers
        self._url = url

    async def race(self, *orders: list[dict[str, Any]]) -> list[list[Any]]:
        """Each process its own list of calls; all begin together.

        Their answers, in the order of the calls.
        """
        return await asyncio.to_thread(self._race, orders)

    async def race_each(self, sessions: list[Session], **order: Any) -> list[list[Any]]:
        """Both processes the same call for each of these sessions."""
        calls = [{"session_id": session.id, **order} for session in sessions]
        return await self.race(calls, calls)

    def _race(self, orders: tuple[list[dict[str, Any]], ...]) -> list[list[Any]]:
        self._all([{"call": "open"}] * len(orders))
        at = time.monotonic() + 0.01
        return self._all(
            [
                {"call": "race", "at": at, "orders": [{"name": f"racer-{n}"} | each for each in calls]}
                for n, calls in enumerate(orders)
            ]
        )

    def _all(self, orders: list[dict[str, Any]]) -> list[Any]:
        for racer, order in zip(self._racers, orders, strict=True):
            racer.tell(order | {"url": self._url})
        return [racer.answer() for racer in self._racers]

    def close(self) -> None:
        self._all([{"call": "close"}] * len(self._racers))


@pytest.fixture(scope="module")
def processes() -> Iterator[list[Racer]]:
    racers = [Racer(), Racer()]
    yield racers
    for racer in racers:
        racer.close()


@pytest.fixture
async def racers(processes: list[Racer], database_url: str) -> AsyncIterator[Racers]:
    racers = Racers(processes, database_url)
    await asyncio.to_thread(racers._all, [{"call": "open"}] * 2)
    yield racers
    await asyncio.to_thread(racers.close)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


@contextlib.asynccontextmanager
async def opened(database_url: str) -> AsyncIterator[Database]:
    database = open_database(database_url, clock=SystemClock())
    try:
        yield database
    finally:
        await database.close()


async def brought_to(database: Database, status: Status) -> Session:
    """A session in this state."""
    session = await database.writing.insert(new_session())
    if status is Status.CREATED:
        return session
    moved = await database.writing.claim(session.id, worker="w", lease_seconds=60, actor="w")
    assert moved is not None
    if status is Status.PROCESSING:
        return moved.session
    event = {Status.COMPLETED: Event.COMPLETED, Status.FAILED: Event.FAILED, Status.CANCELLED: Event.CANCELLED}[status]
    return (await change(database, moved.session, event)).session


async def change(database: Database, session: Session, event: Event, **more: Any) -> Moved:
    moved = await database.writing.transition(
        Change(session_id=session.id, outcome=outcome_of(event), from_status=session.status, actor="test", **more)
    )
    assert moved is not None
    return moved


async def trail(database: Database, session_id: str) -> list[AuditEvent]:
    story = await database.reading.with_events(session_id, 0)
    assert story is not None
    return story.events


def assert_whole(events: list[AuditEvent]) -> None:
    """No hole, no double, and each event begins where the one before ended."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.from_status for event in events] == [None, *(event.status for event in events[:-1])]
    assert all(TRANSITIONS[event.from_status, event.event] is event.status for event in events)


# -- races -----------------------------------------------------------------------------

ROWS = [(before, event) for before, event in TRANSITIONS if before is not None]


@pytest.mark.parametrize(("before", "event"), ROWS, ids=[f"{before}-{event}" for before, event in ROWS])
async def test_of_two_processes_that_race_for_a_transition_one_wins(
    database: Database, racers: Racers, before: Status, event: Event
) -> None:
    sessions = [await brought_to(database, before) for _ in range(SESSIONS_A_RACE)]
    calls = [
        {
            "call": "transition",
            "change": {"session_id": session.id, "event": event, "from_status": before, "seq": session.seq},
        }
        for session in sessions
    ]
    first, second = await racers.race(calls, calls)
    for session, one, other in zip(sessions, first, second, strict=True):
        assert one + other == 1, f"{one=} {other=}"
        events = await trail(database, session.id)
        assert_whole(events)
        assert len(events) == session.seq + 1
        assert events[-1].actor == ("racer-0" if one else "racer-1")


async def test_of_two_processes_that_insert_the_same_session_one_wins(database: Database, racers: Racers) -> None:
    news = [new_session() for _ in range(SESSIONS_A_RACE)]
    calls = [{"call": "insert", "session_id": new.id} for new in news]
    first, second = await racers.race(calls, calls)
    for new, one, other in zip(news, first, second, strict=True):
        assert (one is True) + (other is True) == 1
        assert_whole(await trail(database, new.id))
        assert len(await trail(database, new.id)) == 1


@pytest.mark.parametrize("rival", [Event.FAILED, Event.CANCELLED, Event.REQUEUED])
async def test_a_session_ends_in_one_way_when_two_processes_end_it_differently(
    database: Database, racers: Racers, rival: Event
) -> None:
    sessions = [await brought_to(database, Status.PROCESSING) for _ in range(SESSIONS_A_RACE)]

    def calls(event: Event) -> list[dict[str, Any]]:
        return [
            {
                "call": "transition",
                "change": {"session_id": s.id, "event": event, "from_status": "processing", "attempt": 1},
            }
            for s in sessions
        ]

    first, second = await racers.race(calls(Event.COMPLETED), calls(rival))
    for session, one, other in zip(sessions, first, second, strict=True):
        assert one + other == 1
        events = await trail(database, session.id)
        assert_whole(events)
        assert events[-1].event is (Event.COMPLETED if one else rival)


async def test_two_workers_never_hold_the_same_session(database: Database, racers: Racers) -> None:
    sessions = [await brought_to(database, Status.CREATED) for _ in range(SESSIONS_A_RACE)]
    first, second = await racers.race_each(sessions, call="claim")
    for session, one, other in zip(sessions, first, second, strict=True):
        assert one + other == 1
        now = await database.reading.get(session.id)
        assert now is not None
        assert (now.attempt, now.lease_owner) == (1, "racer-0" if one else "racer-1")


async def test_nothing_is_lost_when_two_processes_write_without_a_pause(database: Database, racers: Racers) -> None:
    session = await brought_to(database, Status.CREATED)
    call = {"call": "count", "session_id": session.id, "times": 100}
    await racers.race([call], [call])
    now = await database.reading.get(session.id)
    assert now is not None
    assert (now.attempt, now.seq, now.status) == (200, 401, Status.CREATED)
    events = await trail(database, session.id)
    assert_whole(events)
    assert len(events) == 401
    assert {event.actor for event in events} == {"client", "racer-0", "racer-1"}


async def test_a_lease_is_given_to_one_process(database: Database, racers: Racers) -> None:
    calls = [{"call": "take_lease", "lease": f"chore-{n}"} for n in range(SESSIONS_A_RACE)]
    first, second = await racers.race(calls, calls)
    assert [one + other for one, other in zip(first, second, strict=True)] == [1] * SESSIONS_A_RACE
    again, _ = await racers.race(calls, [])
    assert again == first, "who holds it may take it again, nobody else"


async def test_a_session_is_erased_once(database: Database, racers: Racers) -> None:
    sessions = [await brought_to(database, Status.PROCESSING) for _ in range(SESSIONS_A_RACE)]
    start = await database.feed.cursor()
    first, second = await racers.race_each(sessions, call="erase")
    assert [one + other for one, other in zip(first, second, strict=True)] == [1] * SESSIONS_A_RACE
    assert len((await database.feed.page(start)).tombstones) == SESSIONS_A_RACE


# -- transitions -----------------------------------------------------------------------

OUTCOMES = [event for event in Event if event is not Event.CREATED]
FORBIDDEN = [(before, event) for before in Status for event in OUTCOMES if (before, event) not in TRANSITIONS]


@pytest.mark.parametrize("status", Status)
async def test_what_the_table_does_not_hold_changes_nothing(database: Database, status: Status) -> None:
    session = await brought_to(database, status)
    for before, event in FORBIDDEN:
        if before is status:
            attempt = Change(session_id=session.id, outcome=outcome_of(event), from_status=before, actor="test")
            assert await database.writing.transition(attempt) is None, event
    assert await database.reading.get(session.id) == session
    assert len(await trail(database, session.id)) == session.seq


async def test_a_transition_writes_row_and_event_alike(database: Database) -> None:
    session = await database.writing.insert(new_session())
    moved = await database.writing.claim(session.id, worker="w1", lease_seconds=12, actor="worker:w1")
    assert moved is not None
    row = await database.reading.get(session.id)
    assert moved.session == row
    assert moved.event == (await trail(database, session.id))[-1]
    assert (moved.event.seq, moved.event.at, moved.event.status) == (row.seq, row.updated_at, row.status)
    assert moved.event.data == {"attempt": 1}
    assert row.lease_expires_at is not None
    assert abs((row.lease_expires_at - row.updated_at).total_seconds() - 12) < 0.1


async def test_a_terminal_transition_gives_the_lease_back_and_says_when(database: Database) -> None:
    session = await brought_to(database, Status.PROCESSING)
    done = (await change(database, session, Event.COMPLETED)).session
    assert (done.lease_owner, done.lease_expires_at) == (None, None)
    assert done.finished_at is not None
    assert abs(done.finished_at - done.updated_at) < timedelta(seconds=0.1)


@pytest.mark.parametrize("wrong", [{"seq": 1}, {"seq": 3}, {"attempt": 0}, {"attempt": 2}])
async def test_a_transition_from_an_outdated_view_changes_nothing(database: Database, wrong: dict[str, Any]) -> None:
    session = await brought_to(database, Status.PROCESSING)
    attempt = Change(
        session_id=session.id, outcome=Complete("outputs/x"), from_status=Status.PROCESSING, actor="test", **wrong
    )
    assert await database.writing.transition(attempt) is None
    assert await database.reading.get(session.id) == session


async def test_nothing_begins_after_the_deadline(database: Database) -> None:
    session = await database.writing.insert(new_session(deadline_seconds=-1))
    assert await database.writing.claim(session.id, worker="w", lease_seconds=60, actor="w") is None
    assert await database.reading.get(session.id) == session


async def test_nothing_completes_after_the_deadline(database: Database) -> None:
    session = await database.writing.insert(new_session(deadline_seconds=-1))
    # Claimed in time: without the condition, as a claim has it.
    held = (await change(database, session, Event.PROCESSING)).session
    attempt = Change(
        session_id=held.id,
        outcome=Complete("outputs/x"),
        from_status=held.status,
        actor="w",
        attempt=1,
        within_deadline=True,
    )
    assert await database.writing.transition(attempt) is None
    assert await database.reading.get(session.id) == held


async def test_an_old_attempt_is_fenced_out(database: Database) -> None:
    first = await brought_to(database, Status.PROCESSING)
    await change(database, first, Event.REQUEUED)
    second = await database.writing.claim(first.id, worker="w2", lease_seconds=60, actor="w2")
    assert second is not None
    for event in (Event.COMPLETED, Event.FAILED, Event.REQUEUED):
        attempt = Change(
            session_id=first.id,
            outcome=outcome_of(event),
            from_status=Status.PROCESSING,
            actor="w1",
            attempt=first.attempt,
        )
        assert await database.writing.transition(attempt) is None
    assert await database.writing.renew(first.id, attempt=first.attempt, lease_seconds=600) is None
    assert await database.reading.get(first.id) == second.session


async def test_a_heartbeat_extends_the_lease_of_its_own_attempt(database: Database) -> None:
    session = await brought_to(database, Status.PROCESSING)
    assert await database.writing.renew(session.id, attempt=1, lease_seconds=600) is False
    after = await database.reading.get(session.id)
    assert after is not None and after.lease_expires_at is not None and session.lease_expires_at is not None
    assert after.lease_expires_at > session.lease_expires_at + timedelta(seconds=500)
    assert after.seq == session.seq


async def test_a_lease_that_still_holds_is_not_taken_away(database: Database) -> None:
    session = await brought_to(database, Status.PROCESSING)
    attempt = Change(
        session_id=session.id,
        outcome=outcome_of(Event.REQUEUED),
        from_status=session.status,
        actor="test",
        lease_lapsed=True,
    )
    assert await database.writing.transition(attempt) is None
    assert await database.writing.renew(session.id, attempt=1, lease_seconds=-1) is False
    assert await database.writing.transition(attempt) is not None


async def test_all_that_are_past_their_deadline_fail_in_one_transaction(database: Database) -> None:
    late = [await database.writing.insert(new_session(deadline_seconds=-1)) for _ in range(3)]
    running = await database.writing.insert(new_session(deadline_seconds=60))
    claim = await database.writing.claim(running.id, worker="w", lease_seconds=60, actor="test")
    assert claim is not None
    await past_its_deadline(database, running.id)
    spared = [await brought_to(database, status) for status in Status]
    late_failure = Fail("timeout", "It took too long.", retryable=True)
    start = await database.feed.cursor()
    ids = [session.id for session in (*late, running, *spared)]
    moved = await database.writing.time_out(ids, late_failure, actor="me")
    assert {each.session.id for each in moved} == {running.id, *(session.id for session in late)}
    for each in moved:
        session = each.session
        assert (session.status, session.error_code, session.lease_owner) == (Status.FAILED, "timeout", None)
        assert session.finished_at is not None
        last = (await trail(database, session.id))[-1]
        assert (last.seq, last.event, last.actor, last.data) == (session.seq, Event.FAILED, "me", each.event.data)
        assert last.from_status is (Status.PROCESSING if session.id == running.id else Status.CREATED)
    assert len((await database.feed.page(start)).events) == 4
    assert await database.writing.time_out(ids, late_failure, actor="me") == [], "once"


async def past_its_deadline(database: Database, session_id: str) -> None:
    async with database.connections.write() as connection:
        table = tables.sessions
        await connection.execute(
            update(table).where(table.c.id == session_id).values(deadline_at=tables.database_time(-1))
        )


async def test_an_enqueue_is_counted_once_per_view(database: Database) -> None:
    session = await database.writing.insert(new_session())
    assert await database.writing.count_enqueue(session.id, seq=1, enqueues=1)
    assert not await database.writing.count_enqueue(session.id, seq=1, enqueues=1)
    now = await database.reading.get(session.id)
    assert now is not None and now.enqueues == 2


async def test_an_erased_session_leaves_nothing_but_a_hash(database: Database, database_url: str) -> None:
    kept = await database.writing.insert(new_session())
    session = await brought_to(database, Status.COMPLETED)
    start = await database.feed.cursor()
    erased = await database.writing.erase({session.id: "the hash"}, GoneReason.DELETED)
    assert [row.id for row in erased] == [session.id]
    assert await database.reading.get(session.id) is None
    assert await database.reading.with_events(session.id, 0) is None
    news = await database.feed.page(start)
    assert (news.events, news.tombstones) == ([], [("the hash", GoneReason.DELETED)])
    dump = await everything(database_url)
    assert session.id not in dump and session.id.replace("-", "") not in dump and session.owner not in dump
    assert kept.id in dump.replace("-", "") or kept.id.replace("-", "") in dump.replace("-", "")
    assert await database.writing.erase({session.id: "again"}, GoneReason.DELETED) == []


async def everything(database_url: str) -> str:
    """All rows of all tables as text."""
    names = ("tryon_sessions", "tryon_events", "tryon_gone", "tryon_leases")
    if database_url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(database_url.partition(":///")[2])) as connection:
            return repr([connection.execute(f"SELECT * FROM {table}").fetchall() for table in names])
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        return repr([[tuple(row) for row in await connection.fetch(f"SELECT * FROM {table}")] for table in names])
    finally:
        await connection.close()


async def test_a_delivery_is_noted_once_and_of_ended_sessions_only(database: Database) -> None:
    running, ended = await brought_to(database, Status.PROCESSING), await brought_to(database, Status.FAILED)
    handed = {running.id: database.clock.now(), ended.id: database.clock.now()}
    assert await database.writing.note_delivered(handed) == {ended.id: ended.finished_at}
    assert await database.writing.note_delivered({ended.id: database.clock.now() + 5}) == {}
    row = await database.reading.get(ended.id)
    assert row is not None and row.delivered_at is not None
    assert row.delivered_at.timestamp() == pytest.approx(handed[ended.id], abs=1)


async def test_deliveries_are_noted_in_the_order_in_which_everybody_locks(postgres_url: str) -> None:
    """Two processes that note the same ones, or one of them and an erasure, would else
    wait for each other.
    """
    low, high = sorted(new_session_id() for _ in range(2))
    async with opened(postgres_url) as database, opened(postgres_url) as other:
        for id in (high, low):  # as they lie in the table
            session = await database.writing.insert(new_session(id=id))
            await change(database, session, Event.FAILED)
        async with other.connections.write() as connection:
            await connection.execute(text("SELECT 1 FROM tryon_sessions WHERE id = :id FOR UPDATE"), {"id": low})
            noting = asyncio.create_task(
                database.writing.note_delivered({high: database.clock.now(), low: database.clock.now()})
            )
            async with asyncio.timeout(10):
                while not (await connection.execute(text("SELECT 1 FROM pg_locks WHERE NOT granted"))).all():
                    await asyncio.sleep(0.005)
            query = text("SELECT id FROM tryon_sessions WHERE id = :id FOR UPDATE NOWAIT")
            assert (await connection.execute(query, {"id": high})).one(), "it waits for the first and holds none"
        assert set(await noting) == {low, high}


# -- reading ---------------------------------------------------------------------------


async def test_a_story_is_the_session_and_the_events_after_a_seq(database: Database) -> None:
    session = await brought_to(database, Status.COMPLETED)
    for since, expected in ((None, []), (0, [1, 2, 3]), (1, [2, 3]), (3, []), (99, [])):
        story = await database.reading.with_events(session.id, since)
        assert story is not None
        assert story.session == session
        assert [event.seq for event in story.events] == expected


async def test_a_story_is_read_by_one_statement(database: Database) -> None:
    session = await brought_to(database, Status.COMPLETED)
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    sqlalchemy_event.listen(database.connections.engine.sync_engine, "before_cursor_execute", note)
    story = await database.reading.with_events(session.id, 0)
    assert story is not None and len(story.events) == 3
    assert len([statement for statement in statements if "tryon_" in statement]) == 1


async def test_an_expired_session_is_unreadable_before_it_is_erased(database: Database) -> None:
    session = await database.writing.insert(new_session(retention_seconds=-0.001))
    assert await database.reading.get(session.id) is None
    assert await database.reading.with_events(session.id, 0) is None
    assert [expired.id for expired in await database.due.expired(limit=9)] == [session.id]
    assert [row.id for row in await database.writing.erase({session.id: "h"}, GoneReason.EXPIRED)] == [session.id]


async def test_all_times_are_aware_and_in_utc(database: Database) -> None:
    session = await brought_to(database, Status.PROCESSING)
    times = [session.created_at, session.updated_at, session.deadline_at, session.expires_at, session.lease_expires_at]
    times += [event.at for event in await trail(database, session.id)]
    for at in times:
        assert at is not None
        assert at.tzinfo is UTC
        assert abs(at - datetime.now(UTC)) < timedelta(days=2)
    assert session.deadline_at - session.created_at == pytest.approx(timedelta(seconds=600), abs=timedelta(seconds=1))


async def test_times_come_from_the_databases_clock(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 5000)  # this process's clock is far off
    session = await brought_to(database, Status.PROCESSING)
    assert abs(session.created_at.timestamp() - real()) < 5
    if not database.connections.sqlite:
        await database.clock.synchronize()
        assert abs(database.clock.now() - real()) < 5


async def test_due_finds_each_kind_of_standstill_and_nothing_else(database: Database) -> None:
    waiting = await brought_to(database, Status.CREATED)
    await brought_to(database, Status.PROCESSING)
    await brought_to(database, Status.COMPLETED)
    assert await database.due.long_waiting(seconds=-1) == [(waiting.id, 1, 1)]
    assert await database.due.long_waiting(seconds=60) == []
    lapsed = await brought_to(database, Status.PROCESSING)
    await database.writing.renew(lapsed.id, attempt=1, lease_seconds=-1)
    late = await database.writing.insert(new_session(deadline_seconds=-1))
    expired = await database.writing.insert(new_session(retention_seconds=-1))
    older = await database.writing.insert(new_session(retention_seconds=-2, deadline_seconds=-3))
    assert [session.id for session in await database.due.due()] == [lapsed.id, late.id]
    assert [session.id for session in await database.due.due(limit=1)] == [lapsed.id]
    assert [session.id for session in await database.due.due(after=await database.reading.get(lapsed.id))] == [late.id]
    assert [session.id for session in await database.due.expired(limit=9)] == [older.id, expired.id]
    assert [session.id for session in await database.due.expired(limit=1)] == [older.id]
    soonest = await database.due.next_due()
    assert soonest is not None and soonest < datetime.now(UTC)


async def test_hashes_of_erased_sessions_are_forgotten_after_their_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await database.writing.insert(new_session())
    start = await database.feed.cursor()
    await database.writing.erase({session.id: "h"}, GoneReason.EXPIRED)
    assert await database.upkeep.delete_old_tombstones() == 0
    monkeypatch.setattr("server.adapters.database.tombstones.TOMBSTONE_SECONDS", -1.0)
    assert await database.upkeep.delete_old_tombstones() == 1
    assert (await database.feed.page(start)).tombstones == []


# -- news ------------------------------------------------------------------------------


class Reader:
    """Follows the news as a hub does; what it has seen, each once."""

    def __init__(self, database: Database, cursor: Cursor) -> None:
        self._database = database
        self._cursor = cursor
        self.seen: list[tuple[str, int]] = []
        self.gone: set[str] = set()

    async def read(self) -> None:
        news = await self._database.feed.page(self._cursor)
        self._cursor = news.cursor
        self.seen += [(e.session_id, e.seq) for e in news.events if (e.session_id, e.seq) not in self.seen]
        self.gone |= {id_hash for id_hash, _ in news.tombstones}


async def test_news_are_everything_since_the_cursor_in_order(database: Database) -> None:
    await brought_to(database, Status.COMPLETED)
    reader = Reader(database, await database.feed.cursor())
    await reader.read()
    assert reader.seen == []
    session = await brought_to(database, Status.COMPLETED)
    await reader.read()
    assert reader.seen == [(session.id, 1), (session.id, 2), (session.id, 3)]
    await database.writing.erase({session.id: "h"}, GoneReason.DELETED)
    await reader.read()
    assert reader.gone == {"h"}


async def test_news_miss_nothing_that_is_written_while_they_are_read(database: Database) -> None:
    reader = Reader(database, await database.feed.cursor())
    writing = [asyncio.create_task(brought_to(database, Status.COMPLETED)) for _ in range(30)]
    while not all(task.done() for task in writing):
        await reader.read()
    await reader.read()
    expected = {(task.result().id, seq) for task in writing for seq in (1, 2, 3)}
    assert set(reader.seen) == expected
    for task in writing:
        assert [seq for id, seq in reader.seen if id == task.result().id] == [1, 2, 3]


async def test_a_commit_that_stalls_is_not_missed_when_later_ones_overtake_it(postgres_url: str) -> None:
    async with opened(postgres_url) as database, opened(postgres_url) as other:
        slow, quick = await database.writing.insert(new_session()), await database.writing.insert(new_session())
        erased = await database.writing.insert(new_session())
        reader = Reader(database, await database.feed.cursor())
        connection = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
        try:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(
                "INSERT INTO tryon_events (xact, session_id, seq, event, status, at, attempt, actor, data) VALUES "
                "(pg_current_xact_id()::text::bigint, $1, 2, 'processing', 'processing', now(), 1, 'slow', '{}')",
                slow.id,
            )
            await connection.execute(
                "INSERT INTO tryon_gone (xact, id_hash, reason, at) VALUES "
                "(pg_current_xact_id()::text::bigint, 'slow', 'deleted', now())"
            )
            assert await other.writing.claim(quick.id, worker="w", lease_seconds=60, actor="w") is not None
            await other.writing.erase({erased.id: "quick"}, GoneReason.DELETED)
            await reader.read()
            await reader.read()
            assert (quick.id, 2) in reader.seen and reader.gone == {"quick"}
            assert (slow.id, 2) not in reader.seen
            await transaction.commit()
            await reader.read()
            assert (slow.id, 2) in reader.seen, "overtaken and lost"
            assert reader.gone == {"quick", "slow"}
        finally:
            await connection.close()


async def test_old_news_are_not_read_again_for_ever(database: Database) -> None:
    reader = Reader(database, await database.feed.cursor())
    await brought_to(database, Status.COMPLETED)
    await reader.read()
    assert (await database.feed.page(reader._cursor)).events == []


# -- when the database is away ---------------------------------------------------------


async def test_an_sqlite_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "not a folder").touch()
    async with opened(f"sqlite+aiosqlite:///{tmp_path}/not a folder/x.sqlite3") as database:
        for call in (
            database.reading.check(),
            database.writing.insert(new_session()),
            database.reading.get(new_session().id),
            database.feed.cursor(),
        ):
            with pytest.raises(Unavailable):
                await call


async def test_an_sqlite_file_that_another_process_locks_for_long_is_unavailable(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.adapters.database.engine.BUSY_SECONDS", 0.05)
    async with opened(sqlite_url) as database:
        session = await database.writing.insert(new_session())
        with contextlib.closing(sqlite3.connect(sqlite_url.partition(":///")[2], isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable):
                await database.writing.insert(new_session())
            assert await database.reading.get(session.id) == session, "readers never wait for the writer"
            other.execute("ROLLBACK")
        await database.writing.insert(new_session())


async def test_a_postgres_that_goes_down_is_unavailable(postgres: PostgresServer) -> None:
    with contextlib.closing(PostgresServer()) as server:
        await asyncio.to_thread(server.start)
        async with opened(server.url("postgres")) as database:
            await database.clock.synchronize()
            server.close()
            for call in (
                database.reading.check(),
                database.writing.insert(new_session()),
                database.reading.get(new_session().id),
                database.feed.cursor(),
            ):
                with pytest.raises(Unavailable):
                    await call


async def test_cut_connections_to_postgres_are_unavailable_once_at_most(postgres_url: str) -> None:
    async with opened(postgres_url) as database:
        session = await brought_to(database, Status.PROCESSING)
        connection = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
        await connection.close()
        for _ in range(3):
            with contextlib.suppress(Unavailable):
                await database.reading.get(session.id)
        assert await database.reading.get(session.id) == session
        assert (await change(database, session, Event.COMPLETED)).session.seq == 3


async def test_a_postgres_that_does_not_answer_is_unavailable(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.adapters.database.engine.COMMAND_SECONDS", 0.2)
    async with opened(postgres_url) as database:
        with pytest.raises(Unavailable):
            async with asyncio.timeout(3), database.connections.read() as connection:
                await connection.execute(text("SELECT pg_sleep(10)"))
        await database.reading.check()


async def test_a_process_that_stops_in_a_transaction_keeps_its_rows_from_nobody_for_long(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.adapters.database.engine.IDLE_SECONDS", 0.3)
    async with opened(postgres_url) as frozen, opened(postgres_url) as database:
        session = await brought_to(database, Status.PROCESSING)
        with contextlib.suppress(Unavailable):  # of what it had in hand, nothing is left
            async with frozen.connections.write() as connection:
                await connection.execute(text("UPDATE tryon_sessions SET seq = 9"))
                async with asyncio.timeout(8):
                    assert (await change(database, session, Event.COMPLETED)).session.seq == 3
        with contextlib.suppress(Unavailable):
            await frozen.reading.check()
        await frozen.reading.check()


async def test_no_error_tells_what_was_stored(database: Database) -> None:
    """Errors are logged, with their causes."""
    new = new_session(params={"name": "a person"})
    await database.writing.insert(new)
    with pytest.raises(Taken) as taken:
        await database.writing.insert(new)
    said = "".join(traceback.format_exception(taken.value))
    assert "IntegrityError" in said
    assert new.owner not in said and "a person" not in said


# -- a family --------------------------------------------------------------------------


async def test_a_family_is_condemned_as_one_and_word_is_left(database: Database) -> None:
    start = await database.feed.cursor()
    first = await database.writing.insert(new_session())
    second = await database.writing.insert(new_session(retry_of=first.id))
    third = await database.writing.insert(new_session(retry_of=second.id))
    stranger = await database.writing.insert(new_session())
    condemned = await database.writing.mark_deleted(second.id, id_hash=lambda id: f"h-{id}")
    assert {each.id for each in condemned} == {first.id, second.id, third.id}
    assert set((await database.feed.page(start)).tombstones) == {
        (f"h-{each.id}", GoneReason.DELETED) for each in condemned
    }
    assert await database.writing.mark_deleted(first.id, id_hash=str) == []
    assert await database.reading.get(stranger.id) == stranger


async def test_what_is_condemned_is_not_tried_again(database: Database) -> None:
    session = await database.writing.insert(new_session())
    await database.writing.mark_deleted(session.id, id_hash=str)
    with pytest.raises(NotFound):
        await database.writing.insert(new_session(retry_of=session.id))


async def test_of_a_retry_and_a_condemnation_at_once_the_retry_is_condemned_or_refused(database_url: str) -> None:
    async with opened(database_url) as one, opened(database_url) as other:
        for _ in range(20):
            session = await one.writing.insert(new_session())
            again = new_session(retry_of=session.id)
            retried, condemned = await asyncio.gather(
                one.writing.insert(again), other.writing.mark_deleted(session.id, id_hash=str), return_exceptions=True
            )
            assert isinstance(retried, Session | NotFound)
            assert not isinstance(condemned, BaseException)
            assert session.id in {each.id for each in condemned}
            assert await one.reading.get(again.id) is None
