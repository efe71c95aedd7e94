"""The rate limit: exact in any window over all processes, bounded without Redis."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from server.adapters.redis.connect import CALL_SECONDS, connection_pool, open_redis
from server.adapters.redis.limits import RedisLimiter
from server.config.parsing import UploadRate
from server.system.clock import Clock, SystemClock
from testkit.clocks import ManualClock
from testkit.fixtures import StartValkey


@contextlib.asynccontextmanager
async def limiter(url: str, rate: UploadRate | None, clock: Clock | None = None) -> AsyncIterator[RedisLimiter]:
    redis = open_redis(url)
    try:
        yield RedisLimiter(redis, rate, key_prefix="tryon:", clock=clock or SystemClock())
    finally:
        await redis.connection_pool.disconnect()


async def taken(limiter: RedisLimiter, address: str = "192.0.2.1") -> bool:
    verdict = await limiter.take(address)
    assert verdict is not None
    return verdict.allowed


@pytest.mark.usefixtures("patient_limits")
async def test_limit_allows_exactly_its_count_per_window(redis_url: str) -> None:
    """Refuse the request after the last allowed one."""
    async with limiter(redis_url, UploadRate(3, 60)) as limit:
        verdicts = [await limit.take("192.0.2.1") for _ in range(5)]
        assert [v and v.allowed for v in verdicts] == [True, True, True, False, False]
        assert [v and v.remaining for v in verdicts] == [2, 1, 0, 0, 0]
        assert all(v and 55 <= v.reset_seconds <= 60 for v in verdicts)


@pytest.mark.usefixtures("patient_limits")
async def test_limit_off_allows_everything(redis_url: str) -> None:
    """Return no verdict at all."""
    async with limiter(redis_url, None) as limit:
        assert [await limit.take("192.0.2.1") for _ in range(20)] == [None] * 20


@pytest.mark.usefixtures("patient_limits")
async def test_addresses_are_counted_separately(redis_url: str) -> None:
    """Refuse one address while another may pass."""
    async with limiter(redis_url, UploadRate(1, 60)) as limit:
        assert [await taken(limit, f"192.0.2.{n}") for n in range(5)] == [True] * 5
        assert [await taken(limit, f"192.0.2.{n}") for n in range(5)] == [False] * 5


@pytest.mark.usefixtures("patient_limits")
async def test_processes_share_one_count(redis_url: str) -> None:
    """Allow exactly the limit over concurrent processes."""
    async with limiter(redis_url, UploadRate(10, 60)) as one, limiter(redis_url, UploadRate(10, 60)) as other:
        answers = await asyncio.gather(*(taken(each) for each in (one, other) for _ in range(50)))
        assert sum(answers) == 10


@pytest.mark.usefixtures("patient_limits")
async def test_window_slides_without_a_burst(redis_url: str) -> None:
    """Allow at most ``limit`` in any second.

    A fixed window would allow twice that around its edge.
    """
    async with limiter(redis_url, UploadRate(5, 1)) as limit:
        allowed: list[tuple[float, float]] = []
        begun = time.monotonic()
        while time.monotonic() < begun + 2.3:
            before = time.monotonic()
            if await taken(limit):
                allowed.append((before, time.monotonic()))
        assert 5 < len(allowed) <= 5 * math.ceil(allowed[-1][1] - begun + 0.01)  # 15, but for stalls
        for (first, _), (_, sixth) in zip(allowed, allowed[5:], strict=False):
            assert sixth - first >= 0.99  # Redis saw both in between


@pytest.mark.usefixtures("patient_limits")
async def test_redis_holds_only_an_expiring_hash(redis_url: str) -> None:
    """Store no address, and its hash no longer than the window."""
    async with limiter(redis_url, UploadRate(5, 60)) as limit:
        await taken(limit, "192.0.2.77")
        async with Redis.from_url(redis_url) as redis:
            (key,) = await redis.keys("*")
            assert b"192.0.2.77" not in key
            assert 0 < await redis.pttl(key) <= 60_000


@pytest.mark.usefixtures("patient_limits")
async def test_process_counts_locally_without_redis(start_valkey: StartValkey) -> None:
    """Keep the limit per process and count the decision."""
    valkey = start_valkey()
    async with limiter(valkey.url, UploadRate(2, 60)) as one, limiter(valkey.url, UploadRate(2, 60)) as other:
        valkey.kill()
        for each in (one, other):
            assert [await taken(each) for _ in range(3)] == [True, True, False]
        valkey.start()
        assert await taken(one), "counted in Redis again"


async def test_silent_redis_delays_an_upload_briefly(start_valkey: StartValkey) -> None:
    """Decide within 0.3 s.

    The connection's own time-out and retry would cost two seconds of every upload.
    """
    valkey = start_valkey()
    redis = Redis(connection_pool=connection_pool(valkey.url, socket_seconds=CALL_SECONDS))
    try:
        limit = RedisLimiter(redis, UploadRate(2, 60), key_prefix="tryon:", clock=SystemClock())
        await taken(limit)
        valkey.pause()
        try:
            async with asyncio.timeout(5):  # 0.3 on an idle machine
                assert [await taken(limit) for _ in range(3)] == [True, True, False]
        finally:
            valkey.resume()
    finally:
        await redis.connection_pool.disconnect()


async def test_local_counts_are_dropped_after_the_window(start_valkey: StartValkey) -> None:
    """Memory stays bounded, and an address whose window has passed is forgotten."""
    clock = ManualClock()
    async with limiter(start_valkey().url, UploadRate(1, 60), clock=clock) as limit:
        rate = UploadRate(1, 60)
        for n in range(10_001):
            limit._take_locally(f"address {n}", rate, True)
        clock.advance(61)
        limit._take_locally("one more", rate, True)
        assert len(limit._local) <= 2


@pytest.mark.usefixtures("patient_limits")
async def test_local_counts_keep_the_latest_addresses(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evict the address not seen for longest.

    None of the windows is over; a call costs the same however many addresses there are.
    """
    monkeypatch.setattr("server.adapters.redis.limits.LOCAL_ADDRESSES", 100)
    rate = UploadRate(1, 60)
    async with limiter(redis_url, rate) as limit:
        for n in range(1000):
            assert limit._take_locally(f"address {n}", rate, True).allowed
            assert len(limit._local) <= 100
        assert not limit._take_locally("address 999", rate, True).allowed
        assert not limit._take_locally("address 900", rate, True).allowed
        limit._take_locally("one more", rate, True)
        assert not limit._take_locally("address 900", rate, True).allowed, (
            "who has just asked is the last to be forgotten"
        )
