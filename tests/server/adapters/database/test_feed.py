"""The feed, read as a hub reads it: nothing is missed, in commit order."""

from __future__ import annotations

import asyncio

import asyncpg

from server.adapters.database.database import Database
from server.adapters.database.feed import Cursor
from testkit.running import new_session
from tests.server.adapters.database.steps import brought_to, opened
from tryon.protocol.states import GoneReason, Status


class Reader:
    """A reader of the feed, as a hub is; it keeps each event once."""

    def __init__(self, database: Database, cursor: Cursor) -> None:
        self._database = database
        self._cursor = cursor
        self.seen: list[tuple[str, int]] = []
        self.tombstones: set[str] = set()

    async def read(self) -> None:
        page = await self._database.feed.page(self._cursor)
        self._cursor = page.cursor
        self.seen += [(e.session_id, e.seq) for e in page.events if (e.session_id, e.seq) not in self.seen]
        self.tombstones |= {id_hash for id_hash, _ in page.tombstones}


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
            assert await other.writer.claim(quick.id, worker="w", lease_seconds=60, actor="w") is not None
            await other.writer.leave_tombstones(["quick"], GoneReason.DELETED)
            await reader.read()
            await reader.read()
            assert (quick.id, 2) in reader.seen and reader.tombstones == {"quick"}
            assert (slow.id, 2) not in reader.seen
            await transaction.commit()
            await reader.read()
            assert (slow.id, 2) in reader.seen, "overtaken and lost"
            assert reader.tombstones == {"quick", "slow"}
        finally:
            await connection.close()


async def test_feed_is_empty_at_its_end(database: Database) -> None:
    reader = Reader(database, await database.feed.cursor())
    await brought_to(database, Status.COMPLETED)
    await reader.read()
    assert (await database.feed.page(reader._cursor)).events == []
