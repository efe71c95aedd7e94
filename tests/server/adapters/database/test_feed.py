"""The feed, read as a hub reads it: nothing is missed, in commit order."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from server.adapters.database import feed
from server.adapters.database.database import Database
from server.adapters.database.feed import Cursor, FeedPage
from testkit.crowds import add_events
from testkit.running import new_session
from testkit.servers import PostgresServer
from tests.server.adapters.database.costs import rows_examined
from tests.server.adapters.database.steps import brought_to, opened
from tryon.protocol.states import GoneReason, Status


class Reader:
    """A reader of the feed, as a hub is; it keeps each event once."""

    def __init__(self, database: Database, cursor: Cursor) -> None:
        self._database = database
        self._cursor = cursor
        self.seen: list[tuple[str, int]] = []
        self.tombstones: set[str] = set()
        self.sizes: list[int] = []

    async def read(self) -> FeedPage:
        page = await self._database.feed.page(self._cursor)
        self._cursor = page.cursor
        self.sizes.append(len(page.events))
        self.seen += [(e.session_id, e.seq) for e in page.events if (e.session_id, e.seq) not in self.seen]
        self.tombstones |= {id_hash for id_hash, _ in page.tombstones}
        return page

    async def read_all(self) -> None:
        while (await self.read()).more:
            pass


class Transaction:
    """A transaction of another process, which goes on when the test says so."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.written: list[tuple[str, int]] = []
        self._transaction = connection.transaction()

    async def begin(self) -> None:
        """Begin, and take an id: from now on it is among the open transactions."""
        await self._transaction.start()
        await self.connection.execute("SELECT pg_current_xact_id()")

    async def write(self, session_id: str, seqs: range) -> None:
        """Append events of a session that need not exist."""
        await self.connection.executemany(
            "INSERT INTO tryon_events (xact, session_id, seq, event, status, at, attempt, actor, data) VALUES "
            "(pg_current_xact_id()::text::bigint, $1, $2, 'processing', 'processing', now(), 1, 'slow', '{}')",
            [(session_id, seq) for seq in seqs],
        )
        self.written += [(session_id, seq) for seq in seqs]

    async def bury(self, id_hash: str) -> None:
        """Leave a tombstone."""
        await self.connection.execute(
            "INSERT INTO tryon_gone (xact, id_hash, reason, at) VALUES "
            "(pg_current_xact_id()::text::bigint, $1, 'deleted', now())",
            id_hash,
        )

    async def commit(self) -> None:
        await self._transaction.commit()

    async def roll_back(self) -> None:
        await self._transaction.rollback()
        self.written = []


