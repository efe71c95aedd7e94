"""The lock of a database that every write needs, held by another program."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator

import asyncpg


@contextlib.asynccontextmanager
async def write_locked(database_url: str) -> AsyncIterator[None]:
    """Let no session be written for the block; reads go on."""
    if database_url.startswith("sqlite"):
        with contextlib.closing(
            sqlite3.connect(database_url.partition(":///")[2], timeout=60, isolation_level=None)
        ) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
    else:
        connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE tryon_sessions IN EXCLUSIVE MODE")
                yield
        finally:
            await connection.close()
