"""Subjects whose uploads of the day are used up, so that they are refused early.

The database counts. After it has refused a subject, Redis remembers the day and the
limit that it judged by, for all processes: a plan that grants more is judged anew.
Without Redis the database is asked. A remembered refusal ends with its day, in UTC.
"""

from __future__ import annotations

import contextlib
import math
from typing import Final

from redis.asyncio import Redis

from server.adapters.redis.breaker import Breaker
from server.adapters.redis.errors import UNAVAILABLE
from server.adapters.redis.pools import shared_pool
from server.domain.quotas import Quota, day_of, seconds_to_midnight

CALL_SECONDS: Final = 0.3
"""Time that Redis gets to answer; then the database is asked."""


class ExhaustedSubjects:
    """Refusals that Redis remembers; it never raises because of Redis."""

    def __init__(self, redis: Redis, *, key_prefix: str) -> None:
        self._redis = redis
        self._prefix = f"{key_prefix}quota:"
        self._breaker = Breaker(CALL_SECONDS, on_silence=shared_pool(redis).give_up, part="quotas")

    def __repr__(self) -> str:
        return f"<ExhaustedSubjects {self._prefix}>"

    def _key(self, quota: Quota, day: int) -> str:
        return f"{self._prefix}{day}:{quota.subject}"

    async def has(self, quota: Quota, *, now: float) -> bool | None:
        """Return whether a subject was refused by its present limit; None: unknown."""
        limit = quota.plan.uploads_per_day
        if limit is None:
            return False
        try:
            async with self._breaker.call():
                noted = await self._redis.get(self._key(quota, day_of(now)))
        except UNAVAILABLE:
            return None
        return noted is not None and int(noted) >= limit

    async def note(self, quota: Quota, *, day: int, now: float) -> None:
        """Remember that a subject has used up its uploads of a day.

        ``day``: as :func:`day_of` counts; one that is over at ``now`` is left out.
        """
        if day != day_of(now):
            return
        limit = quota.plan.uploads_per_day or 0
        with contextlib.suppress(*UNAVAILABLE):
            async with self._breaker.call():
                await self._redis.set(self._key(quota, day), limit, ex=math.ceil(seconds_to_midnight(now)) + 1)
