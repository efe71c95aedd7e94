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
async def start(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Start]:
    """Start pools whose processor obeys its jobs; close all of them in the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(
            *, processor: str = "tests.worker.faulty:Faulty", built: bool = True, **settings: Any
        ) -> ProcessPool:
            options: dict[str, Any] = {
                name: settings.pop(name) for name in ("on_start_error", "timing") if name in settings
            }
            if "options" in settings:
                options["options"] = settings.pop("options")
            elif processor.endswith((":Slow", ":Wrapped", ":Making")):
                options["options"] = {"folder": str(tmp_path)}
            settings.setdefault("data_dir", tmp_path_factory.mktemp("data"))  # its parents close, too
            pool = ProcessPool(Config(processor=processor, **settings), **options)
            stack.push_async_callback(pool.close)
            pool.start()
            if built:
                await pool.built()
            return pool

        yield begin


@pytest.fixture
async def neighbours() -> Callable[[ProcessPool], Any]:
    """Start two sessions; return a function that ends them, and checks them."""

    async def begin(pool: ProcessPool) -> Any:
        waiting = [Waiting(pool) for _ in range(2)]
        for each in waiting:
            await each.reached()

        async def end() -> None:
            assert [await each.end() for each in waiting] == ["waited", "waited"]

        return end

    return begin
