"""The memory that a session may use, and leave behind."""

from __future__ import annotations

from typing import Any

import pytest

from tests.worker.isolation.sessions import LINUX, MEGABYTE, Start, run


@LINUX
async def test_child_is_killed_for_memory(start: Start, neighbours: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A session that takes too much memory fails, its neighbours go on."""
    pool = await start(processor_memory_bytes=200 * MEGABYTE)
    end_neighbours = await neighbours(pool)
    assert await run(pool, "eat") == "processor_crashed"
    assert "TRYON_PROCESSOR_MEMORY_BYTES allows (209715200)" in caplog.text
    await end_neighbours()


@LINUX
async def test_kept_memory_is_not_charged_to_next(start: Start) -> None:
    """A child that has kept much memory is replaced before the next session."""
    pool = await start(processor_memory_bytes=200 * MEGABYTE)
    first = await run(pool, "keep", bytes=MEGABYTE)
    assert await run(pool, "keep", bytes=120 * MEGABYTE) == first
    second = await run(pool, "keep", bytes=120 * MEGABYTE)
    assert second.isdigit()
    assert second != first
