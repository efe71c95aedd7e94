"""The one map from Redis's and the network's errors to the product's.

A call that fails with one of :data:`UNAVAILABLE` did not reach Redis, got no answer in
time or was refused. The bus and the limiter answer it themselves (events are read from
the database, requests are counted locally); the queue raises :class:`QueueUnavailable`.
"""

from __future__ import annotations

from typing import Final

from redis.exceptions import RedisError

UNAVAILABLE: Final = (RedisError, OSError, TimeoutError)
"""Every error that a call to Redis can raise."""


class QueueUnavailable(Exception):
    """Redis does not answer, or refuses; the message says why."""
