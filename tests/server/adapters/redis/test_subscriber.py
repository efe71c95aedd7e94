"""The subscriber: one connection, replaced when lost, with every channel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis.asyncio import Redis

from server.adapters.redis.bus import RedisBus
from server.adapters.redis.subscriber_connection import Load
from testkit.damage import frozen_valkey
from testkit.fixtures import PATIENT_SECONDS, StartValkey
from testkit.running import until
from tests.server.adapters.redis.listening import Listener, open_subscriber, publisher

AT = "2026-11-22T09:00:00.000Z"


async def test_messages_arrive_unchanged_and_in_order(bus: RedisBus, redis_url: str) -> None:
    """Pass every byte through, in the order of publishing."""
    async with Listener(redis_url) as listener:
        await listener.subscriber.subscribe(b"tryon:session:a")
        sent = [b"e%04d \x00\r\n\xff $5\r\n" % n for n in range(500)]
        for message in sent:
            assert await bus.publish("a", message)
        await until(lambda: len(listener.messages) == 500)
        assert listener.messages == [("tryon:session:a", message) for message in sent]


async def test_unsubscribed_channels_deliver_nothing(bus: RedisBus, redis_url: str) -> None:
    """Drop messages of channels that were never wanted or given up."""
    async with Listener(redis_url) as listener:
        await asyncio.gather(*(listener.subscriber.subscribe(f"tryon:session:{n}".encode()) for n in "ab"))
        listener.subscriber.unsubscribe(b"tryon:session:a")
        await listener.subscriber.subscribe(b"tryon:session:c")
        for session in "abcd":
            await bus.publish(session, session.encode())
        await until(lambda: len(listener.messages) == 2)
        assert [payload for _, payload in listener.messages] == [b"b", b"c"]


async def test_channel_is_subscribed_when_wanted_again_at_once(bus: RedisBus, redis_url: str) -> None:
    """End subscribed after unsubscribe and subscribe within one tick."""
    async with Listener(redis_url) as listener:
        await listener.subscriber.subscribe(b"tryon:session:a")
        for _ in range(5):
            listener.subscriber.unsubscribe(b"tryon:session:a")
            confirmed = listener.subscriber.subscribe(b"tryon:session:a")
        await confirmed
        await bus.publish("a", b"still here")
        await until(lambda: listener.messages)


async def test_confirmation_belongs_to_the_newest_subscription(bus: RedisBus, redis_url: str) -> None:
    """Ignore the confirmation of a subscription that was given up.

    Wanted again in a later tick: done means that Redis has confirmed this one.
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
            await until(lambda: listener.messages)
            assert listener.messages.pop() == ("tryon:session:a", b"%d" % turn)
            listener.subscriber.unsubscribe(b"tryon:session:a")


