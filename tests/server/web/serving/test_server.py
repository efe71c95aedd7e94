"""The HTTP server: its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import pytest

from server.config.settings import Config
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
