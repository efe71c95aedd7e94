"""Opens connections to Redis by URL; no other module does.

``redis://`` and ``rediss://`` name a host and port, ``unix://`` a socket, and
``redis+sentinel://`` Sentinels that know the master: each connection asks them anew.
``redis+cluster://`` names nodes of a cluster: :func:`open_redis` sends each command to
the node that has its key. :func:`open_stream` is for the subscriber.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url

from server.adapters.redis.cluster import ClusterRedis
from server.adapters.redis.pools import SharedPool, node_pool
from server.adapters.redis.sentinel import MasterFinder
from server.adapters.redis.tls import tls_context
from server.config.redis_url import Form, Node, parse_redis_url
from server.system.sockets import notice_death

CALL_SECONDS: Final = 1.0
"""Bound on connecting, and on each read and write, of connections that a process
shares.
"""

_Protocol = TypeVar("_Protocol", bound=asyncio.Protocol)


def connection_pool(redis_url: str, *, socket_seconds: float) -> SharedPool:
    """Return connections that survive a restart of Redis: a stale one is replaced once.

    ``socket_seconds`` bounds connecting and each read and write.
    """
    url = parse_redis_url(redis_url)
    return node_pool(
        url,
        url.first(),
        socket_seconds=socket_seconds,
        finder=MasterFinder(url) if url.form is Form.SENTINEL else None,
    )


def open_redis(redis_url: str) -> Redis:
    """Return a client over a pool of its own; nothing connects before the first call.

    Close it by disconnecting its ``connection_pool``.
    """
    url = parse_redis_url(redis_url)
    if url.form is Form.CLUSTER:
        return ClusterRedis(url, socket_seconds=CALL_SECONDS)
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
    settings: dict[str, Any] = dict(parse_url(parse_redis_url(redis_url).first()))
    return Login(settings.get("username"), settings.get("password"))


async def open_stream(redis_url: str, protocol: Callable[[], _Protocol], *, node: Node | None = None) -> _Protocol:
    """Connect a raw protocol to the server, of a cluster to this ``node``.

    Raises OSError, or RedisError if no Sentinel names a master.
    """
    url = parse_redis_url(redis_url)
    loop = asyncio.get_running_loop()
    if url.form is Form.SENTINEL:
        node = await MasterFinder(url).master()
    settings: dict[str, Any] = dict(parse_url(url.first()))
    if path := settings.get("path"):
        _, connected = await loop.create_unix_connection(protocol, path)
    else:
        host, port = node or url.nodes[0]
        transport, connected = await loop.create_connection(protocol, host, port, ssl=tls_context(url))
        notice_death(transport.get_extra_info("socket"))
    return connected
