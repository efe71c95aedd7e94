"""Send one message through Redis pub/sub, to check that it delivers."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Final

from redis.exceptions import TimeoutError as RedisTimeoutError

from server.adapters.redis.connect import open_redis

DELIVERY_SECONDS: Final = 2.0
"""Time for a published message to come back."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The result of sending one message.

    ``seconds``: from publishing to receiving; None: it did not come back in time.
    ``server``: name and version. ``eviction``: the server's ``maxmemory-policy``; empty
    if it does not tell.
    """

    seconds: float | None
    server: str
    eviction: str


async def try_delivery(redis_url: str, key_prefix: str) -> Delivery:
    """Publish a message to itself. Raises one of ``errors.UNAVAILABLE``."""
    redis = open_redis(redis_url)
    channel = f"{key_prefix}doctor:{secrets.token_hex(8)}"
    try:
        info = await redis.info()
        name = "Valkey" if "valkey_version" in info else "Redis"
        server = f"{name} {info.get('valkey_version') or info.get('redis_version', '')}".rstrip()
        async with redis.pubsub() as subscriber:
            await subscriber.subscribe(channel)
            begin = time.monotonic()
            await redis.publish(channel, b"probe")
            seconds: float | None = None
            try:
                async with asyncio.timeout(DELIVERY_SECONDS):
                    async for message in subscriber.listen():
                        if message["type"] == "message":
                            seconds = time.monotonic() - begin
                            break
            except (TimeoutError, RedisTimeoutError):
                pass
        return Delivery(seconds, server, str(info.get("maxmemory_policy", "")))
    finally:
        await redis.connection_pool.disconnect()
