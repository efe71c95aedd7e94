"""Asks Sentinels for the address of the master.

All of them at once: the address that most of them give counts, so neither one that is
gone with its machine nor one that has not heard of a fail-over decides. A server at
that address must call itself the master (:mod:`server.adapters.redis.connect` asks it).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError

from server.adapters.redis.errors import UNAVAILABLE
from server.adapters.redis.shared_search import SharedSearch, most_say
from server.adapters.redis.tls import tls_defaults
from server.config.redis_url import Node, RedisUrl

ASK_SECONDS: Final = 1.0
"""Bound on the answer of a Sentinel, connecting included."""


class UnknownMaster(RedisConnectionError):
    """No Sentinel knows an address of the master."""


class MasterFinder:
    """Find the master. Callers that ask at the same time share one search."""

    def __init__(self, url: RedisUrl) -> None:
        self._url = url
        self._search = SharedSearch(self._find)

    def __repr__(self) -> str:
        return f"<MasterFinder {self._url!r}>"

    async def master(self) -> Node:
        """Return the master's host and port. Raises :class:`UnknownMaster`."""
        return await self._search.result()

    async def _find(self) -> Node:
        try:
            return await most_say([self._ask(node) for node in self._url.nodes])
        except UNAVAILABLE as error:
            reason = " ".join(str(error).split()) or "no answer in time"
            raise UnknownMaster(f"no Sentinel names the master {self._url.master!r}: {reason}") from error

    async def _ask(self, sentinel: Node) -> Node:
        address = self._url.sentinel_at(sentinel)
        pool: Any = ConnectionPool.from_url(address, protocol=2, **tls_defaults(self._url))
        connection = pool.make_connection()
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await connection.connect()
                await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._url.master)
                found = await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)
        if not found:
            raise UnknownMaster("it knows no master of that name")
        return str(found[0], "utf-8"), int(found[1])
