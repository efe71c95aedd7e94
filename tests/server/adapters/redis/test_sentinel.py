"""Sentinels: calls, queue and subscriber find the master, and the next one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest
from redis.exceptions import RedisError

from server.adapters.redis.connect import open_redis
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue, arq_settings
from server.adapters.redis.sentinel import ASK_SECONDS, MasterFinder, UnknownMaster
from server.config.redis_url import parse_redis_url
from server.config.settings import Config, ConfigError
from server.startup import check_start
from server.system.clock import SystemClock
from testkit.fixtures import StartValkey
from testkit.running import until
from testkit.sentinels import Sentinels
from testkit.servers import ValkeyServer
from tests.server.adapters.redis.listening import Listener, publisher

MakeConfig = Callable[..., Config]

RECONNECT_SECONDS = 60.0
"""Bound on finding the new master once it is one; it takes a tenth of a second."""


class Users:
    """A publisher, a queue and a listener that go on through a fail-over."""

    def __init__(self, url: str, listener: Listener, queue: ArqQueue) -> None:
        self.url = url
        self.listener = listener
        self.queue = queue

    async def work(self) -> None:
        """Publish, hear it, and enqueue, until all of it works."""
        async with publisher(self.url) as bus, asyncio.timeout(RECONNECT_SECONDS):
            while not await self._once(bus.publish):
                if not await bus.probe("tryon:session:a", b"probe"):
                    self.listener.subscriber.reconnect()  # what the hub's probe does
                await asyncio.sleep(0.05)

    async def _once(self, publish: Callable[[str, bytes], object]) -> bool:
        self.listener.messages.clear()
        try:
            await self.queue.enqueue("s", 0, 0, score_ms=1)
        except QueueUnavailable:
            return False
        if not self.listener.subscriber.up or not await publish("a", b"news"):  # type: ignore[misc]
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                while ("tryon:session:a", b"news") not in self.listener.messages:
                    await asyncio.sleep(0.01)
                return True
        return False


@pytest.fixture
async def users(sentinels: Sentinels) -> AsyncIterator[Users]:
    queue = ArqQueue(sentinels.url, "queue", "tryon:", clock=SystemClock())
    async with Listener(sentinels.url) as listener:
        await listener.subscriber.subscribe(b"tryon:session:a")
        users = Users(sentinels.url, listener, queue)
        await users.work()
        yield users
    await queue.close()


@pytest.mark.slow
async def test_master_is_followed_when_killed(sentinels: Sentinels, users: Users) -> None:
    """A killed master: commands, queue and subscriber go on at the new one."""
    former = await sentinels.master()
    former.kill()
    await sentinels.other_than(former)
    await users.work()
    assert users.listener.restored  # the caller was told that messages may be missing


@pytest.mark.slow
async def test_master_is_followed_when_hung(sentinels: Sentinels, users: Users) -> None:
    """A frozen master: its connections stay open, and are given up all the same."""
    former = await sentinels.master()
    former.pause()
    try:
        await sentinels.other_than(former)
        await users.work()
    finally:
        former.resume()
    await users.work()


@pytest.mark.slow
async def test_master_is_followed_when_demoted(sentinels: Sentinels, users: Users) -> None:
    """A refused write of an old master that is a replica now leads to the new one."""
    former = await sentinels.master()
    client = open_redis(sentinels.url)
    try:
        assert await client.set("a", 1)
        await sentinels.sentinels[0].command("SENTINEL", "FAILOVER", "tryon")
        await sentinels.other_than(former)
        async with asyncio.timeout(RECONNECT_SECONDS):
            await former.command("REPLICAOF", "127.0.0.1", str((await sentinels.master()).port))  # what Sentinels do
            while True:
                with contextlib.suppress(RedisError):
                    await client.set("a", 2)
                    break
        master = await sentinels.master()
        assert await master.command("GET", "a") == b"2"
        await users.work()
    finally:
        await client.connection_pool.disconnect()


class OddSentinels:
    """Sentinels that answer as a test wants: an address, nothing, or never."""

    def __init__(self) -> None:
        self.servers: list[asyncio.Server] = []

    async def add(self, answer: bytes | None) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while line := await reader.readline():
                    if line.upper().strip() == b"GET-MASTER-ADDR-BY-NAME" and answer is not None:
                        writer.write(answer)
                    elif line.upper().strip() == b"SETINFO":
                        writer.write(b"+OK\r\n")
                    elif line.upper().strip() == b"HELLO":
                        writer.write(b"-ERR unknown command\r\n")
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def close(self) -> None:
        for server in self.servers:
            server.close()


def address(port: int) -> bytes:
    return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(port)), port)


@pytest.mark.parametrize(
    ("answers", "port"),
    [
        ([address(1), address(2), address(2)], 2),
        ([None, address(2), address(2)], 2),
        ([None, None, address(2)], 2),
        ([b"*-1\r\n", b"-ERR no\r\n", address(2)], 2),
    ],
)
async def test_most_sentinels_decide(answers: list[bytes | None], port: int) -> None:
    """Neither a stale one nor one that hangs counts against the others."""
    odd = OddSentinels()
    try:
        ports = [await odd.add(answer) for answer in answers]
        hosts = ",".join(f"127.0.0.1:{each}" for each in ports)
        finder = MasterFinder(parse_redis_url(f"redis+sentinel://{hosts}/m?protocol=2"))
        begun = time.monotonic()
        first, second = await asyncio.gather(finder.master(), finder.master())
        assert first == second == ("127.0.0.1", port)
        assert time.monotonic() - begun < 10 * ASK_SECONDS
    finally:
        odd.close()


async def test_unknown_master_is_named(start_valkey: StartValkey) -> None:
    """No Sentinel answers, or none knows the name: the error says which name."""
    odd = OddSentinels()
    try:
        port = await odd.add(b"*-1\r\n")
        with pytest.raises(UnknownMaster, match="'nobody': it knows no master of that name"):
            await MasterFinder(parse_redis_url(f"redis+sentinel://127.0.0.1:{port}/nobody")).master()
    finally:
        odd.close()
    with pytest.raises(UnknownMaster, match="'m': Error"):
        await MasterFinder(parse_redis_url(f"redis+sentinel://127.0.0.1:{port}/m")).master()


async def test_start_names_what_sentinels_lack(config: MakeConfig, sentinels: Sentinels) -> None:
    """A wrong name of the master stops the start in one line; the right one passes."""
    await check_start(config(redis_url=sentinels.url))
    wrong = sentinels.url.replace("/tryon/", "/unknown/").replace("redis+sentinel://", "redis+sentinel://:hunter2@")
    with pytest.raises(ConfigError) as refused:
        await check_start(config(redis_url=wrong))
    line = str(refused.value)
    assert line.startswith("TRYON_REDIS_URL: Redis cannot be used: ") and "\n" not in line
    assert "no Sentinel names the master 'unknown'" in line and "hunter2" not in line


def test_arq_check_asks_the_sentinels() -> None:
    """``arq --check`` gets the Sentinels, the master's name and the credentials."""
    settings = arq_settings("redis+sentinel://user:pw@a:1,b:2/m/3?sentinel_password=x")
    assert (settings.sentinel, settings.sentinel_master, settings.database) == (True, "m", 3)
    assert settings.host == [("a", 1), ("b", 2)] and (settings.username, settings.password) == ("user", "pw")
    plain = arq_settings("rediss://h:1/2?ssl_ca_certs=/ca")
    assert (plain.host, plain.port, plain.ssl, plain.ssl_ca_certs) == ("h", 1, True, "/ca")
    assert plain.ssl_check_hostname


async def test_replica_is_not_taken_for_the_master(start_valkey: StartValkey) -> None:
    """Sentinels that are late name a replica: the call fails and reads nothing."""
    replica: ValkeyServer = start_valkey(tcp=True)
    await replica.command("REPLICAOF", "127.0.0.1", "1")
    odd = OddSentinels()
    client = open_redis(f"redis+sentinel://127.0.0.1:{await odd.add(address(replica.port))}/m")
    try:
        with pytest.raises(RedisError, match="not the master"):
            await client.get("a")
        await replica.command("REPLICAOF", "NO", "ONE")
        assert await client.get("a") is None
    finally:
        odd.close()
        await client.connection_pool.disconnect()


async def test_subscriber_retries_until_a_sentinel_answers(sentinels: Sentinels) -> None:
    """Without any Sentinel it waits; it is up soon after one is back."""
    for sentinel in sentinels.sentinels:
        sentinel.pause()
    listener = Listener(sentinels.url)
    try:
        async with listener.subscriber:
            assert not listener.subscriber.up
            for sentinel in sentinels.sentinels:
                sentinel.resume()
            await until(lambda: listener.subscriber.up)
    finally:
        for sentinel in sentinels.sentinels:
            sentinel.resume()
