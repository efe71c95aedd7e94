"""The acts of operators: one row each, which leads to no session that was erased.

A row is written before the action, so that none is without one, and gets its outcome
afterwards. It holds a hash of the session's id under the key of tombstones.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import delete, insert, select, update

from server.adapters.database import tables
from server.adapters.database.engine import Connections
from server.adapters.database.tables import database_time, statement_time

ASKED: Final = "asked"
"""Outcome of an action that is under way, or whose process died."""

_DAY_SECONDS: Final = 86400

_a: Final = tables.operator_actions


@dataclass(frozen=True, slots=True)
class OperatorAction:
    """A row of ``tryon_operator_actions``."""

    id: int
    at: datetime
    operator: str
    action: str
    session_hash: str
    outcome: str
    request_id: str | None


class OperatorActions:
    """The rows of all operators. Methods raise Unavailable."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __repr__(self) -> str:
        return f"<OperatorActions of {self._connections!r}>"

    async def add(self, *, operator: str, action: str, session_hash: str, request_id: str | None) -> int:
        """Add an action that is about to begin, and return its id."""
        row = insert(_a).values(
            at=database_time(),
            operator=operator,
            action=action,
            session_hash=session_hash,
            outcome=ASKED,
            request_id=request_id,
        )
        async with self._connections.write() as connection:
            return int((await connection.execute(row.returning(_a.c.id))).scalar_one())

    async def end(self, action_id: int, outcome: str) -> None:
        """Record the outcome of an action."""
        async with self._connections.write() as connection:
            await connection.execute(update(_a).where(_a.c.id == action_id).values(outcome=outcome))

    async def newest(self, limit: int) -> list[OperatorAction]:
        """Return the newest actions, the newest first."""
        async with self._connections.read() as connection:
            rows = (await connection.execute(select(*_a.c).order_by(_a.c.id.desc()).limit(limit))).all()
        return [OperatorAction(*row) for row in rows]

    async def delete_old(self, *, days: float) -> int:
        """Delete the actions that are older than this, and return how many."""
        old = delete(_a).where(_a.c.at <= statement_time(-days * _DAY_SECONDS))
        async with self._connections.write() as connection:
            return (await connection.execute(old)).rowcount
