"""The HTTP server: its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable
from unittest import mock

import pytest
from starlette.applications import Starlette

from server.config.settings import Config
from server.web.serving.server import make_server
from testkit.running import running_web


async def test_stopping_server_notifies_clients(
    config: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    """A connected client gets `bye` before its socket closes, not a bare 1012."""
    async with contextlib.AsyncExitStack() as stopping:
        web = await stopping.enter_async_context(running_web(config()))
        session, token = await web.submit()
        async with web.follow(session.id, token) as client:
            await client.next()
            with caplog.at_level(logging.INFO, logger="tryon.web"):
                code, _ = await asyncio.gather(client.rest(), stopping.aclose())
    assert (code, client.frames[-1]["type"], client.frames[-1]["reason"]) == (4000, "bye", "draining")
    assert "Draining: notified 1 clients" in caplog.messages


async def test_signal_before_the_start_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was told to stop before its loop ran waits for no part to open."""
    released = asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await released.wait()
        yield

    timer = mock.Mock()
    monkeypatch.setattr(threading, "Timer", timer)
    server = make_server(Starlette(lifespan=lifespan), Config())
    server.handle_exit(signal.SIGTERM, None)
    serving = asyncio.create_task(server._serve([]))
    try:
        assert await asyncio.wait({serving}, timeout=10) == ({serving}, set())
        assert not server.started
        timer.return_value.start.assert_called_once_with()
    finally:
        released.set()
        await asyncio.wait({serving})
        await server.lifespan.shutdown()
