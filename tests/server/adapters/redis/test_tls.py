"""TLS to a real Redis: trust, names, client certificates, and the start's one line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.adapters.redis.connect import open_redis
from server.adapters.redis.queue import ArqQueue
from server.config.settings import Config, ConfigError
from server.startup import check_start
from server.system.clock import SystemClock
from testkit.certificates import Authority
from testkit.fixtures import PATIENT_SECONDS
from testkit.processes import START_SECONDS
from testkit.running import until
from testkit.tls_redis import TlsRedis
from tests.server.adapters.redis.listening import Listener, publisher

MakeConfig = Callable[..., Config]


class Servers:
    """A Redis behind TLS and what its clients need; ``words`` go behind the ``?``."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        certificate, key = self.authority.issue("client")
        self.trust = f"ssl_ca_certs={self.authority.ca}"
        self.identity = f"ssl_certfile={certificate}&ssl_keyfile={key}"
        self.words = f"{self.trust}&{self.identity}"
        self.redis = TlsRedis(self.authority, "localhost")

    def url(self, words: str | None = None, host: str = "localhost") -> str:
        return f"rediss://{host}:{self.redis.port}/0?{self.words if words is None else words}"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each call more time: a busy machine is no silent server."""
    bounds = ("sentinel.ASK_SECONDS", "queue.QUEUE_SECONDS", "queue.CALL_SECONDS", "connect.CALL_SECONDS")
    for bound in (*bounds, "bus.PUBLISH_SECONDS", "subscriber.CONNECT_SECONDS"):
        monkeypatch.setattr(f"server.adapters.redis.{bound}", PATIENT_SECONDS)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    servers = Servers(tmp_path / "tls")
    with contextlib.closing(servers.redis):
        servers.redis.start()
        yield servers


async def test_everything_goes_through_tls(servers: Servers) -> None:
    """Commands, the queue and the subscriber, with a certificate of the client."""
    url = servers.url()
    queue = ArqQueue(url, "queue", "tryon:", clock=SystemClock())
    try:
        async with publisher(url, socket_seconds=5) as bus, Listener(url) as listener, asyncio.timeout(START_SECONDS):
            await listener.subscriber.subscribe(b"tryon:session:a")
            while not await bus.publish("a", b"news"):
                await asyncio.sleep(0.05)  # a busy machine
            await until(lambda: ("tryon:session:a", b"news") in listener.messages)
            assert await queue.enqueue("s", 0, 0, score_ms=1) == 1
    finally:
        await queue.close()


@pytest.mark.parametrize(
    ("words", "host", "line"),
    [
        ("{trust}&{identity}", "localhost", None),
        ("{trust}&{identity}", "127.0.0.1", "certificate is not valid for '127.0.0.1'"),
        ("{trust}&{identity}&ssl_check_hostname=no", "127.0.0.1", None),
        ("{identity}", "localhost", "CERTIFICATE_VERIFY_FAILED"),
        ("{identity}&ssl_cert_reqs=none", "127.0.0.1", None),
        ("{trust}", "localhost", "Redis cannot be used"),
        ("ssl_ca_certs=/nowhere.pem", "localhost", "ssl_ca_certs cannot be read: /nowhere.pem: No such file"),
        ("{trust}&ssl_certfile={ca}&ssl_keyfile={ca}", "localhost", "a file of its TLS options cannot be used"),
    ],
)
async def test_start_checks_trust_and_names(
    config: MakeConfig, servers: Servers, words: str, host: str, line: str | None
) -> None:
    """What cannot work ends the start with one line, and no password in it."""
    given = words.format(trust=servers.trust, identity=servers.identity, ca=servers.authority.ca)
    settings = config(redis_url=servers.url(given, host))
    if line is None:
        await check_start(settings)
        return
    with pytest.raises(ConfigError) as refused:
        await check_start(settings)
    said = str(refused.value)
    assert said.startswith("TRYON_REDIS_URL: ") and line in said and "\n" not in said


async def test_passwords_of_urls_stay_secret(config: MakeConfig, servers: Servers) -> None:
    """Neither a wrong password nor that of a Sentinel is shown."""
    wrong = servers.url().replace("rediss://", "rediss://user:hunter2@")
    with pytest.raises(ConfigError) as refused:
        await check_start(config(redis_url=wrong))
    assert "invalid username-password pair" in str(refused.value) and "hunter2" not in str(refused.value)


async def test_sentinels_are_asked_through_tls(servers: Servers) -> None:
    """The same words hold for the Sentinel and for the master that it names."""
    await asyncio.to_thread(servers.redis.stop)
    master = TlsRedis(servers.authority, "127.0.0.1")
    sentinel = TlsRedis(servers.authority, "127.0.0.1", sentinel_of=master)
    with contextlib.closing(master.start()), contextlib.closing(sentinel.start()):
        url = f"rediss+sentinel://127.0.0.1:{sentinel.port}/tryon/0?{servers.words}"
        client = open_redis(url)
        try:
            assert await client.set("a", 1)
            assert await master.command("GET", "a") == b"1"
        finally:
            await client.connection_pool.disconnect()
        async with Listener(url) as listener:
            await listener.subscriber.subscribe(b"tryon:session:a")
