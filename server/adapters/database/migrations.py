"""Migration of the database to the newest schema, by one process at a time."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import sqlite3
from pathlib import Path
from typing import Final

import alembic.command
import alembic.config
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import Connection, exc, text

from server.adapters.database.engine import UNLIMIT_TRANSACTION, create_engine
from server.adapters.database.errors import CANNOT_CONNECT, reason
from server.config.database_url import parse_database_url
from server.config.settings import Config, ConfigError
from server.config.sources import make_data_dir
from server.system.disk_space import Reserve

LOCK_KEY: Final = 0x7472796F6E
"""Key of the advisory lock on PostgreSQL: "tryon" in ASCII."""

_HERE: Final = Path(__file__).resolve().parents[2]


def script_directory() -> Path:
    """Return the folder of the migrations, in a checkout or in an installed wheel."""
    for folder in (_HERE.parent / "alembic", _HERE / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise ConfigError("the migrations are missing from this installation")


def migrate(config: Config) -> None:
    """Upgrade to the newest schema; create the data folder if it is missing.

    Other processes that migrate meanwhile wait, then find nothing to do. Raises
    ConfigError if the database cannot be used.
    """
    make_data_dir(config.data_dir)
    try:
        _try_sqlite(config.database)
        asyncio.run(_migrate(config))
    except CANNOT_CONNECT as error:
        raise ConfigError(f"TRYON_DATABASE_URL: the database cannot be used: {reason(error)}") from error
    except exc.DBAPIError as error:
        if error.statement is not None:
            raise
        raise ConfigError(f"TRYON_DATABASE_URL: the database cannot be used: {reason(error)}") from error
    except CommandError as error:
        if not isinstance(unknown := error.__cause__, ResolutionError):
            raise
        raise ConfigError(
            f"TRYON_DATABASE_URL: the database has the schema {unknown.argument!r} of a newer release; install that release"
        ) from error


def _try_sqlite(database_url: str) -> None:
    """Open an SQLite file once without aiosqlite, with room on its disk if possible.

    Its thread would print a trace of a failure after the event loop has ended.
    """
    url = parse_database_url(database_url)
    if url.sqlite:
        if url.path:
            Reserve(Path(url.path)).adjust()
            _make_private(Path(url.path))
        with contextlib.closing(sqlite3.connect(url.path or ":memory:")):
            pass


def _make_private(database: Path) -> None:
    """Take an existing SQLite file, and those beside it, from other users.

    SQLite gives its log the mode of the database, whatever the process's umask is.
    """
    for path in (database, *database.parent.glob(f"{glob.escape(database.name)}-*")):
        with contextlib.suppress(OSError):  # missing, or another user's
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)


async def _migrate(config: Config) -> None:
    settings = alembic.config.Config()
    settings.set_main_option("script_location", str(script_directory()).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    engine = create_engine(config.database)

    def upgrade(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":  # SQLite: BEGIN IMMEDIATE is the lock
            connection.execute(text(UNLIMIT_TRANSACTION))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        settings.attributes["connection"] = connection
        alembic.command.upgrade(settings, "head")

    try:
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    finally:
        await engine.dispose()