async def test_confirmation_of_a_given_up_subscription_settles_nothing(
    start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel is given up and wanted again before Redis has answered."""
    monkeypatch.setattr("server.adapters.redis.subscriber.CONFIRM_SECONDS", 60)
    valkey = start_valkey()
    async with Listener(valkey.url) as listener:
        subscriber, seen = listener.subscriber, list[tuple[bytes, bool]]()
        connection = subscriber._connection
        assert connection is not None
        on_reply = connection._on_reply

        def note(reply: Any) -> None:
            on_reply(reply)
            seen.append((reply[0], newest.done()))

        connection._on_reply = note
        with frozen_valkey(valkey):
            for _ in range(2):
                subscriber.subscribe(b"a")
                await asyncio.sleep(0)  # the command is on its way
                subscriber.unsubscribe(b"a")
                await asyncio.sleep(0)
            newest = subscriber.subscribe(b"a")
            await asyncio.sleep(0)
        await newest
        await until(lambda: len(seen) == 5)
        assert seen == [*[(b"subscribe", False), (b"unsubscribe", False)] * 2, (b"subscribe", True)]


async def test_lost_connection_returns_with_every_channel(start_valkey: StartValkey) -> None:
    """Resubscribe everything and call ``on_restored`` once."""
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


async def test_subscriber_starts_before_redis(start_valkey: StartValkey) -> None:
    """Keep trying until Redis is there."""
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
        assert listener.restored == 1, "the channel was wanted before: messages may be missing"


async def test_subscriber_authenticates_with_the_password(start_valkey: StartValkey) -> None:
    """Send AUTH before anything else."""
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
    """Back off to a second and log once what is wrong."""
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


async def test_wrong_password_is_retried_slowly_until_right(
    start_valkey: StartValkey, caplog: pytest.LogCaptureFixture
) -> None:
    """Back off to a second, log once, and connect when the password becomes right."""
    valkey = start_valkey(tcp=True)
    url = valkey.tcp_url.replace("//", "//:wrong@")
    async with Redis.from_url(valkey.url) as admin:
        await admin.config_set("requirepass", "right")
        await admin.execute_command("AUTH", "right")
        await asks_politely(url, admin, caplog)
        await admin.config_set("requirepass", "wrong")
        async with Listener(url) as listener:
            await listener.subscriber.subscribe(b"tryon:session:a")


async def test_forbidden_subscription_is_retried_slowly(
    start_valkey: StartValkey, caplog: pytest.LogCaptureFixture
) -> None:
    """Back off although each connection by itself is good.

    What counts is how long it lives.
    """
    valkey = start_valkey(tcp=True)
    async with Redis.from_url(valkey.url) as admin:
        await admin.execute_command(
            "ACL SETUSER", "limited", "on", ">secret", "~*", "resetchannels", "&other:*", "+@all"
        )
        await asks_politely(valkey.tcp_url.replace("//", "//limited:secret@"), admin, caplog)


async def test_forbidden_client_name_is_ignored(start_valkey: StartValkey) -> None:
    """Connect although the server forbids CLIENT SETNAME."""
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


async def test_full_redis_is_retried_slowly(start_valkey: StartValkey, caplog: pytest.LogCaptureFixture) -> None:
    """Back off while ``maxclients`` is reached."""
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


async def test_failing_handler_keeps_the_connection(
    bus: RedisBus, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Deliver the next message after a handler raised."""
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
        assert "Failed to handle a message" in caplog.text


# -- TLS -------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Return a self-signed certificate for this host name, and its key."""
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
    """Serve TLS before Redis and yield the port."""
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


async def test_tls_follows_the_options_of_the_url(
    start_valkey: StartValkey, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trust the same certificates as redis-py does for the publishing side."""
    monkeypatch.setattr("server.adapters.redis.subscriber.CONNECT_SECONDS", PATIENT_SECONDS)
    valkey = start_valkey()
    known, key = certificate(tmp_path, "redis.example")
    caplog.set_level(logging.WARNING, "tryon.bus")
    async with tls_before(valkey.socket_path, known, key) as port:
        for settings in (
            f"ssl_check_hostname=false&ssl_ca_certs={known}",
            "ssl_check_hostname=false&ssl_cert_reqs=none",
        ):
            async with (
                Listener(f"rediss://127.0.0.1:{port}/0?{settings}") as listener,
                asyncio.timeout(PATIENT_SECONDS),
            ):
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


# -- under load ------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "high"), [(1000, False), (3900, False), (4100, True), (20_000, True)])
def test_reads_are_batched_above_the_load_rate(rate: float, high: bool) -> None:
    """Switch at LOAD_RATE messages per second."""
    load = Load()
    for number in range(1, 500):
        load.note(1, number / rate)
    assert load.high is high


def test_load_ends_with_the_burst() -> None:
    """Take two messages at once for no load, and forget a load that ended."""
    load = Load()
    assert not load.note(1, 100.0)
    assert not load.note(1, 100.0001)
    for number in range(1000):
        load.note(1, 101 + number / 10_000)
    assert load.high
    assert not load.note(1, 102.0)


async def test_batched_reads_keep_every_message_in_order(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliver each message once, in order, while reads are batched."""
    monkeypatch.setattr("server.adapters.redis.subscriber_connection.LOAD_RATE", 100)  # which any machine reaches
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
        await until(lambda: len(got) >= len(sent), seconds=30)
        assert got == sent
        assert paused > 0
        await redis.publish("loaded", b"afterwards")
        await until(lambda: got[-1] == b"afterwards")
