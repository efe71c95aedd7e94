"""The schema of a next release, for what must work on it before it is installed."""

from __future__ import annotations

from typing import Final

from server.adapters.database.engine import create_engine

EXPANSION: Final = (
    "ALTER TABLE tryon_sessions ADD COLUMN next_release VARCHAR(16) DEFAULT 'new'",
    "ALTER TABLE tryon_events ADD COLUMN next_release INTEGER DEFAULT 0",
    "CREATE TABLE tryon_next_release (session_id VARCHAR(36) PRIMARY KEY, next_release VARCHAR(16))",
)
"""Every change that a next release's migrations may make while this one runs.

See ``docs/operations.md``.
"""


async def expand(database_url: str) -> None:
    """Migrate to the schema of a next release, which the code need not know."""
    engine = create_engine(database_url)
    try:
        async with engine.begin() as connection:
            for statement in EXPANSION:
                await connection.exec_driver_sql(statement)
    finally:
        await engine.dispose()
