"""A bound on every call to a server that may hang, and no further calls for a moment
once it did.

A server that refuses costs nobody anything; one that stays silent (frozen, cut off
without a word) would cost each caller the whole bound, one after the other. So the
first pays, and who asks in the second after that is told at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.exceptions import TimeoutError as RedisTimeoutError

PAUSE_SECONDS: Final = 1.0
"""How long a silent server is left alone."""

LATE_SECONDS: Final = 0.1
"""A time-out that comes later than this says that our own loop was held up, not that
the server is silent.
"""


class Breaker:
    """For one server and one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._silent_until = float("-inf")

    def __repr__(self) -> str:
        return f"<Breaker {self._seconds:g} s>"

    @asynccontextmanager
    async def call(self, *, anyway: bool = False) -> AsyncIterator[None]:
        """Raises TimeoutError at the latest after the bound; at once while the server
        is known to be silent, unless it shall be asked ``anyway``.
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
            raise
        self._silent_until = float("-inf")