@contextlib.asynccontextmanager
async def transaction(url: str) -> AsyncIterator[Transaction]:
    """Begin a transaction over a connection of its own."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        found = Transaction(connection)
        await found.begin()
        yield found
    finally:
        await connection.close()


async def test_feed_returns_commits_since_cursor_in_order(database: Database) -> None:
    await brought_to(database, Status.COMPLETED)
    reader = Reader(database, await database.feed.cursor())
    await reader.read()
    assert reader.seen == []
    session = await brought_to(database, Status.COMPLETED)
    await reader.read()
    assert reader.seen == [(session.id, 1), (session.id, 2), (session.id, 3)]
    await database.writer.leave_tombstones(["h"], GoneReason.DELETED)
    await reader.read()
    assert reader.tombstones == {"h"}


async def test_feed_misses_no_concurrent_commit(database: Database) -> None:
    """Thirty tasks write while the feed is read."""
    reader = Reader(database, await database.feed.cursor())
    writing = [asyncio.create_task(brought_to(database, Status.COMPLETED)) for _ in range(30)]
    while not all(task.done() for task in writing):
        await reader.read()
    await reader.read()
    expected = {(task.result().id, seq) for task in writing for seq in (1, 2, 3)}
    assert set(reader.seen) == expected
    for task in writing:
        assert [seq for session_id, seq in reader.seen if session_id == task.result().id] == [1, 2, 3]


async def test_stalled_commit_is_read_after_later_ones(postgres_url: str) -> None:
    """A transaction takes a position, stalls and commits after later ones were read."""
    async with opened(postgres_url) as database, opened(postgres_url) as other:
        slow, quick = await database.writer.insert(new_session()), await database.writer.insert(new_session())
        reader = Reader(database, await database.feed.cursor())
        async with transaction(postgres_url) as stalled:
            await stalled.write(slow.id, range(2, 3))
            await stalled.bury("slow")
            assert await other.writer.claim(quick.id, worker="w", lease_seconds=60, actor="w") is not None
            await other.writer.leave_tombstones(["quick"], GoneReason.DELETED)
            await reader.read()
            await reader.read()
            assert (quick.id, 2) in reader.seen and reader.tombstones == {"quick"}
            assert (slow.id, 2) not in reader.seen
            await stalled.commit()
            await reader.read()
            assert (slow.id, 2) in reader.seen, "overtaken and lost"
            assert reader.tombstones == {"quick", "slow"}


async def test_feed_is_empty_at_its_end(database: Database) -> None:
    reader = Reader(database, await database.feed.cursor())
    await brought_to(database, Status.COMPLETED)
    await reader.read()
    assert (await database.feed.page(reader._cursor)).events == []


async def test_feed_makes_events_of_followed_sessions_alone(database: Database) -> None:
    """The ids of new sessions are named all the same, and the cursor passes both."""
    start = await database.feed.cursor()
    followed = await brought_to(database, Status.PROCESSING)
    other = await brought_to(database, Status.PROCESSING)
    page = await database.feed.page(start, follows=lambda session_id: session_id == followed.id)
    assert [(event.session_id, event.seq) for event in page.events] == [(followed.id, 1), (followed.id, 2)]
    assert sorted(page.created) == sorted([followed.id, other.id])
    rest = await database.feed.page(page.cursor)
    assert (rest.events, rest.created) == ([], [])


async def test_feed_reads_each_event_once_beside_foreign_transaction(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """A transaction stays open in another database, one of this database stalls."""
    async with opened(postgres_url) as database, transaction(postgres.url("postgres")):
        async with transaction(postgres_url) as stalled:
            reader = Reader(database, await database.feed.cursor())
            await stalled.write(new_session().id, range(1, 6))
            quick = [await brought_to(database, Status.PROCESSING) for _ in range(10)]
            for _ in range(3):
                await reader.read()
            assert reader.sizes == [20, 0, 0]
            assert await rows_examined(database, reader.read) <= 4
            await stalled.commit()
        later = await brought_to(database, Status.CREATED)
        for _ in range(2):
            await reader.read()
        assert reader.sizes == [20, 0, 0, 0, 6, 0]
        expected = {(session.id, seq) for session in quick for seq in (1, 2)}
        assert set(reader.seen) == expected | set(stalled.written) | {(later.id, 1)}


async def test_long_backlog_is_read_in_pages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PAGE_ROWS", 10)
    reader = Reader(database, await database.feed.cursor())
    for number in range(12):
        await database.writer.leave_tombstones([f"h{number}"], GoneReason.DELETED)
    assert (await reader.read()).more
    assert not (await reader.read()).more
    assert reader.tombstones == {f"h{number}" for number in range(12)}
    sessions = [await brought_to(database, Status.PROCESSING) for _ in range(12)]
    reader.sizes.clear()
    await reader.read_all()
    assert reader.sizes == [10, 10, 4]
    assert reader.seen == [(session.id, seq) for session in sessions for seq in (1, 2)]


async def test_page_of_long_backlog_examines_few_rows(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was cut off for long reads its backlog without sorting it."""
    monkeypatch.setattr(feed, "PAGE_ROWS", 10)
    reader = Reader(database, await database.feed.cursor())
    for n in range(0, 2000, 5):
        await add_events(database, first=n, count=5)
    async with database.connections.read() as connection:
        await connection.exec_driver_sql("ANALYZE tryon_events")  # as autovacuum does within a minute
    assert await rows_examined(database, reader.read) < 100


@pytest.mark.parametrize("seed", range(4))
async def test_feed_misses_nothing_in_any_interleaving(
    postgres: PostgresServer, postgres_url: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transactions begin, write and end in random order, also within the reading."""
    monkeypatch.setattr(feed, "PAGE_ROWS", 3)
    dice = random.Random(seed)
    committed: list[tuple[str, int]] = []
    buried: set[str] = set()
    snapshot = feed._snapshot
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(opened(postgres_url))
        await stack.enter_async_context(transaction(postgres.url("postgres")))
        connections = [await asyncpg.connect(postgres_url.replace("+asyncpg", "")) for _ in range(5)]
        for connection in connections:
            stack.push_async_callback(connection.close)
        under_way: dict[asyncpg.Connection, Transaction] = {}

        async def step() -> None:
            connection = dice.choice(connections)
            current = under_way.get(connection)
            if current is None:
                current = under_way[connection] = Transaction(connection)
                await current.begin()
            elif dice.random() < 0.4:
                session_id = new_session().id
                await current.write(session_id, range(1, dice.choice((2, 2, 6))))
                await current.bury(session_id)
            else:
                await end(connection)

        async def end(connection: asyncpg.Connection) -> None:
            current = under_way.pop(connection)
            if dice.random() < 0.2:
                await current.roll_back()
            else:
                await current.commit()
                committed.extend(current.written)
                buried.update(session_id for session_id, _ in current.written)

        async def disturbed(connection: object) -> Cursor:
            found = await snapshot(connection)  # type: ignore[arg-type]
            for _ in range(dice.choice((0, 0, 1, 4))):
                await step()
            return found

        reader = Reader(database, await database.feed.cursor())
        monkeypatch.setattr(feed, "_snapshot", disturbed)
        for _ in range(40):
            for _ in range(dice.choice((1, 4, 40))):
                await step()
            await reader.read()
        for connection in list(under_way):
            await end(connection)
        monkeypatch.setattr(feed, "_snapshot", snapshot)
        await reader.read_all()
        assert sorted(reader.seen) == sorted(committed)
        assert reader.tombstones == buried
        assert sum(reader.sizes) < 1.5 * len(committed), "few are read twice"
        await reader.read()
        assert reader.sizes[-1] == 0
