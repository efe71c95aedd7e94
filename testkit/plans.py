"""Plans of PostgreSQL for the statements of a call, as it explains them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import event

from server.adapters.database.database import Database

LARGE: Final = ("tryon_sessions", "tryon_events", "tryon_files")
"""Tables with rows for each session."""


@dataclass(frozen=True, slots=True)
class Explained:
    """What PostgreSQL says of the statements of a call."""

    scans: tuple[str, ...]
    """Scans of whole large tables."""
    milliseconds: float
    """What it took to run the statements, without their planning and the network."""


async def explained(database: Database, call: Callable[[], Awaitable[object]]) -> Explained:
    """Run a call, then explain its statements, which are run once more."""
    with statements_of(database) as statements:
        await call()
    assert statements
    scans: list[str] = []
    milliseconds = 0.0
    async with database.connections.engine.connect() as connection:  # a transaction that is rolled back
        for sql, parameters in statements:
            found = (await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters)).scalar_one()
            plan = (json.loads(found) if isinstance(found, str) else found)[0]
            scans += _whole_tables(plan["Plan"])
            milliseconds += plan["Execution Time"]
    return Explained(tuple(scans), milliseconds)


@contextlib.contextmanager
def statements_of(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Collect the statements of a block, with parameters, as the driver gets them.

    Inserts are left out: they look for no row.
    """
    statements: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, sql: str, parameters: Any, context: Any, many: bool) -> None:
        if not sql.startswith("INSERT"):
            statements.append((sql, parameters[0] if many else parameters))

    engine = database.connections.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def _whole_tables(plan: dict[str, Any]) -> list[str]:
    found = [scan for part in plan.get("Plans", ()) for scan in _whole_tables(part)]
    if plan["Node Type"] == "Seq Scan" and plan["Relation Name"] in LARGE:
        found.append(f"{plan['Relation Name']}: {plan.get('Filter', 'everything')}")
    return found
