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
from redis.exceptions import TimeoutError as RedisTimeoutError

CALL_SECONDS: Final = 1.0
"""Bound on connecting, and on each read and write, of connections that a process
shares.
"""

_Protocol = TypeVar("_Protocol", bound=asyncio.Protocol)


class _Cancellable(AbstractConnection):
    """A connection whose sending can be cancelled.

    redis-py 5 bounds it with ``asyncio.wait_for``, which before Python 3.12 swallows a
    cancel that arrives in the moment its inner task has ended (bpo-42130): a worker
    told to stop then ran on for ever. It also makes a task per command.
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        seconds, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(seconds):
                await super().send_packed_command(command, check_health)
        except TimeoutError as error:
            raise RedisTimeoutError("Timeout writing to socket") from error
        finally:
            self.socket_timeout = seconds


def connection_pool(redis_url: str, *, socket_seconds: float) -> ConnectionPool:
    """Return connections that survive a restart of Redis: a stale one is replaced once.

    ``socket_seconds`` bounds connecting and each read and write.
    """
    pool = ConnectionPool.from_url(
        redis_url,
        socket_connect_timeout=socket_seconds,
        socket_timeout=socket_seconds,
        retry=Retry(NoBackoff(), 1),
        retry_on_error=[OSError, RedisConnectionError, RedisTimeoutError],
    )
    pool.connection_class = type(
        "Connection", (_Cancellable, pool.connection_class), {}
    )  # TCP, TLS or Unix, as the URL says
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
        _, connected = await loop.create_connection(protocol, host, port, ssl=_tls(settings))
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
