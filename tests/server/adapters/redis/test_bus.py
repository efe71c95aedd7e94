"""The bus: at most once, in order, to who is subscribed; and one connection that comes
back with all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis.asyncio import Redis

from server.adapters.redis.bus import RedisBus
from server.adapters.redis.connect import connection_pool
from server.adapters.redis.subscriber import Load, RedisSubscriber
from server.domain.session import Progress
from server.system.randomness import SystemRandomness
from testkit.fixtures import StartValkey
from testkit.running import until

AT = "2026-11-22T09:00:00.000Z"


def open_subscriber(
    url: str,
    *,
    on_message: Callable[[bytes, bytes], None] = lambda channel, payload: None,
    on_restored: Callable[[], None] = lambda: None,
) -> RedisSubscriber:
    """Return a subscriber that is not connected yet."""
    return RedisSubscriber(url, on_message=on_message, on_restored=on_restored, randomness=SystemRandomness())


class Listener:
    """A subscriber and what it was given."""

    def __init__(self, url: str) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.restored = 0
        self.subscriber = RedisSubscriber(
            url, on_message=self._note, on_restored=self._note_restored, randomness=SystemRandomness()
        )

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
    """Given up before its confirmation came, wanted again in a later tick: done means
    subscribed, whatever crossed.
    """
    async with Listener(redis_url) as listener:
        for turn in range(50):
            first = listener.subscriber.subscribe(b"tryon:session:a")
            await asyncio.sleep(0)  # the command is on its way
            listener.subscriber.unsubscribe(b"tryon:session:a")
            await asyncio.sleep(0)
            assert first.done()
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


async def connections_received(admin: Redis) -> int:
    return int((await admin.info("stats"))["total_connections_received"])


async def asks_politely(url: str, admin: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """A refused subscriber backs off to a second and says once what is wrong."""
    caplog.set_level(logging.WARNING, "tryon.bus")
    subscriber = open_subscriber(url)
    before, begun = await connections_received(admin), time.monotonic()
    async with subscriber:
        subscriber.subscribe(b"tryon:session:a")
        async with asyncio.timeout(10):
            while await connections_received(admin) < before + 8:
                await asyncio.sleep(0.002)
        assert time.monotonic() - begun >= 1.2, "half of 50, 50, 100, 200, 400, 800 and 1000 ms, at least"
        assert len([record for record in caplog.records if record.name == "tryon.bus"]) == 1


async def test_who_shows_a_wrong_password_asks_politely_and_is_let_in_when_it_becomes_right(
    start_valkey: StartValkey, caplog: pytest.LogCaptureFixture
) -> None:
    valkey = start_valkey(tcp=True)
    url = valkey.tcp_url.replace("//", "//:wrong@")
    async with Redis.from_url(valkey.url) as admin:
        await admin.config_set("requirepass", "right")
        await admin.execute_command("AUTH", "right")
        await asks_politely(url, admin, caplog)
        await admin.config_set("requirepass", "wrong")
        async with Listener(url) as listener:
            await listener.subscriber.subscribe(b"tryon:session:a")


async def test_who_may_not_subscribe_asks_politely(start_valkey: StartValkey, caplog: pytest.LogCaptureFixture) -> None:
    """The connection itself is good each time: what counts is whether it lives."""
    valkey = start_valkey(tcp=True)
    async with Redis.from_url(valkey.url) as admin:
        await admin.execute_command(
            "ACL SETUSER", "limited", "on", ">secret", "~*", "resetchannels", "&other:*", "+@all"
        )
        await asks_politely(valkey.tcp_url.replace("//", "//limited:secret@"), admin, caplog)


async def test_a_user_who_may_not_name_the_connection_is_served_all_the_same(start_valkey: StartValkey) -> None:
    valkey = start_valkey(tcp=True)
    async with Redis.from_url(valkey.url) as admin:
        await admin.execute_command(
            "ACL SETUSER", "limited", "on", ">secret", "allchannels", "+subscribe", "+unsubscribe", "+ping", "+publish"
        )
        async with Listener(valkey.tcp_url.replace("//", "//limited:secret@")) as listener:
            await listener.subscriber.subscribe(b"tryon:session:a")
            await admin.publish("tryon:session:a", b"hello")
            await until(lambda: listener.messages)
            assert listener.subscriber.connections == 1


async def test_a_redis_that_takes_no_more_clients_is_asked_politely(
    start_valkey: StartValkey, caplog: pytest.LogCaptureFixture
) -> None:
    valkey = start_valkey()
    async with Redis.from_url(valkey.url) as admin:
        await admin.ping()
        await admin.config_set("maxclients", 1)
        caplog.set_level(logging.WARNING, "tryon.bus")
        subscriber = open_subscriber(valkey.url)
        async with subscriber:
            confirmed = subscriber.subscribe(b"tryon:session:a")
            async with asyncio.timeout(10):
                while (await admin.info("stats"))["rejected_connections"] < 4:
                    await asyncio.sleep(0.002)
            (record,) = (record for record in caplog.records if record.name == "tryon.bus")
            assert "max number of clients" in record.message or "closed" in record.message
            await admin.config_set("maxclients", 100)
            await confirmed


async def test_a_message_that_cannot_be_handled_costs_neither_the_connection_nor_the_next(
    bus: RedisBus, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[bytes] = []

    def handle(channel: bytes, payload: bytes) -> None:
        if payload == b"bad":
            raise RuntimeError(payload)
        taken.append(payload)

    subscriber = open_subscriber(redis_url, on_message=handle)
    async with subscriber:
        await subscriber.subscribe(b"tryon:session:a")
        for payload in (b"one", b"bad", b"two"):
            await bus.publish("a", payload)
        await until(lambda: taken == [b"one", b"two"])
        assert subscriber.connections == 1
        assert "could not be handled" in caplog.text


# -- TLS -------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for this host name, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@contextlib.asynccontextmanager
async def tls_before(socket_path: Path, certificate: Path, key: Path) -> AsyncIterator[int]:
    """The port of a server that speaks TLS and hands on to Redis."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    serving: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_unix_connection(str(socket_path))
        for pair in ((reader, redis_writer), (redis_reader, writer)):
            serving.add(asyncio.create_task(pump(*pair)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def test_the_settings_of_the_url_say_whom_to_trust(
    start_valkey: StartValkey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As they do for the publishing side, which is redis-py."""
    valkey = start_valkey()
    known, key = certificate(tmp_path, "redis.example")
    caplog.set_level(logging.WARNING, "tryon.bus")
    async with tls_before(valkey.socket_path, known, key) as port:
        for settings in (
            f"ssl_check_hostname=false&ssl_ca_certs={known}",
            "ssl_check_hostname=false&ssl_cert_reqs=none",
        ):
            async with Listener(f"rediss://127.0.0.1:{port}/0?{settings}") as listener, asyncio.timeout(5):
                await listener.subscriber.subscribe(b"tryon:session:a")
        assert not caplog.records
        for settings in (f"ssl_check_hostname=true&ssl_ca_certs={known}", "", "ssl_ca_certs=/nowhere"):
            url = f"rediss://127.0.0.1:{port}/0?{settings}"
            subscriber = open_subscriber(url)
            async with subscriber:
                await until(lambda: caplog.records)
                assert not subscriber.up
            (record,) = caplog.records
            assert "cannot connect" in record.message
            caplog.clear()


# -- progress --------------------------------------------------------------------------


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


async def test_a_redis_without_memory_forgets_at_once_and_is_asked_again(start_valkey: StartValkey) -> None:
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
        assert await bus.probe("probe", b"") == 0  # nobody listens; but it answered
        assert await bus.publish("a", b"x"), "an answer ends the silence"


# -- under load ------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "high"), [(1000, False), (3900, False), (4100, True), (20_000, True)])
def test_reading_is_gathered_from_a_rate_on_and_not_below_it(rate: float, high: bool) -> None:
    load = Load()
    for number in range(1, 500):
        load.note(1, number / rate)
    assert load.high is high


def test_two_messages_that_come_together_are_no_load_and_a_load_that_ends_is_none_any_more() -> None:
    load = Load()
    assert not load.note(1, 100.0)
    assert not load.note(1, 100.0001)
    for number in range(1000):
        load.note(1, 101 + number / 10_000)
    assert load.high
    assert not load.note(1, 102.0)


async def test_under_load_nothing_is_lost_doubled_or_swapped(redis_url: str) -> None:
    got: list[bytes] = []

    def note(channel: bytes, payload: bytes) -> None:
        got.append(payload)

    subscriber = open_subscriber(redis_url, on_message=note)
    async with subscriber, Redis.from_url(redis_url) as redis:
        await until(lambda: subscriber.up)
        await subscriber.subscribe(b"loaded")
        connection = subscriber._connection
        assert connection is not None
        paused = 0
        gather = connection._gather

        def count_pause() -> None:
            nonlocal paused
            paused += 1
            gather()

        connection._gather = count_pause  # type: ignore[method-assign]
        sent = [b"%d" % number for number in range(20_000)]
        for start in range(0, len(sent), 50):
            async with redis.pipeline(transaction=False) as pipe:
                for payload in sent[start : start + 50]:
                    pipe.publish("loaded", payload)
                await pipe.execute()
        await until(lambda: len(got) >= len(sent))
        assert got == sent
        assert paused > 0
        await redis.publish("loaded", b"afterwards")
        await until(lambda: got[-1] == b"afterwards")
