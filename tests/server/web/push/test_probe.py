"""The delivery probe finds connections that are up and deliver nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from server.config.settings import Config
from server.services import open_services
from server.web.push import probe as probe_module
from server.web.push.hub import Hub
from testkit.fixtures import StartValkey
from testkit.running import until
from tests.server.web.push.kit import (
    MakeConfig,
    Page,
    followed,
    step,
)
from tryon.protocol.states import Event


class DeafProxy:
    """A proxy before Redis that swallows the answers on open connections on demand."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._deaf: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._redis: set[asyncio.StreamWriter] = set()
        self._orphaned: set[asyncio.StreamWriter] = set()
        self.swallowed = 0
        self.port = 0

    async def __aenter__(self) -> DeafProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for writer in list(self._open):
            writer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_unix_connection(self._socket_path)
        self._open |= {writer, redis_writer}
        self._redis.add(redis_writer)
        pumps = [
            asyncio.create_task(self._pump(reader, redis_writer)),
            asyncio.create_task(self._pump(redis_reader, writer)),
        ]
        self._tasks |= set(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        if redis_writer in self._orphaned:
            await writer.wait_closed()
        for each in (writer, redis_writer):
            each.close()
        for pump in pumps:
            pump.cancel()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if writer in self._deaf:
                    self.swallowed += len(data)
                else:
                    if b"tryon-subscriber" in data:
                        self._subscriber = writer
                    writer.write(data)
                    await writer.drain()

    def cut_from_redis(self) -> None:
        """Close the connections to Redis and keep the clients' open."""
        for writer in self._redis:
            self._orphaned.add(writer)
            writer.close()

    def deafen(self) -> None:
        """Swallow everything that Redis sends on the connections open now."""
        self._deaf = set(self._open)


@contextlib.asynccontextmanager
async def behind_a_proxy(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[DeafProxy, Hub, list[Page], Config]]:
    """Yield a proxy, a hub with followers behind it, and settings that go around it."""
    monkeypatch.setattr(probe_module, "PROBE_SECONDS", 0.1)
    valkey = start_valkey()
    async with DeafProxy(str(valkey.socket_path)) as proxy:
        settings = config(redis_url=f"redis://127.0.0.1:{proxy.port}/0", sweep_seconds=60.0)
        async with followed(settings) as (_, hub, pages):
            yield proxy, hub, pages, config(redis_url=valkey.url)


async def test_deaf_connection_is_replaced(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error and no close, but nothing comes any more: the probes do not return."""
    async with (
        behind_a_proxy(config, start_valkey, monkeypatch) as (proxy, hub, pages, publisher),
        open_services(publisher) as others,
    ):
        connections = hub._subscriber.connections
        proxy.deafen()
        assert all([await step(others, page, Event.PROCESSING) for page in pages])
        await until(lambda: all(page.seqs == [1, 2] for page in pages), seconds=20)
        await until(lambda: hub._subscriber.connections > connections and hub.delivers)
        assert all([await step(others, page, Event.COMPLETED) for page in pages])
        await until(lambda: all(page.seqs == [1, 2, 3] for page in pages))


async def test_forgotten_connection_is_replaced(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover behind one address, or when a firewall drops a connection."""
    async with behind_a_proxy(config, start_valkey, monkeypatch) as (proxy, hub, pages, publisher):
        connections = hub._subscriber.connections
        proxy.cut_from_redis()
        await until(lambda: hub._subscriber.connections > connections and hub.delivers, seconds=20)
        async with open_services(publisher) as others:
            assert all([await step(others, page, Event.PROCESSING) for page in pages])
        await until(lambda: all(page.seqs == [1, 2] for page in pages))


async def test_events_arrive_while_redis_is_frozen(
    config: MakeConfig, start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followers get events from the database while Redis answers nothing."""
    monkeypatch.setattr(probe_module, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr("server.adapters.redis.connect.CALL_SECONDS", 0.2)
    valkey = start_valkey()
    async with followed(config(redis_url=valkey.url, sweep_seconds=60.0)) as (services, hub, pages):
        valkey.pause()
        try:
            assert not any(await asyncio.gather(*(step(services, page, Event.PROCESSING) for page in pages)))
            await until(lambda: all(page.seqs == [1, 2] for page in pages), seconds=20)
        finally:
            valkey.resume()
        await until(lambda: hub.delivers)
