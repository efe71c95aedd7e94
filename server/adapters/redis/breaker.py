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

from redis.exceptions import TimeoutError as RedisTimeoutError

PAUSE_SECONDS: Final = 1.0
"""Time without calls to a server that was silent."""

LATE_SECONDS: Final = 0.1
"""Delay of a time-out beyond which our own loop was stalled, not the server silent."""


class Breaker:
    """State of one server, for one event loop.

    ``on_silence`` is called each time the server was silent for the whole bound.
    """

    def __init__(self, seconds: float, *, on_silence: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_silence = on_silence
        self._silent_until = float("-inf")

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
            raise TimeoutError("it was silent a moment ago")
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except (TimeoutError, RedisTimeoutError):
            if loop.time() - begun < self._seconds + LATE_SECONDS:
                self._silent_until = loop.time() + PAUSE_SECONDS
                self._on_silence()
            raise
        self._silent_until = float("-inf")
