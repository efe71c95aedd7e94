"""A bound on every call to a server that may hang, and a pause after it did.

A server that refuses costs nothing; one that stays silent (frozen, or cut off without a
reset) would cost each caller the whole bound, one after the other. So the first caller
pays, and calls in the next second fail at once. Its open connections may stay silent
for good, so they are replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from server.telemetry import metrics

PAUSE_SECONDS: Final = 1.0
"""Time without calls to a server that was silent."""

LATE_SECONDS: Final = 0.1
"""Delay of a time-out beyond which our own loop was stalled, not the server silent."""


class Breaker:
    """State of one server, for one event loop.

    ``on_silence`` is called each time the server was silent for the whole bound.
    ``part``: what calls, in the metrics.
    """

    def __init__(self, seconds: float, *, on_silence: Callable[[], None], part: str) -> None:
        self._seconds = seconds
        self._on_silence = on_silence
        self._silent_until = float("-inf")
        self._took = metrics.redis_seconds.labels(part).observe
        self._failed = metrics.redis_errors.labels(part).inc

    def __repr__(self) -> str:
        return f"<Breaker {self._seconds:g} s>"

    @asynccontextmanager
    async def call(self, *, anyway: bool = False) -> AsyncIterator[None]:
        """Bound the calls made inside.

        Raises TimeoutError at the latest after the bound; at once while the server is
        known to be silent, unless ``anyway`` is set.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if begun < self._silent_until and not anyway:
            self._failed()
            raise TimeoutError("it was silent a moment ago")
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except (TimeoutError, RedisTimeoutError):
            self._failed()
            if loop.time() - begun < self._seconds + LATE_SECONDS:
                self._silent_until = loop.time() + PAUSE_SECONDS
                self._on_silence()
            raise
        except (RedisError, OSError):
            self._failed()
            raise
        finally:
            self._took(loop.time() - begun)
        self._silent_until = float("-inf")
