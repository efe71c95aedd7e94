"""A running web process for the tests of HTTP and sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from server.config.settings import Config
from server.web.serving.handshake import Handshake
from testkit.running import Web, running_web

StartWeb = Callable[..., Awaitable[Web]]


@pytest.fixture
def ws() -> type[asyncio.Protocol]:
    """What speaks WebSocket: ours, which detaches sockets.

    A module that wants to see the other path too overrides this.
    """
    return Handshake


@pytest.fixture
async def start_web(config: Callable[..., Config], ws: type[asyncio.Protocol]) -> AsyncIterator[StartWeb]:
    """Start a web process in this one, with these settings; as many as the test likes,
    on the same data.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings: Any) -> Web:
            return await stack.enter_async_context(running_web(config(**settings), ws=ws))

        yield start


@pytest.fixture
async def web(start_web: StartWeb) -> Web:
    """A web process with the tests' usual settings."""
    return await start_web()
