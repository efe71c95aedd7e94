"""Upkeep of the database itself."""

from __future__ import annotations

import pytest

from server.adapters.database.database import Database
from tryon.protocol.states import GoneReason


async def test_old_tombstones_are_deleted(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    start = await database.feed.cursor()
    await database.writer.leave_tombstones(["h"], GoneReason.EXPIRED)
    assert await database.upkeep.delete_old_tombstones() == 0
    monkeypatch.setattr("server.adapters.database.tombstones.TOMBSTONE_SECONDS", -1.0)
    assert await database.upkeep.delete_old_tombstones() == 1
    assert (await database.feed.page(start)).tombstones == []
