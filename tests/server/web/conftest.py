"""A running web process for the tests of HTTP and sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from server.config.settings import Config
from server.web.api import shared_check
from server.web.push.queue_news import QueueNews
from server.web.serving.handshake import Handshake
from testkit.running import StartWeb, Web, running_web


@pytest.fixture
def places() -> None:
    """Announce places in the queue, as the product does."""


@pytest.fixture(autouse=True)
def without_places(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Announce no place in the queue, unless a test asks for ``places``.

    Half a second after a client has joined, such a frame may come between any two
    others: on a busy machine also between those that a test expects one after another.
    """
    if "places" not in request.fixturenames:
        monkeypatch.setattr(QueueNews, "next_places", _never)


@pytest.fixture
def shared_health() -> None:
    """Share the checks of health for a second, as the product does."""


@pytest.fixture(autouse=True)
def fresh_health(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check health for each request, unless a test asks for ``shared_health``.

    Most tests break a part and look at once.
    """
    if "shared_health" not in request.fixturenames:
        monkeypatch.setattr(shared_check, "SHARED_SECONDS", 0.0)


async def _never(news: QueueNews) -> None:
    await asyncio.Event().wait()


@pytest.fixture
def ws() -> type[asyncio.Protocol]:
    """Return the class that speaks WebSocket: the product's, which detaches sockets.

    A test module that covers plain ASGI, too, overrides this fixture.
    """
    return Handshake


@pytest.fixture
async def start_web(config: Callable[..., Config], ws: type[asyncio.Protocol]) -> AsyncIterator[StartWeb]:
    """Return a function that starts a web process, in this one, on shared data."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings: Any) -> Web:
            # A test that plays the worker renews no lease, and may be held up for long.
            made = config(**({"lease_seconds": 60.0} | settings))
            return await stack.enter_async_context(running_web(made, ws=ws))

        yield start


@pytest.fixture
async def web(start_web: StartWeb) -> Web:
    """Return a web process with the usual settings of tests."""
    return await start_web()
