"""The rows of what operators did."""

from __future__ import annotations

from server.adapters.database.database import Database
from server.adapters.database.operator_actions import ASKED


async def test_action_has_a_row_before_its_outcome(database: Database) -> None:
    """A process that dies in between leaves a row that says so."""
    rows = database.operator_actions
    first = await rows.add(operator="a" * 8, action="erase", session_hash="f" * 64, request_id=None)
    second = await rows.add(operator="b" * 8, action="cancel", session_hash="e" * 64, request_id="r-1")
    await rows.end(second, "cancelled")
    assert [(row.id, row.operator, row.outcome, row.request_id) for row in await rows.newest(10)] == [
        (second, "b" * 8, "cancelled", "r-1"),
        (first, "a" * 8, ASKED, None),
    ]
    assert [row.id for row in await rows.newest(1)] == [second]


async def test_old_actions_are_deleted(database: Database) -> None:
    """The cleanup asks for it; younger ones stay."""
    rows = database.operator_actions
    await rows.add(operator="a" * 8, action="erase", session_hash="f" * 64, request_id=None)
    assert await rows.delete_old(days=1) == 0
    assert await rows.delete_old(days=-1) == 1
    assert await rows.newest(10) == []
