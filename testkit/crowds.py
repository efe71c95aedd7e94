"""Many sessions at once, by one statement each kind: rows without files or photos."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from server.adapters.database.database import Database
from tryon.protocol.states import Status

_NUMBERS: Final = {
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})",
    "postgresql": "WITH numbers AS (SELECT generate_series(1, {count}) AS n)",
}
_ID: Final = {
    "sqlite": "printf('%032x', n + {first})",
    "postgresql": "CAST(lpad(to_hex(n + {first}), 32, '0') AS uuid)",
}
_XACT: Final = {"sqlite": "NULL", "postgresql": "CAST(CAST(pg_current_xact_id() AS text) AS bigint)"}
_SESSIONS: Final = (
    "{numbers} INSERT INTO tryon_sessions (id, owner, status, seq, attempt, burnt, enqueues, lease_owner, "
    "lease_expires_at, cancel_requested, processor, params, error_retryable, created_at, "
    "updated_at, finished_at, deadline_at, expires_at) SELECT {id}, 'crowd', '{status}', 1, 1, 0, 1, {worker}, "
    "{lease}, false, 'mock', '{{}}', false, {now}, {now}, {finished}, {later}, {later} "
    "FROM numbers"
)
_EVENTS: Final = (
    "{numbers} INSERT INTO tryon_events (xact, session_id, seq, event, status, at, attempt, actor, data) "
    "SELECT {xact}, {id}, 1, 'created', 'created', {now}, 0, 'client', '{{}}' FROM numbers"
)


_FILES: Final = (
    '{numbers} INSERT INTO tryon_files (session_id, direction, position, role, "index", key, type, bytes, sha256, '
    "width, height) SELECT {id}, 'input', 0, 'person', 0, {key}, 'image/jpeg', 5, '', 1, 1 FROM numbers"
)
_KEY: Final = {
    "sqlite": "'inputs/00000000-0000-0000-0000-' || printf('%012x', n + {first}) || '-person-0.jpg'",
    "postgresql": "'inputs/00000000-0000-0000-0000-' || lpad(to_hex(n + {first}), 12, '0') || '-person-0.jpg'",
}


async def add_expired(database: Database, count: int, *, first: int = 2**40) -> list[str]:
    """Insert sessions that have expired, with an event and a photo each.

    Return the keys of the photos, which are not stored.
    """
    values = {"status": "completed", "worker": "NULL", "lease": "NULL", "finished": "{now}"}
    await _insert(database, _SESSIONS, first=first, count=count, values=values, hours=-1)
    await add_events(database, first=first, count=count)
    await _insert(database, _FILES, first=first, count=count, values={})
    return [f"inputs/{numbered_id(n + first)}-person-0.jpg" for n in range(1, count + 1)]


def numbered_id(number: int) -> str:
    """Return the id of a session that is made here, from 1."""
    return f"00000000-0000-0000-0000-{number:012x}"


async def add_sessions(database: Database, counts: Mapping[Status, int], *, first: int = 0) -> None:
    """Insert living sessions, as many of each state as given, each with one event.

    Their ids are the numbers after ``first`` (:func:`numbered_id`).
    No lease, deadline or expiry ends within the next 20 hours. PostgreSQL's statistics
    are brought up to date, as autovacuum would do within a minute.
    """
    for status, count in counts.items():
        running, ended = status is Status.PROCESSING, status.terminal
        values = {
            "status": status.value,
            "worker": "'worker'" if running else "NULL",
            "lease": "{later}" if running else "NULL",
            "finished": "{now}" if ended else "NULL",
        }
        if count:
            await _insert(database, _SESSIONS, first=first, count=count, values=values)
            await add_events(database, first=first, count=count)
        first += count
    if not database.connections.sqlite:
        engine = database.connections.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.exec_driver_sql("VACUUM ANALYZE")


async def add_events(database: Database, *, first: int, count: int) -> None:
    """Insert the first event of ``count`` sessions, in one transaction.

    The ids of the sessions, which need not exist, are the numbers after ``first``.
    """
    await _insert(database, _EVENTS, first=first, count=count, values={})


async def _insert(
    database: Database, template: str, *, first: int, count: int, values: Mapping[str, str], hours: float = 20
) -> None:
    kind = database.connections.engine.dialect.name
    now = datetime.now(UTC)
    times = {"now": now, "later": now + timedelta(hours=hours)}
    texts = {name: f"'{at:%Y-%m-%d %H:%M:%S.%f}'" + "::timestamptz" * (kind != "sqlite") for name, at in times.items()}
    words = texts | {
        "numbers": _NUMBERS[kind].format(count=count),
        "id": _ID[kind].format(first=first),
        "key": _KEY[kind].format(first=first),
        "xact": _XACT[kind],
    }
    statement = template.format(**words, **{name: value.format(**texts) for name, value in values.items()})
    async with database.connections.engine.begin() as connection:  # bounded reads and writes are too short for it
        await connection.exec_driver_sql(statement)
