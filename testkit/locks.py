"""The lock of a database that every write needs, held by another program."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator

import asyncpg


@contextlib.asynccontextmanager
async def write_locked(database_url: str) -> AsyncIterator[None]:
    """Let no session be written for the block; reads go on."""
    if database_url.startswith("sqlite"):
        with contextlib.closing(
            sqlite3.connect(database_url.partition(":///")[2], timeout=0, isolation_level=None)
        ) as other:
            await _begin(other)
            yield
    else:
        connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE tryon_sessions IN EXCLUSIVE MODE")
                yield
        finally:
            await connection.close()


async def _begin(connection: sqlite3.Connection) -> None:
    """Take SQLite's write lock; its holder may need this event loop to release it."""
    async with asyncio.timeout(60):
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                await asyncio.sleep(0.005)
            else:
                return
