"""Connections to one Redis server, which survive its restart and die together."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from server.adapters.redis.sentinel import MasterFinder
from server.adapters.redis.tls import tls_defaults
from server.config.redis_url import RedisUrl
from server.system.sockets import notice_death


class _Shared:
    """The knowledge that the connections of a pool share.

    ``number``: how many times they were given up. ``finder``: knows the address of the
    master; None: it is in the URL.
    """

    __slots__ = ("finder", "number")

    def __init__(self, finder: MasterFinder | None) -> None:
        self.number = 0
        self.finder = finder

    def __repr__(self) -> str:
        return f"<_Shared {self.number} {self.finder!r}>"


class _Connection(AbstractConnection):
    """A connection whose sending can be cancelled, and that is given up with its pool.

    redis-py 5 bounds sending with ``asyncio.wait_for``, which before Python 3.12
    swallows a cancel that arrives in the moment its inner task has ended (bpo-42130): a
    worker told to stop then ran on for ever. It also makes a task per command.
    """

    shared: _Shared
    """That of the pool."""

    async def connect(self) -> None:
        if self.is_connected and self._generation != self.shared.number:
            await self.disconnect(nowait=True)
        known = self.is_connected
        await super().connect()  # type: ignore[no-untyped-call]  # redis-py 5
        if self.shared.finder is not None and not known:
            await self._expect_master()

    async def _expect_master(self) -> None:
        """Raise ConnectionError if the server is a replica: the Sentinels were late."""
        await self.send_command("ROLE")
        role = await self.read_response()
        if role[0] != b"master":
            await self.disconnect(nowait=True)
            raise RedisConnectionError("the server that the Sentinels name is not the master")

    async def _connect(self) -> None:
        self._generation = self.shared.number
        if self.shared.finder is not None:
            self.host, self.port = await self.shared.finder.master()
        await super()._connect()  # type: ignore[no-untyped-call, safe-super]  # mixed into a class that has it
        if self._writer is not None:
            notice_death(self._writer.get_extra_info("socket"))

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except (RedisTimeoutError, ReadOnlyError):  # it is silent, or the primary no longer
            self._give_up()
            raise

    def _give_up(self) -> None:
        """Give up every connection of the pool that is as old as this one."""
        if self._generation == self.shared.number:
            self.shared.number += 1

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        seconds, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(seconds):
                await super().send_packed_command(command, check_health)
        except TimeoutError as error:
            self._give_up()
            raise RedisTimeoutError("Timeout writing to socket") from error
        finally:
            self.socket_timeout = seconds


class SharedPool(ConnectionPool):
    """Connections to one server, which die together.

    A server that vanishes without a word leaves every open connection silent. The first
    command to time out gives all of them up, so that the next one connects anew; else
    each would cost its own time-out. So does a refused write: after a fail-over the old
    primary may live on as a replica, and the URL, or a Sentinel, leads to the new one.
    """

    def __init__(self, *args: Any, finder: MasterFinder | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._shared = _Shared(finder)
        # TCP, TLS or Unix, as the URL says.
        self.connection_class = type("Connection", (_Connection, self.connection_class), {"shared": self._shared})

    def give_up(self) -> None:
        """Replace every connection before its next use; those in use are left alone."""
        self._shared.number += 1


def node_pool(url: RedisUrl, address: str, *, socket_seconds: float, finder: MasterFinder | None = None) -> SharedPool:
    """Return connections to one server of the installation that ``url`` names."""
    return SharedPool.from_url(
        address,
        finder=finder,
        socket_connect_timeout=socket_seconds,
        socket_timeout=socket_seconds,
        retry=Retry(NoBackoff(), 1),
        retry_on_error=[OSError, RedisConnectionError, RedisTimeoutError],
        **tls_defaults(url),
    )


def shared_pool(redis: Redis) -> SharedPool:
    """Return the pool of a client that :func:`open_redis` made."""
    pool = redis.connection_pool
    assert isinstance(pool, SharedPool), "its connections would be given up one by one"
    return pool
