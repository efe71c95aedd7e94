"""The cost of a call of the database, in rows or steps and not in time."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

from server.adapters.database.database import Database
from testkit.plans import statements_of

STEPS = 3
"""Steps of SQLite's virtual machine for each row of a scan."""


async def rows_examined(database: Database, call: Callable[[], Awaitable[object]]) -> int:
    """Run a call, then its statements once more; return how many rows they look at.

    On SQLite it is computed from the steps of its virtual machine.
    """
    with statements_of(database) as statements:
        await call()
    assert statements
    if database.connections.sqlite:
        return sum(_steps(database, *statement) for statement in statements) // STEPS
    rows = 0
    async with database.connections.engine.connect() as connection:  # a transaction that is rolled back
        for sql, parameters in statements:
            plan = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters)
            found = plan.scalar_one()
            rows += _rows((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])
    return rows


def _rows(plan: dict[str, Any]) -> int:
    """Sum the rows that a plan's scans have read, those that did not match included."""
    rows = sum(_rows(part) for part in plan.get("Plans", ()))
    if "Scan" in plan["Node Type"] or plan["Node Type"] == "Materialize":  # a result that is scanned again
        names = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
        rows += round(plan["Actual Loops"] * sum(plan.get(name, 0) for name in names))
    return rows


def _steps(database: Database, sql: str, parameters: Any) -> int:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with contextlib.closing(sqlite3.connect(database.connections.engine.url.database or "")) as connection:
        connection.execute("SELECT 1 FROM sqlite_master").fetchall()  # reads the schema, which is no cost of the call
        connection.set_progress_handler(count, 1)
        connection.execute(sql, parameters).fetchall()
        connection.rollback()
    return steps
