"""Opens connections to Redis by URL; no other module does.

``redis://`` and ``rediss://`` name a host and port, ``unix://`` a socket. What finds
the server another way (Sentinel asks for the primary, a cluster has several) belongs
here, behind :func:`connection_pool` for calls and :func:`open_stream` for the
subscriber.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from server.system.sockets import notice_death

CALL_SECONDS: Final = 1.0
"""Bound on connecting, and on each read and write, of connections that a process
shares.
"""

_Protocol = TypeVar("_Protocol", bound=asyncio.Protocol)


class _Generation:
    """The number of times that the connections of a pool were given up."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0

    def __repr__(self) -> str:
        return f"<_Generation {self.number}>"


class _Connection(AbstractConnection):
    """A connection whose sending can be cancelled, and that is given up with its pool.

    redis-py 5 bounds sending with ``asyncio.wait_for``, which before Python 3.12
    swallows a cancel that arrives in the moment its inner task has ended (bpo-42130): a
    worker told to stop then ran on for ever. It also makes a task per command.
    """

    shared: _Generation
    """That of the pool."""

    async def connect(self) -> None:
        if self.is_connected and self._generation != self.shared.number:
            await self.disconnect(nowait=True)
        await super().connect()  # type: ignore[no-untyped-call]  # redis-py 5

    async def _connect(self) -> None:
        self._generation = self.shared.number
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
    primary may live on as a replica, and the URL leads to the new one.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._shared = _Generation()
        # TCP, TLS or Unix, as the URL says.
        self.connection_class = type("Connection", (_Connection, self.connection_class), {"shared": self._shared})

    def give_up(self) -> None:
        """Replace every connection before its next use; those in use are left alone."""
        self._shared.number += 1


def connection_pool(redis_url: str, *, socket_seconds: float) -> SharedPool:
    """Return connections that survive a restart of Redis: a stale one is replaced once.

    ``socket_seconds`` bounds connecting and each read and write.
    """
    return SharedPool.from_url(
        redis_url,
        socket_connect_timeout=socket_seconds,
        socket_timeout=socket_seconds,
        retry=Retry(NoBackoff(), 1),
        retry_on_error=[OSError, RedisConnectionError, RedisTimeoutError],
    )


def shared_pool(redis: Redis) -> SharedPool:
    """Return the pool of a client that :func:`open_redis` made."""
    pool = redis.connection_pool
    assert isinstance(pool, SharedPool), "its connections would be given up one by one"
    return pool


def open_redis(redis_url: str) -> Redis:
    """Return a client over a pool of its own; nothing connects before the first call.

    Close it by disconnecting its ``connection_pool``.
    """
    return Redis(connection_pool=connection_pool(redis_url, socket_seconds=CALL_SECONDS))


@dataclass(frozen=True, slots=True)
class Login:
    """Credentials of a connection; both None: it does not authenticate."""

    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return "<Login>"


def login_of(redis_url: str) -> Login:
    """Return the credentials in the URL."""
    settings: dict[str, Any] = dict(parse_url(redis_url))
    return Login(settings.get("username"), settings.get("password"))


async def open_stream(redis_url: str, protocol: Callable[[], _Protocol]) -> _Protocol:
    """Connect a raw protocol to the server. Raises OSError."""
    settings: dict[str, Any] = dict(parse_url(redis_url))
    loop = asyncio.get_running_loop()
    if path := settings.get("path"):
        _, connected = await loop.create_unix_connection(protocol, path)
    else:
        host, port = settings.get("host", "localhost"), int(settings.get("port", 6379))
        transport, connected = await loop.create_connection(protocol, host, port, ssl=_tls(settings))
        notice_death(transport.get_extra_info("socket"))
    return connected


def _tls(settings: dict[str, Any]) -> ssl.SSLContext | None:
    """Return the TLS context that redis-py itself would use for this URL.

    It follows ``ssl_ca_certs``, ``ssl_cert_reqs``, ``ssl_check_hostname`` and the other
    options of the URL; None without TLS.
    """
    if not issubclass(settings.get("connection_class", object), SSLConnection):
        return None
    ours = {name: value for name, value in settings.items() if name.startswith("ssl_")}
    context: ssl.SSLContext = SSLConnection(**ours).ssl_context.get()
    return context
