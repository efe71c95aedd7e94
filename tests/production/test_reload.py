"""A proxy lives through a reload, whatever web processes and clients do meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from testkit.balancers import KINDS, Balancer
from tests.docs.test_proxies import get

PATIENCE_SECONDS: Final = 0.2
"""How long a client waits: less than a proxy for its web process."""


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """Listen with a full queue of connections: another one waits in vain."""
    with socket.socket() as listener, contextlib.ExitStack() as queue:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def leave(port: int) -> None:
    """Ask for something, and be gone before the answer."""
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            writer.write(b"GET /api/tryon/limits HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            await asyncio.sleep(PATIENCE_SECONDS)


async def leave_forever(port: int) -> None:
    """Send clients that leave, one after another without a pause."""
    async with asyncio.TaskGroup() as clients:
        while True:
            clients.create_task(leave(port))
            await asyncio.sleep(PATIENCE_SECONDS / 4)


@pytest.mark.parametrize("kind", KINDS)
async def test_reload_is_survived_while_processes_are_silent_and_clients_leave(kind: str, tmp_path: Path) -> None:
    """Caddy 2.6 died of it where the file had ``flush_interval -1``."""
    with silent_port() as first, silent_port() as second:
        proxy = Balancer(kind, (first, second), tmp_path / "proxy")
        await proxy.start()
        leaving = asyncio.create_task(leave_forever(proxy.port))
        try:
            for _ in range(3):
                await proxy.reload()
            await asyncio.sleep(PATIENCE_SECONDS)
            assert proxy.running, proxy.log.read_text()
            assert (await get(proxy.port, "/metrics"))[0] == 404
        finally:
            leaving.cancel()
            await asyncio.wait({leaving})
            await proxy.close()
