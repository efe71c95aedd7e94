"""Commits that were never confirmed: when it is certain what became of them."""

from __future__ import annotations

import pytest

from server.adapters.database.database import Database
from testkit.running import new_session
from tests.server.adapters.database.steps import opened
from tryon.protocol.errors import Unavailable


async def test_transaction_under_way_has_not_ended(postgres_url: str) -> None:
    """It ends with its commit, and its row is visible then."""
    async with opened(postgres_url) as database, opened(postgres_url) as other:
        new = new_session()
        async with database.connections.write() as connection:
            await connection.exec_driver_sql("SELECT pg_current_xact_id()")
            mark = await other.commits.mark()
            assert not await other.commits.ended_below(mark)
            await other.writer.insert(new)  # of a later transaction, which does not matter
            assert not await other.commits.ended_below(mark)
        assert await other.commits.ended_below(mark)


async def test_later_transaction_is_not_waited_for(postgres_url: str) -> None:
    """A busy database has always one under way."""
    async with opened(postgres_url) as database, opened(postgres_url) as other:
        mark = await other.commits.mark()
        async with database.connections.write() as connection:
            await connection.exec_driver_sql("SELECT pg_current_xact_id()")
            assert await other.commits.ended_below(mark)


async def test_sqlite_waits_for_the_one_writer(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process writes, nothing is certain."""
    monkeypatch.setattr("server.adapters.database.engine.BUSY_SECONDS", 0.05)
    async with opened(sqlite_url) as database, opened(sqlite_url) as other:
        async with database.connections.write():
            mark = await other.commits.mark()
            with pytest.raises(Unavailable):
                await other.commits.ended_below(mark)
        assert await other.commits.ended_below(mark)


async def test_ended_commit_is_certain_at_once(database: Database) -> None:
    """Normally one look is enough."""
    await database.writer.insert(new_session())
    assert await database.commits.ended_below(await database.commits.mark())
