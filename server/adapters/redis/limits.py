"""At most N requests in any window, per address, exact over all processes.

A sliding log: one sorted set per address holds the times of the last N, counted and
added by one script (atomic). A refused request adds nothing. While Redis is unavailable
each process counts for itself: fail open, but bounded, and counted in
``tryon_limiter_local``.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from server.adapters.redis.breaker import Breaker
from server.adapters.redis.errors import UNAVAILABLE
from server.adapters.redis.pools import shared_pool
from server.config.parsing import UploadRate
from server.system.clock import Clock
from server.telemetry import metrics

LIMIT_SECONDS: Final = 0.3
"""Time that Redis gets to count; then this process does, and asks again a second later.
"""

LOCAL_ADDRESSES: Final = 10_000
"""Maximum addresses counted locally; the one not seen for longest is evicted."""

# Times in microseconds of Redis's own clock: the processes' clocks may differ. The
# member must be unique.
_SCRIPT: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local window = tonumber(ARGV[1]) * 1000000
local limit = tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
local count = redis.call('ZCARD', KEYS[1])
local allowed = 0
if count < limit then
  allowed = 1
  if ARGV[3] == '1' then
    redis.call('ZADD', KEYS[1], now, t[1] .. '.' .. t[2] .. '.' .. count)
    redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
    count = count + 1
  end
end
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {allowed, limit - count, (oldest[2] or now) + window - now}
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Decision about one request, and the values of its RateLimit header."""

    allowed: bool
    rate: UploadRate
    remaining: int
    reset_seconds: int
    """Until the oldest counted request leaves the window: for a refused one the time to
    wait.
    """


class RedisLimiter:
    """Limit on requests of a kind per address; ``rate`` None switches it off.

    ``counts``: the kind of request, which names the keys.
    """

    def __init__(
        self, redis: Redis, rate: UploadRate | None, *, key_prefix: str, clock: Clock, counts: str = "uploads"
    ) -> None:
        self._clock = clock
        self._rate = rate
        self._prefix = f"{key_prefix}{counts}:"
        self._script = redis.register_script(_SCRIPT)
        self._breaker = Breaker(LIMIT_SECONDS, on_silence=shared_pool(redis).give_up, part="limits")
        self._local: OrderedDict[str, deque[float]] = OrderedDict()
        """Times counted without Redis, by address; the address seen last is last."""

    def __repr__(self) -> str:
        return f"<RedisLimiter {self._rate} local={len(self._local)}>"

    async def take(self, address: str, *, count: bool = True) -> Verdict | None:
        """Count one request of this address; return None if there is no limit.

        ``count``: False only looks whether one more is allowed.
        """
        if self._rate is None:
            return None
        # The address is personal data: Redis holds only a hash of it, and that no
        # longer than the window.
        key = self._prefix + hashlib.sha256(address.encode()).hexdigest()[:32]
        try:
            async with self._breaker.call():
                allowed, remaining, reset = await self._script(
                    keys=[key], args=[self._rate.seconds, self._rate.limit, int(count)]
                )
        except UNAVAILABLE:
            metrics.limiter_local.inc()
            return self._take_locally(key, self._rate, count)
        return Verdict(bool(allowed), self._rate, int(remaining), max(1, math.ceil(int(float(reset)) / 1e6)))

    def _take_locally(self, key: str, rate: UploadRate, count: bool) -> Verdict:
        now = self._clock.monotonic()
        taken = self._local.pop(key, None) or deque()
        while self._local and (
            len(self._local) >= LOCAL_ADDRESSES or next(iter(self._local.values()))[-1] <= now - rate.seconds
        ):
            self._local.popitem(last=False)
        self._local[key] = taken
        while taken and taken[0] <= now - rate.seconds:
            taken.popleft()
        allowed = len(taken) < rate.limit
        if allowed and count:
            taken.append(now)
        if not taken:
            del self._local[key]
            return Verdict(allowed, rate, rate.limit, rate.seconds)
        reset = math.ceil(taken[0] + rate.seconds - now)
        return Verdict(allowed, rate, rate.limit - len(taken), max(1, reset))
