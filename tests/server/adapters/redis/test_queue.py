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
from server.domain.session import new_session_id
from server.system.clock import SystemClock
from testkit.fixtures import StartValkey


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


async def test_a_job_is_json_and_holds_nothing_but_the_id(queue: ArqQueue, redis: Redis) -> None:
    await queue.enqueue("s1", 0, 1, score_ms=now_ms())

    job = json.loads(await redis.get("arq:job:s1:0:1"))

    assert job["f"] == "run_session"
    assert job["a"] == ["s1"]
    assert job["k"] == {}
    assert set(job) == {"t", "f", "a", "k", "et"}


def test_a_pickle_is_refused() -> None:
    assert deserialize(serialize({"a": ["s1"]})) == {"a": ["s1"]}
    with pytest.raises(ValueError, match=r"malformed|invalid"):
        deserialize(b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.")


def test_a_job_that_arq_ended_itself_has_a_result_that_can_be_kept() -> None:
    """It is an exception:

    Redis has forgotten the job's data, or it waited for too long.
    """
    assert deserialize(serialize({"r": JobExecutionFailed("job not found"), "s": False}))["r"] == "job not found"


async def test_the_doorbell_rings_when_the_job_can_be_seen(queue: ArqQueue, redis: Redis) -> None:
    async with redis.pubsub() as bell:
        await bell.subscribe("t:doorbell")
        assert (await bell.get_message(timeout=5))["type"] == "subscribe"

        await queue.enqueue("s1", 0, 1, score_ms=now_ms())

        assert (await bell.get_message(timeout=5))["type"] == "message"
    assert await redis.zrange("jobs", 0, -1) == [b"s1:0:1"]


async def test_the_oldest_session_comes_first_and_none_is_in_anybodys_future(queue: ArqQueue, redis: Redis) -> None:
    day_ms, now = 86_400_000, now_ms()
    await queue.enqueue("young", 0, 1, score_ms=now - 1)
    await queue.enqueue("old", 1, 2, score_ms=now - 2)
    await queue.enqueue("ahead", 0, 1, score_ms=now + day_ms)  # the database's clock is ahead of this machine's

    waiting = await redis.zrange("jobs", 0, -1, withscores=True)

    assert [job for job, _ in waiting] == [b"old:1:2", b"young:0:1", b"ahead:0:1"]
    assert all(0 < score < now_ms() - 365 * day_ms for _, score in waiting)


async def test_a_waiting_job_is_contained_and_a_taken_one_is_not(queue: ArqQueue, redis: Redis) -> None:
    await queue.enqueue("s1", 0, 1, score_ms=now_ms())
    assert await queue.contains("s1", 0, 1)
    assert not await queue.contains("s1", 0, 2)
    assert await queue.depth() == 1

    await redis.zrem("jobs", "s1:0:1")
    assert not await queue.contains("s1", 0, 1)
    assert await queue.depth() == 0


async def test_a_place_in_the_queue_without_its_job_does_not_count(queue: ArqQueue, redis: Redis) -> None:
    await queue.enqueue("s1", 0, 1, score_ms=now_ms())
    await redis.delete("arq:job:s1:0:1")
    assert not await queue.contains("s1", 0, 1)


async def test_forget_leaves_no_key_of_the_session_and_all_of_the_others(queue: ArqQueue, redis: Redis) -> None:
    gone, other = new_session_id(), new_session_id()
    for n in range(4):
        await queue.enqueue(gone, n % 3, n, score_ms=now_ms())
        for kind in ("in-progress", "retry", "result"):
            await redis.set(f"arq:{kind}:{job_id(gone, n % 3, n)}", "1")
    await queue.enqueue(other, 0, 1, score_ms=now_ms())

    await queue.forget(gone, 2, 3)

    assert [key async for key in redis.scan_iter(f"*{gone}*")] == []
    assert await redis.zrange("jobs", 0, -1) == [f"{other}:0:1".encode()]


async def test_workers_are_counted_until_they_leave_or_fall_silent(queue: ArqQueue, redis: Redis) -> None:
    assert await queue.workers() == 0
    for name in ("a", "b", "b", "c"):
        await queue.note_worker(name)
    assert await queue.workers() == 3

    await queue.drop_worker("a")
    await redis.zadd("t:workers", {"c": time.time() - WORKER_SECONDS - 1})
    assert await queue.workers() == 1

    await queue.note_worker("b")
    assert await redis.zrange("t:workers", 0, -1) == [b"b"]  # the silent one is swept away
    assert 0 < await redis.ttl("t:workers") <= WORKER_SECONDS


async def test_a_redis_that_came_back_empty_is_known_by_it_once(queue: ArqQueue, redis: Redis) -> None:
    assert [await queue.remembers() for _ in range(2)] == [False, True]
    await redis.flushall()
    assert [await queue.remembers() for _ in range(2)] == [False, True]


async def test_a_redis_that_takes_nothing_is_away(start_valkey: StartValkey) -> None:
    queue = ArqQueue(start_valkey().url, "queue", "tryon:", clock=SystemClock())
    await queue.remembers()
    await queue._redis.config_set("maxmemory", "1")
    with pytest.raises(QueueUnavailable):
        await queue.remembers()
    await queue.close()


async def test_a_dead_redis_is_away_and_a_new_one_is_used_at_once(start_valkey: StartValkey) -> None:
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


async def test_a_silent_redis_is_away_within_a_second_or_so(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with open_queue(valkey.url) as queue:
        assert await queue.depth() == 0
        valkey.pause()
        try:
            async with asyncio.timeout(2):
                with pytest.raises(QueueUnavailable):
                    await queue.enqueue("s1", 0, 1, score_ms=now_ms())
        finally:
            valkey.resume()
        async with asyncio.timeout(3):  # it is left alone for a second
            while True:
                with contextlib.suppress(QueueUnavailable):
                    assert await queue.depth() in (0, 1)  # whether it arrived cannot be known; it works again
                    break
                await asyncio.sleep(0.02)


async def test_only_the_first_call_waits_for_a_silent_redis(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with open_queue(valkey.url) as queue:
        assert await queue.depth() == 0
        valkey.pause()
        try:
            async with asyncio.timeout(0.9):
                for _ in range(20):
                    with pytest.raises(QueueUnavailable):
                        await queue.enqueue("s1", 0, 1, score_ms=now_ms())
        finally:
            valkey.resume()
