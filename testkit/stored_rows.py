"""Every row of an installation's database, read past the product."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

import asyncpg


async def stored_rows(database_url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of every table, by its name."""
    if database_url.startswith("sqlite"):
        path = database_url.partition(":///")[2]
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in names}
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        found = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        names = [each["tablename"] for each in found]
        return {name: [tuple(row) for row in await connection.fetch(f"SELECT * FROM {name}")] for name in names}
    finally:
        await connection.close()
