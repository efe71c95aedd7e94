"""The bus: what Redis holds of sessions, and what happens without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

import pytest
from redis.asyncio import Redis

from server.adapters.redis.bus import RedisBus
from server.domain.session import Progress
from testkit.fixtures import StartValkey
from testkit.running import until
from tests.server.adapters.redis.listening import Listener, publisher

AT = "2026-11-22T09:00:00.000Z"


def words() -> Iterator[tuple[int, int, float, bool]]:
    """Yield attempt, seq, progress and whether it counts."""
    yield 1, 2, 0.1, True
    yield 1, 2, 0.2, True
    yield 2, 4, 0.0, True
    yield 1, 2, 0.9, False  # the worker that was fenced out
    yield 1, 6, 0.9, False
    yield 2, 4, 0.5, True
    yield 2, 3, 0.9, False
    yield 10, 22, 0.1, True


async def test_newest_attempt_and_seq_win(bus: RedisBus, redis_url: str) -> None:
    """Keep the progress of a newer claim when an older worker reports later."""
    async with Listener(redis_url) as listener:
        await listener.subscriber.subscribe(b"tryon:session:a")
        expected = []
        for attempt, seq, progress, counts in words():
            word = Progress(seq=seq, attempt=attempt, at=AT, progress=progress)
            assert await bus.publish_progress("a", word, b"%d" % attempt) is counts
            if counts:
                expected.append(word)
            assert (await bus.last_progress(["a"]))["a"] == expected[-1]
        await until(lambda: len(listener.messages) == len(expected))


async def test_message_to_many_sessions_is_one_call(
    bus: RedisBus, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publish on each channel; a slow Redis costs one round trip, not hundreds."""
    call, calls = bus._breaker.call, []

    def counted() -> AbstractAsyncContextManager[None]:
        calls.append(1)
        return call()

    monkeypatch.setattr(bus._breaker, "call", counted)
    ids = [f"s{n}" for n in range(300)]
    async with Redis.from_url(redis_url) as redis, redis.pubsub() as heard:
        await heard.psubscribe(bus.channel("*"))
        assert await bus.publish_to_each(ids, b"gone")
        channels: set[str] = set()
        async with asyncio.timeout(10):
            while len(channels) < 300:
                message = await heard.get_message(timeout=1)
                if message is not None and message["type"] == "pmessage":
                    assert message["data"] == b"gone"
                    channels.add(message["channel"].decode())
    assert channels == {bus.channel(each) for each in ids}
    assert len(calls) == 1


async def test_progress_is_erased_with_its_session(bus: RedisBus, redis_url: str) -> None:
    """Leave no progress key of an erased session."""
    await bus.publish_progress("a", Progress(seq=2, attempt=1, at=AT, progress=0.5), b"")
    assert await bus.forget(["a"])
    assert await bus.last_progress(["a"]) == {}


async def test_full_redis_forgets_and_is_asked_again(start_valkey: StartValkey) -> None:
    """Delete what a full Redis holds, and report that it must be asked again."""
    valkey = start_valkey()
    async with publisher(valkey.url) as bus, Redis.from_url(valkey.url) as admin:
        word = Progress(seq=2, attempt=1, at=AT, progress=0.5)
        for session in "ab":
            assert await bus.publish_progress(session, word, b"")
        await admin.config_set("maxmemory", 1)
        assert not await bus.forget(["a", "b"]), "it could not be told to learn no more"
        assert await admin.keys("*") == []
        await admin.config_set("maxmemory", 0)
        assert await bus.forget(["a", "b"])
        assert not await bus.publish_progress("a", word, b"")


async def test_progress_is_unknown_without_redis(start_valkey: StartValkey) -> None:
    """Answer every call without an exception."""
    valkey = start_valkey()
    async with publisher(valkey.url) as bus:
        word = Progress(seq=2, attempt=1, at=AT, progress=0.5)
        assert await bus.publish_progress("a", word, b"")
        valkey.kill()
        assert not await bus.publish_progress("a", word, b"")
        assert not await bus.publish_to_each(["a", "b"], b"")
        assert await bus.last_progress(["a"]) == {}
        assert not await bus.forget(["a"])


async def test_silent_redis_delays_one_call_only(start_valkey: StartValkey) -> None:
    """Fail further calls at once for a second."""
    valkey = start_valkey()
    async with publisher(valkey.url) as bus:
        assert await bus.publish("a", b"x")
        valkey.pause()
        try:
            begun = asyncio.get_running_loop().time()
            for _ in range(20):
                assert not await bus.publish("a", b"x")
                assert not await bus.forget(["a"])
                assert await bus.last_progress(["a"]) == {}
            assert asyncio.get_running_loop().time() - begun < 6  # 0.3 on an idle machine; 18 if each waited
        finally:
            valkey.resume()
        async with asyncio.timeout(10):  # a busy machine may need several tries
            while await bus.probe("probe", b"") != 0:  # no process listens, but Redis answered
                pass
        assert await bus.publish("a", b"x"), "an answer ends the silence"
