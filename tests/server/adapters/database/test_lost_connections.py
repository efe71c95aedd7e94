"""PostgreSQL connections whose other end vanishes without an RST.

A proxy loses every byte. Bounds are short only while the loss is to be noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from server.adapters.database.database import Database
from testkit.proxy import Proxy, running_proxy
from testkit.running import new_session
from tests.server.adapters.database.steps import brought_to, opened
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Status

POOLED = 8

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")


@contextlib.asynccontextmanager
async def behind_proxy(postgres_url: str) -> AsyncIterator[tuple[Database, Proxy]]:
    """Open a database behind a proxy."""
    url = make_url(postgres_url)
    assert url.port is not None
    async with (
        running_proxy(url.port) as proxy,
        opened(url.set(port=proxy.port).render_as_string(hide_password=False)) as database,
    ):
        yield database, proxy


@pytest.fixture
async def pooled(postgres_url: str) -> AsyncIterator[tuple[Database, Proxy]]:
    """Open a database behind a proxy, with idle connections in its pool."""
    async with behind_proxy(postgres_url) as (database, proxy):
        async with contextlib.AsyncExitStack() as used:
            for _ in range(POOLED):
                connection = await used.enter_async_context(database.connections.read())
                await connection.execute(text("SELECT 1"))
        yield database, proxy


@contextlib.contextmanager
def bounds(seconds: float, *, write: float | None = None) -> Iterator[None]:
    """Bound reads, and writes unless told otherwise, to this time in the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.adapters.database.engine.READ_SECONDS", seconds)
        patch.setattr("server.adapters.database.engine.WRITE_SECONDS", write or seconds)
        yield


async def test_first_lost_read_drops_the_whole_pool(pooled: tuple[Database, Proxy]) -> None:
    """After a fail-over one read fails, and no later one meets a lost connection."""
    database, proxy = pooled
    assert proxy.black_hole(new=False) == POOLED
    async with asyncio.timeout(20):
        with bounds(0.3), pytest.raises(Unavailable):
            await database.reader.check()
        await asyncio.gather(*(database.reader.check() for _ in range(POOLED)))


async def test_first_lost_write_drops_the_whole_pool(pooled: tuple[Database, Proxy]) -> None:
    """The same when a write is the first to notice."""
    database, proxy = pooled
    proxy.black_hole(new=False)
    async with asyncio.timeout(20):
        with bounds(0.3), pytest.raises(Unavailable):
            await database.writer.insert(new_session())
        await asyncio.gather(*(database.writer.insert(new_session()) for _ in range(POOLED)))


async def test_concurrent_lost_reads_fail_at_the_same_time(pooled: tuple[Database, Proxy]) -> None:
    """Reads that use the lost connections wait for their own bound only."""
    database, proxy = pooled
    proxy.black_hole(new=False)
    async with asyncio.timeout(20):
        with bounds(0.5):
            looks = (database.reader.check() for _ in range(POOLED))
            results = await asyncio.gather(*looks, return_exceptions=True)
        assert [type(each) for each in results] == [Unavailable] * POOLED
        await database.reader.check()


async def test_read_is_bounded_when_nothing_answers(pooled: tuple[Database, Proxy]) -> None:
    """New connections are lost, too; once the network is back, the next read works."""
    database, proxy = pooled
    proxy.black_hole()
    async with asyncio.timeout(20):
        with bounds(0.2):
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await database.reader.check()
        proxy.mend()
        await database.reader.check()


async def test_renewal_is_bounded_as_a_read(pooled: tuple[Database, Proxy]) -> None:
    """A worker that only renews leases notices the loss in time for another try."""
    database, proxy = pooled
    session = await brought_to(database, Status.PROCESSING)
    proxy.black_hole(new=False)
    async with asyncio.timeout(20):
        with bounds(0.3, write=60.0), pytest.raises(Unavailable):
            await database.writer.renew(session.id, attempt=1, lease_seconds=60)
        assert await database.writer.renew(session.id, attempt=1, lease_seconds=60) is False


async def test_cancelled_read_waits_for_no_goodbye(pooled: tuple[Database, Proxy]) -> None:
    """A client that leaves, or a process that stops, is not held up by the lost end."""
    database, proxy = pooled
    proxy.black_hole()
    reading = asyncio.create_task(database.reader.check())
    while database.connections.engine.pool.checkedin() == POOLED:  # type: ignore[attr-defined]  # a queue's
        await asyncio.sleep(0)
    reading.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_closing_is_bounded_when_nothing_answers(
    pooled: tuple[Database, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All lost connections are given up together, not one after the other."""
    database, proxy = pooled
    proxy.black_hole()
    monkeypatch.setattr("server.adapters.database.engine.CLOSE_SECONDS", 0.2)
    async with asyncio.timeout(5):
        await database.close()


async def test_connections_notice_the_death_of_their_peer(pooled: tuple[Database, Proxy]) -> None:
    """The kernel probes idle connections and bounds the wait for acknowledgements."""
    database, _ = pooled
    async with database.connections.read() as connection:
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        used = raw.driver_connection._transport.get_extra_info("socket")
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert 0 < used.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 5000
