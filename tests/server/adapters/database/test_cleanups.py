"""Cleanups for which processes compete on PostgreSQL."""

from __future__ import annotations

import asyncio

from sqlalchemy import select, text, update

from server.adapters.database import tables
from server.adapters.database.cleanups import Cleanup, CleanupKind, add_cleanups
from server.adapters.database.database import Database
from server.adapters.database.tables import database_time
from tests.server.adapters.database.steps import brought_to, opened
from tryon.protocol.states import Status


async def added(database: Database) -> Cleanup:
    """Insert a cleanup that is due, and return it."""
    session = await brought_to(database, Status.CREATED)
    async with database.connections.write() as connection:
        await add_cleanups(connection, CleanupKind.FORGET, [("work", session.expires_at)])
    (cleanup,) = await database.cleanups.due(limit=9)
    return cleanup


async def test_attempt_of_another_process_is_not_waited_for(postgres_url: str) -> None:
    """While one counts an attempt, another gets False at once, and does other work."""
    async with opened(postgres_url) as database, opened(postgres_url) as other:
        cleanup = await added(database)
        async with database.connections.write() as connection:
            await connection.execute(update(tables.cleanups).values(attempts=tables.cleanups.c.attempts))
            async with asyncio.timeout(15):  # a wait for the lock would have no end
                assert not await other.cleanups.begin(cleanup, pause_seconds=60)
        assert await other.cleanups.begin(cleanup, pause_seconds=60)
        assert not await database.cleanups.begin(cleanup, pause_seconds=60)


async def test_overdue_cleanup_in_use_is_left(postgres_url: str) -> None:
    """Another process has it; it is given up when that is done."""
    async with opened(postgres_url) as database, opened(postgres_url) as other:
        await added(database)
        async with database.connections.write() as connection:
            await connection.execute(update(tables.cleanups).values(until=database_time(-1)))
        async with database.connections.write() as connection:
            await connection.execute(select(tables.cleanups.c.id).with_for_update())
            async with asyncio.timeout(15):
                assert await other.cleanups.remove_overdue() == 0
        assert await other.cleanups.remove_overdue() == 1


async def test_webhook_of_another_process_is_not_waited_for(postgres_url: str) -> None:
    """An attempt that another process is counting is its own."""
    async with opened(postgres_url) as database, opened(postgres_url) as other:
        session = await brought_to(database, Status.COMPLETED)
        async with database.connections.write() as connection:
            row = {"id": session.id, "url": ""}
            await connection.execute(
                text("INSERT INTO tryon_deliveries (session_id, url, next_at, attempts) VALUES (:id, :url, now(), 0)"),
                row,
            )
        (delivery,) = await database.deliveries.due(limit=9)
        async with database.connections.write() as connection:
            await connection.execute(select(tables.deliveries.c.session_id).with_for_update())
            async with asyncio.timeout(15):
                assert not await other.deliveries.begin(delivery, pause_seconds=60)
        assert await other.deliveries.begin(delivery, pause_seconds=60)
