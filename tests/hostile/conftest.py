"""A running web process that hostile clients talk to."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from server.config.settings import Config
from testkit.running import StartWeb, Web, running_web


@pytest.fixture
async def start_web(config: Callable[..., Config]) -> AsyncIterator[StartWeb]:
    """Return a function that starts a web process, in this one, on shared data."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings: object) -> Web:
            return await stack.enter_async_context(running_web(config(**settings)))

        yield start


@pytest.fixture
async def web(start_web: StartWeb) -> Web:
    """Return a web process with the usual settings of tests."""
    return await start_web()
