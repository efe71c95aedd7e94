"""Process pools for the tests of their parts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from server.config.settings import Config
from tests.worker.isolation.sessions import Start, Waiting
from worker.isolation.pool import ProcessPool


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start pools whose processor obeys its jobs; close all of them in the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(*, processor: str = "tests.worker.faulty:Faulty", **settings: Any) -> ProcessPool:
            options: dict[str, Any] = {
                name: settings.pop(name) for name in ("on_start_error", "timing") if name in settings
            }
            if processor.endswith((":Slow", ":Wrapped")):
                options["options"] = {"folder": str(tmp_path)}
            pool = ProcessPool(Config(data_dir=tmp_path, processor=processor, **settings), **options)
            stack.push_async_callback(pool.close)
            pool.start()
            await pool.built()
            return pool

        yield begin


@pytest.fixture
async def neighbours(tmp_path: Path) -> Callable[[ProcessPool], Any]:
    """Start two sessions; return a function that ends them, and checks them."""

    async def begin(pool: ProcessPool) -> Any:
        waiting = [Waiting(pool, tmp_path, name) for name in ("one", "other")]
        for each in waiting:
            await each.reached()

        async def end() -> None:
            assert [await each.end() for each in waiting] == ["waited", "waited"]

        return end

    return begin
