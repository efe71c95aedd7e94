"""Upkeep of the database itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from server.adapters.database.database import Database
from tests.server.adapters.database.steps import opened
from tryon.protocol.states import GoneReason


async def test_old_tombstones_are_deleted(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    start = await database.feed.cursor()
    await database.writer.leave_tombstones(["h"], GoneReason.EXPIRED)
    assert await database.upkeep.delete_old_tombstones() == 0
    monkeypatch.setattr("server.adapters.database.tombstones.TOMBSTONE_SECONDS", -1.0)
    assert await database.upkeep.delete_old_tombstones() == 1
    assert (await database.feed.page(start)).tombstones == []


async def test_scrub_waits_for_the_disk_beside_writers(sqlite_url: str) -> None:
    """Copy the log while another task writes; only its emptying takes a turn."""
    path = Path(sqlite_url.partition(":///")[2])
    log, hashed = path.with_name(path.name + "-wal"), "0123456789abcdef" * 4
    async with opened(sqlite_url) as database:
        await database.writer.leave_tombstones([hashed], GoneReason.EXPIRED)
        loop, copied = asyncio.get_running_loop(), asyncio.Event()

        def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            if "PASSIVE" in statement:
                loop.call_soon_threadsafe(copied.set)

        event.listen(database.connections.engine.sync_engine, "after_cursor_execute", note)
        async with database.connections.writers_turn():
            scrubbing = asyncio.create_task(database.upkeep.scrub())
            async with asyncio.timeout(30):
                await copied.wait()
            assert hashed.encode() in path.read_bytes()
            assert hashed.encode() in log.read_bytes()
            assert not scrubbing.done()
        assert await scrubbing
        assert hashed.encode() not in log.read_bytes()
