"""The arq queue against a real Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from arq.worker import JobExecutionFailed
from redis.asyncio import Redis

from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import WORKER_SECONDS, ArqQueue, deserialize, job_id, serialize
from server.system.clock import SystemClock
from testkit.fixtures import StartValkey
from testkit.values import new_session_id


@asynccontextmanager
async def open_queue(redis_url: str) -> AsyncIterator[ArqQueue]:
    queue = ArqQueue(redis_url, "jobs", "t:", clock=SystemClock())
    try:
        yield queue
    finally:
        await queue.close()


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[ArqQueue]:
    async with open_queue(redis_url) as queue:
        yield queue


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with aclosing(Redis.from_url(redis_url)) as redis:
        yield redis


def now_ms() -> int:
    return int(time.time() * 1000)


async def test_job_is_json_with_the_id_only(queue: ArqQueue, redis: Redis) -> None:
    """Store nothing of the session but its id."""
    await queue.enqueue("s1", 0, 1, score_ms=now_ms())

    job = json.loads(await redis.get("arq:job:s1:0:1"))

    assert job["f"] == "run_session"
    assert job["a"] == ["s1"]
    assert job["k"] == {}
    assert set(job) == {"t", "f", "a", "k", "et"}


def test_pickled_job_is_refused() -> None:
    """Never unpickle what Redis returns."""
    assert deserialize(serialize({"a": ["s1"]})) == {"a": ["s1"]}
    with pytest.raises(ValueError, match=r"malformed|invalid"):
        deserialize(b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.")


def test_result_with_an_exception_is_serializable() -> None:
    """Keep an exception as its text."""
    assert deserialize(serialize({"r": JobExecutionFailed("job not found"), "s": False}))["r"] == "job not found"


async def test_doorbell_rings_after_the_job_is_visible(queue: ArqQueue, redis: Redis) -> None:
    """Find the job when the doorbell is heard."""
    async with redis.pubsub() as bell:
        await bell.subscribe("t:doorbell")
        assert (await bell.get_message(timeout=5))["type"] == "subscribe"

        await queue.enqueue("s1", 0, 1, score_ms=now_ms())

        assert (await bell.get_message(timeout=5))["type"] == "message"
    assert await redis.zrange("jobs", 0, -1) == [b"s1:0:1"]


async def test_oldest_session_is_taken_first(queue: ArqQueue, redis: Redis) -> None:
    """Order by creation, with scores that no clock takes for the future."""
    day_ms, now = 86_400_000, now_ms()
    await queue.enqueue("young", 0, 1, score_ms=now - 1)
    await queue.enqueue("old", 1, 2, score_ms=now - 2)
    await queue.enqueue("ahead", 0, 1, score_ms=now + day_ms)  # the database's clock is ahead of this machine's

    waiting = await redis.zrange("jobs", 0, -1, withscores=True)

    assert [job for job, _ in waiting] == [b"old:1:2", b"young:0:1", b"ahead:0:1"]
    assert all(0 < score < now_ms() - 365 * day_ms for _, score in waiting)


async def test_queue_contains_waiting_jobs_only(queue: ArqQueue, redis: Redis) -> None:
    """Report a job until a worker takes it."""
    await queue.enqueue("s1", 0, 1, score_ms=now_ms())
    assert await queue.contains("s1", 0, 1)
    assert not await queue.contains("s1", 0, 2)
    assert await queue.depth() == 1

    await redis.zrem("jobs", "s1:0:1")
    assert not await queue.contains("s1", 0, 1)
    assert await queue.depth() == 0


async def test_entry_without_its_job_does_not_count(queue: ArqQueue, redis: Redis) -> None:
    """Report a queue entry whose job data is lost as missing."""
    await queue.enqueue("s1", 0, 1, score_ms=now_ms())
    await redis.delete("arq:job:s1:0:1")
    assert not await queue.contains("s1", 0, 1)


async def test_forget_removes_every_key_of_one_session(queue: ArqQueue, redis: Redis) -> None:
    """Leave the keys of other sessions alone."""
    gone, other = new_session_id(), new_session_id()
    for n in range(4):
        await queue.enqueue(gone, n % 3, n, score_ms=now_ms())
        for kind in ("in-progress", "retry", "result"):
            await redis.set(f"arq:{kind}:{job_id(gone, n % 3, n)}", "1")
    await queue.enqueue(other, 0, 1, score_ms=now_ms())

    await queue.forget(gone, 2, 3)

    assert [key async for key in redis.scan_iter(f"*{gone}*")] == []
    assert await redis.zrange("jobs", 0, -1) == [f"{other}:0:1".encode()]


async def test_workers_count_until_they_leave_or_fall_silent(queue: ArqQueue, redis: Redis) -> None:
    """Drop a worker that ended, and one without signs of life."""
    assert await queue.workers() == {}
    for name in ("a", "b", "b", "c"):
        await queue.note_worker(name)
    assert len(await queue.workers()) == 3

    await queue.drop_worker("a")
    await redis.zadd("t:workers", {"c": time.time() - WORKER_SECONDS - 1})
    assert len(await queue.workers()) == 1

    await queue.note_worker("b")
    assert await redis.zrange("t:workers", 0, -1) == [b"b"]  # the silent one is swept away
    assert 0 < await redis.ttl("t:workers") <= WORKER_SECONDS


async def test_emptied_redis_is_reported_once(queue: ArqQueue, redis: Redis) -> None:
    """Report a Redis that lost its data exactly once."""
    assert [await queue.remembers() for _ in range(2)] == [False, True]
    await redis.flushall()
    assert [await queue.remembers() for _ in range(2)] == [False, True]


async def test_read_only_redis_is_unavailable(start_valkey: StartValkey) -> None:
    """Treat a Redis that refuses writes as unavailable."""
    queue = ArqQueue(start_valkey().url, "queue", "tryon:", clock=SystemClock())
    await queue.remembers()
    await queue._redis.config_set("maxmemory", "1")
    with pytest.raises(QueueUnavailable):
        await queue.remembers()
    await queue.close()


async def test_restarted_redis_is_used_at_once(start_valkey: StartValkey) -> None:
    """Fail while Redis is down and work with its successor."""
    valkey = start_valkey()
    async with open_queue(valkey.url) as queue:
        await queue.enqueue("s1", 0, 1, score_ms=now_ms())
        valkey.kill()
        for call in (queue.depth(), queue.workers(), queue.contains("s1", 0, 1), queue.forget("s1", 0, 1)):
            with pytest.raises(QueueUnavailable):
                await call
        with pytest.raises(QueueUnavailable):
            await queue.enqueue("s1", 0, 2, score_ms=now_ms())

        valkey.start()

        await queue.enqueue("s1", 0, 2, score_ms=now_ms())
        assert await queue.depth() == 1


async def test_silent_redis_is_unavailable_within_a_second(start_valkey: StartValkey) -> None:
    """Bound every call to a Redis that does not answer."""
    valkey = start_valkey()
    async with open_queue(valkey.url) as queue:
        assert await queue.depth() == 0
        valkey.pause()
        try:
            async with asyncio.timeout(5):  # 0.5 on an idle machine
                with pytest.raises(QueueUnavailable):
                    await queue.enqueue("s1", 0, 1, score_ms=now_ms())
        finally:
            valkey.resume()
        async with asyncio.timeout(20):  # it is left alone for a second
            while True:
                with contextlib.suppress(QueueUnavailable):
                    assert await queue.depth() in (0, 1)  # whether it arrived cannot be known; it works again
                    break
                await asyncio.sleep(0.02)


async def test_silent_redis_delays_the_first_call_only(start_valkey: StartValkey) -> None:
    """Fail further calls at once."""
    valkey = start_valkey()
    async with open_queue(valkey.url) as queue:
        assert await queue.depth() == 0
        valkey.pause()
        try:
            async with asyncio.timeout(8):  # 0.5 on an idle machine; 20 if each waited
                for _ in range(40):
                    with pytest.raises(QueueUnavailable):
                        await queue.enqueue("s1", 0, 1, score_ms=now_ms())
        finally:
            valkey.resume()
