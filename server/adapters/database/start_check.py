"""Check before a process starts that the database is there and has its tables."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import exc, text

from server.adapters.database.engine import READ_SECONDS, create_engine
from server.adapters.database.errors import CANNOT_CONNECT, reason
from server.adapters.database.tables import REVISION
from server.config.database_url import parse_database_url
from server.config.settings import ConfigError

_QUERY: Final = "SELECT version_num FROM alembic_version"


async def check_database(database_url: str) -> None:
    """Raise ConfigError if the database cannot be used, or was not migrated.

    The schema of a newer release will do: processes of two releases run side by side
    while an installation is upgraded.
    """
    url = parse_database_url(database_url)
    try:
        revision = _sqlite_revision(url.path) if url.sqlite else await _postgresql_revision(database_url)
    except (*CANNOT_CONNECT, exc.DBAPIError) as error:
        raise ConfigError(f"TRYON_DATABASE_URL: the database cannot be used: {reason(error)}") from None
    if revision is None or revision < REVISION:
        raise ConfigError(
            f"TRYON_DATABASE_URL: the database has the schema {revision or 'of no release'}, not {REVISION}; "
            "run `tryon migrate`"
        )


async def describe_database(database_url: str) -> str:
    """Return name and version of a database that passed the check, and its schema."""
    url = parse_database_url(database_url)
    if url.sqlite:
        return f"SQLite {sqlite3.sqlite_version}, schema {_sqlite_revision(url.path)}"
    engine = create_engine(database_url)
    try:
        async with engine.connect() as connection:
            version = (await connection.execute(text("SHOW server_version"))).scalar_one()
            return f"PostgreSQL {version}, schema {(await connection.execute(text(_QUERY))).scalar_one()}"
    finally:
        await engine.dispose()


def _sqlite_revision(path: str | None) -> str | None:
    """Return the schema's revision; None without tables, or without a file."""
    if path is None:
        return None
    try:
        Path(path).stat()
    except FileNotFoundError:  # to open it would make it
        return None
    with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True)) as connection:
        try:
            row = connection.execute(_QUERY).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return None
    return None if row is None else str(row[0])


async def _postgresql_revision(database_url: str) -> str | None:
    engine = create_engine(database_url)
    try:
        async with engine.connect() as connection:
            async with asyncio.timeout(READ_SECONDS):
                revision = (await connection.execute(text(_QUERY))).scalar()
    except exc.ProgrammingError:  # there is no such table
        return None
    finally:
        await engine.dispose()
    return None if revision is None else str(revision)
