"""What a web process reads Redis pub/sub with, whatever the form of the URL.

Guarantee: every message of a subscribed channel is handed over at most once, in the
order in which Redis sent it, by a plain function call. After channels had to wait for a
connection, ``on_restored`` says that messages may be missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from server.adapters.redis.cluster_subscriber import ClusterSubscriber
from server.adapters.redis.subscriber import RedisSubscriber
from server.config.redis_url import Form, parse_redis_url
from server.system.randomness import Randomness


class Subscriber(Protocol):
    """The reading side: channels of any kind, each by its name."""

    @property
    def up(self) -> bool:
        """Return whether every connection is usable."""

    @property
    def connections(self) -> int:
        """Return a number that changes with each new connection."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(self, *exc: object) -> None: ...

    def subscribe(self, channel: bytes) -> asyncio.Future[None]:
        """Subscribe to a channel and return a future for the confirmation."""

    def unsubscribe(self, channel: bytes) -> None:
        """Give a channel up."""

    def reconnect(self) -> None:
        """Drop connections that are up but deliver nothing."""


def make_subscriber(
    redis_url: str,
    *,
    on_message: Callable[[bytes, bytes], None],
    on_restored: Callable[[], None],
    randomness: Randomness,
) -> Subscriber:
    """Return the subscriber for this form of URL; it connects when it is entered."""
    kind = ClusterSubscriber if parse_redis_url(redis_url).form is Form.CLUSTER else RedisSubscriber
    return kind(redis_url, on_message=on_message, on_restored=on_restored, randomness=randomness)
