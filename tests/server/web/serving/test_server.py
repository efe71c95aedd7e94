"""The HTTP server: its socket, and its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import pytest

from server.config.settings import Config, ConfigError
from server.web.serving.server import listen
from testkit.running import running_web


def test_listen_refuses_taken_port() -> None:
    """The error names the setting and the address."""
    with listen(Config(port=0), reuse_port=False) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"TRYON_PORT: 127\.0\.0\.1:{port} cannot be listened on"):
            listen(Config(port=port), reuse_port=False)


def test_listen_shares_port_when_asked() -> None:
    """Several web processes may listen on one port."""
    with listen(Config(port=0), reuse_port=True) as first:
        listen(Config(port=first.getsockname()[1]), reuse_port=True).close()


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
