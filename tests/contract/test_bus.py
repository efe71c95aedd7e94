"""The bus: at most once, in order, to who is subscribed; and one connection that comes back with all of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from server.adapters.bus import RedisBus, RedisSubscriber
from server.adapters.queue import connection_pool
from server.domain.session import Progress
from tests.conftest import StartValkey
from tests.running import until

AT = "2026-11-22T09:00:00.000Z"


class Listener:
    """A subscriber and what it was given."""

    def __init__(self, url: str) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.restored = 0
        self.subscriber = RedisSubscriber(url, on_message=self._note, on_restored=self._note_restored)

    def _note(self, channel: bytes, payload: bytes) -> None:
        self.messages.append((channel.decode(), payload))

    def _note_restored(self) -> None:
        self.restored += 1

    async def __aenter__(self) -> Listener:
        await self.subscriber.__aenter__()
        await until(lambda: self.subscriber.up)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.subscriber.__aexit__(*exc)


@contextlib.asynccontextmanager
async def publisher(url: str) -> AsyncIterator[RedisBus]:
    redis = Redis(connection_pool=connection_pool(url, socket_seconds=0.3))
    try:
        yield RedisBus(redis, key_prefix="tryon:")
    finally:
        await redis.connection_pool.disconnect()


@pytest.fixture
async def bus(redis_url: str) -> AsyncIterator[RedisBus]:
    async with publisher(redis_url) as bus:
        yield bus


async def test_what_is_published_arrives_byte_for_byte_and_in_order(bus: RedisBus, redis_url: str) -> None:
    async with Listener(redis_url) as listener:
        await listener.subscriber.subscribe(b"tryon:session:a")
        sent = [b"e%04d \x00\r\n\xff $5\r\n" % n for n in range(500)]
        for message in sent:
            assert await bus.publish("a", message)
        await until(lambda: len(listener.messages) == 500)
        assert listener.messages == [("tryon:session:a", message) for message in sent]


async def test_nothing_arrives_from_channels_that_are_not_wanted(bus: RedisBus, redis_url: str) -> None:
    async with Listener(redis_url) as listener:
        await asyncio.gather(*(listener.subscriber.subscribe(f"tryon:session:{n}".encode()) for n in "ab"))
        listener.subscriber.unsubscribe(b"tryon:session:a")
        await listener.subscriber.subscribe(b"tryon:session:c")
        for session in "abcd":
            await bus.publish(session, session.encode())
        await until(lambda: len(listener.messages) == 2)
        assert [payload for _, payload in listener.messages] == [b"b", b"c"]


async def test_a_channel_given_up_and_wanted_again_at_once_is_subscribed(bus: RedisBus, redis_url: str) -> None:
    async with Listener(redis_url) as listener:
        await listener.subscriber.subscribe(b"tryon:session:a")
        for _ in range(5):
            listener.subscriber.unsubscribe(b"tryon:session:a")
            confirmed = listener.subscriber.subscribe(b"tryon:session:a")
        await confirmed
        await bus.publish("a", b"still here")
        await until(lambda: listener.messages)


async def test_a_confirmation_is_one_of_this_subscription_not_of_an_earlier_one(bus: RedisBus, redis_url: str) -> None:
    """Given up before its confirmation came, wanted again in a later tick: done means subscribed, whatever crossed."""
    async with Listener(redis_url) as listener:
        for turn in range(50):
            first = listener.subscriber.subscribe(b"tryon:session:a")
            await asyncio.sleep(0)  # the command is on its way
            listener.subscriber.unsubscribe(b"tryon:session:a")
            await asyncio.sleep(0)
            assert first.cancelled()
            await listener.subscriber.subscribe(b"tryon:session:a")
            await bus.publish("a", b"%d" % turn)
            await until(lambda: listener.messages, seconds=2)
            assert listener.messages.pop() == ("tryon:session:a", b"%d" % turn)
            listener.subscriber.unsubscribe(b"tryon:session:a")


async def test_a_lost_connection_comes_back_with_every_channel_and_says_so(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with publisher(valkey.url) as bus, Listener(valkey.url) as listener:
        await asyncio.gather(*(listener.subscriber.subscribe(f"tryon:session:{n}".encode()) for n in range(30)))
        assert listener.restored == 0
        valkey.kill()
        await until(lambda: not listener.subscriber.up)
        assert not await bus.publish("0", b"lost")
        late = listener.subscriber.subscribe(b"tryon:session:late")
        valkey.start()
        await late
        await until(lambda: listener.restored == 1)
        for n in [*range(30), "late"]:
            assert await bus.publish(str(n), b"back")
        await until(lambda: len(listener.messages) == 31)


async def test_a_subscriber_may_begin_before_redis_does(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    valkey.kill()
    listener = Listener(valkey.url)
    async with listener.subscriber, publisher(valkey.url) as bus:
        confirmed = listener.subscriber.subscribe(b"tryon:session:a")
        valkey.start()
        async with asyncio.timeout(5):
            await confirmed
        assert await bus.publish("a", b"hello")
        await until(lambda: listener.messages)


async def test_a_password_is_shown(start_valkey: StartValkey) -> None:
    valkey = start_valkey(tcp=True)
    async with Redis.from_url(valkey.url) as admin:
        await admin.config_set("requirepass", "open sesame")
    url = valkey.tcp_url.replace("//", "//:open%20sesame@")
    async with Listener(url) as listener, publisher(url) as bus:
        async with asyncio.timeout(5):
            await listener.subscriber.subscribe(b"tryon:session:a")
        assert await bus.publish("a", b"hello")
        await until(lambda: listener.messages)


# -- progress --------------------------------------------------------------------------------------------------------------


def words() -> Iterator[tuple[int, int, float, bool]]:
    """attempt, seq, progress, whether it counts"""
    yield 1, 2, 0.1, True
    yield 1, 2, 0.2, True
    yield 2, 4, 0.0, True
    yield 1, 2, 0.9, False  # the worker that was fenced out
    yield 1, 6, 0.9, False
    yield 2, 4, 0.5, True
    yield 2, 3, 0.9, False
    yield 10, 22, 0.1, True


async def test_the_newest_attempt_and_seq_have_the_last_word(bus: RedisBus, redis_url: str) -> None:
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


async def test_progress_is_forgotten_with_its_session(bus: RedisBus, redis_url: str) -> None:
    await bus.publish_progress("a", Progress(seq=2, attempt=1, at=AT, progress=0.5), b"")
    assert await bus.forget(["a"])
    assert await bus.last_progress(["a"]) == {}


async def test_without_redis_progress_is_unknown_and_nothing_breaks(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with publisher(valkey.url) as bus:
        word = Progress(seq=2, attempt=1, at=AT, progress=0.5)
        assert await bus.publish_progress("a", word, b"")
        valkey.kill()
        assert not await bus.publish_progress("a", word, b"")
        assert await bus.last_progress(["a"]) == {}
        assert not await bus.forget(["a"])


async def test_a_silent_redis_is_waited_for_once_and_briefly(start_valkey: StartValkey) -> None:
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
            assert asyncio.get_running_loop().time() - begun < 0.9
        finally:
            valkey.resume()
        assert await bus.probe("probe", b"") is False  # nobody listens; but it answered
        assert await bus.publish("a", b"x"), "an answer ends the silence"
