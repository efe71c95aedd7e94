"""A publisher, and a subscriber that keeps each message."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from redis.asyncio import Redis

from server.adapters.redis.bus import RedisBus
from server.adapters.redis.connect import connection_pool, open_redis
from server.adapters.redis.subscriber import RedisSubscriber
from server.adapters.redis.subscribing import make_subscriber
from server.config.redis_url import Form, parse_redis_url
from server.system.randomness import SystemRandomness
from testkit.running import until

AT = "2026-11-22T09:00:00.000Z"


AT = "2026-11-22T09:00:00.000Z"


def open_subscriber(
    url: str,
    *,
    on_message: Callable[[bytes, bytes], None] = lambda channel, payload: None,
    on_restored: Callable[[], None] = lambda: None,
) -> RedisSubscriber:
    """Return a subscriber that is not connected yet."""
    return RedisSubscriber(url, on_message=on_message, on_restored=on_restored, randomness=SystemRandomness())


class Listener:
    """A subscriber, and the messages that it received."""

    def __init__(self, url: str) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.restored = 0
        self.subscriber: Any = make_subscriber(
            url, on_message=self._note, on_restored=self._note_restored, randomness=SystemRandomness()
        )

    def _note(self, channel: bytes, payload: bytes) -> None:
        self.messages.append((channel.decode(), payload))

    def _note_restored(self) -> None:
        self.restored += 1

    async def __aenter__(self) -> Listener:
        await self.subscriber.__aenter__()
        await until(lambda: self.subscriber.up)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.subscriber.__aexit__(*exc)


@contextlib.asynccontextmanager
async def publisher(url: str, *, socket_seconds: float = 0.3) -> AsyncIterator[RedisBus]:
    redis: Redis
    if parse_redis_url(url).form is Form.CLUSTER:
        redis = open_redis(url)
    else:
        redis = Redis(connection_pool=connection_pool(url, socket_seconds=socket_seconds))
    try:
        yield RedisBus(redis, key_prefix="tryon:")
    finally:
        await redis.connection_pool.disconnect()
