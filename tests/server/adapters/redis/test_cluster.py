"""A cluster: commands find their node, and go on when slots or masters move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from server.adapters.redis import cluster
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.cluster import ClusterRedis, slot_of
from server.adapters.redis.connect import open_redis
from server.adapters.redis.errors import UNAVAILABLE
from server.adapters.redis.limits import RedisLimiter
from server.config.parsing import UploadRate
from server.config.settings import Config, ConfigError
from server.domain.session import Progress
from server.startup import check_start
from server.system.clock import SystemClock
from testkit.fixtures import PATIENT_SECONDS, StartValkey
from testkit.servers import ValkeyServer
from testkit.valkey_cluster import ValkeyCluster

MakeConfig = Callable[..., Config]

SESSIONS = [f"0199a1b2-0000-7000-8000-{n:012d}" for n in range(40)]

AT = "2026-11-22T09:00:00.000Z"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[ClusterRedis]:
    client = open_redis(url)
    assert isinstance(client, ClusterRedis)
    try:
        yield client
    finally:
        await client.connection_pool.disconnect()


@pytest.fixture
async def client(steady_cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ClusterRedis]:
    for bound in ("cluster.NODE_SECONDS", "topology.ASK_SECONDS", "bus.PUBLISH_SECONDS", "limits.LIMIT_SECONDS"):
        monkeypatch.setattr(f"server.adapters.redis.{bound}", PATIENT_SECONDS)
    for node in steady_cluster.nodes:
        await node.command("FLUSHALL")
        await node.command("SCRIPT", "FLUSH")
    async with opened(steady_cluster.url) as client:
        yield client


def progress(attempt: int, seq: int) -> Progress:
    return Progress(seq=seq, attempt=attempt, at=AT, progress=0.5)


async def test_commands_reach_the_node_of_their_key(client: ClusterRedis, steady_cluster: ValkeyCluster) -> None:
    """One by one and in one pipeline, answers in the order of the commands."""
    keys = [f"key{n}" for n in range(60)]
    async with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.set(key, key)
        assert await pipe.execute() == [True] * len(keys)
    sizes = [await node.command("DBSIZE") for node in steady_cluster.nodes]
    assert sum(sizes) == len(keys) and all(sizes)
    assert [await client.get(key) for key in keys] == [key.encode() for key in keys]
    assert {key async for key in client.scan_iter(match="key*")} == {key.encode() for key in keys}
    assert await client.ping()


async def test_progress_is_kept_and_forgotten(client: ClusterRedis) -> None:
    """The keys of each session share a slot, and its script works at every master."""
    bus = RedisBus(client, key_prefix="tryon:")
    for session in SESSIONS:
        assert await bus.publish_progress(session, progress(1, 2), b"news")
        assert not await bus.publish_progress(session, progress(0, 9), b"old")
    assert await bus.last_progress(SESSIONS) == dict.fromkeys(SESSIONS, progress(1, 2))
    assert await bus.remembered() == set(SESSIONS)
    assert await bus.forget(SESSIONS)
    assert await bus.remembered() == set()
    assert not await bus.publish_progress(SESSIONS[0], progress(3, 3), b"erased")
    assert not await bus.rewrite_log()


async def test_names_do_not_keep_an_erased_id(client: ClusterRedis, steady_cluster: ValkeyCluster) -> None:
    """Neither the tag of the slot nor the mark of an erasure contains it."""
    bus = RedisBus(client, key_prefix="tryon:")
    await bus.publish_progress(SESSIONS[0], progress(1, 2), b"news")
    await bus.forget(SESSIONS[:1])
    keys = [key for node in steady_cluster.nodes for key in await node.command("KEYS", "*")]
    assert len(keys) == 1 and SESSIONS[0].encode() not in keys[0]


async def test_uploads_are_counted_over_processes(client: ClusterRedis, steady_cluster: ValkeyCluster) -> None:
    """Exact for each address, on whichever node its key is."""
    async with opened(steady_cluster.url) as other:
        limiters = [
            RedisLimiter(each, UploadRate(3, 60), key_prefix="tryon:", clock=SystemClock()) for each in (client, other)
        ]
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
            verdicts = [await limiters[n % 2].take(address) for n in range(4)]
            assert [verdict is not None and verdict.allowed for verdict in verdicts] == [True, True, True, False]


async def test_moved_slot_is_followed(client: ClusterRedis, steady_cluster: ValkeyCluster) -> None:
    """While it moves (ASK), and afterwards (MOVED), with the map of before."""
    slot = slot_of("a")
    source = await steady_cluster.owner(slot)
    target = next(node for node in steady_cluster.nodes if node is not source)
    assert await client.set("a", 1)
    source_id, target_id = await steady_cluster.node_id(source), await steady_cluster.node_id(target)
    await target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    await source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    assert await client.get("a") == b"1"
    await source.command("MIGRATE", "127.0.0.1", target.port, "a", 0, 5000)
    assert await client.get("a") == b"1"
    await steady_cluster.migrate(slot, source, target)
    assert await client.get("a") == b"1"
    assert client.topology.owner(slot) == ("127.0.0.1", target.port)
    await steady_cluster.migrate(slot, target, source)
    assert await client.set("a", 2)


async def works(client: ClusterRedis, key: str) -> None:
    """Wait until a key can be written. The node that is gone is no longer asked."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.set(key, 1)
                return
            except UNAVAILABLE:
                await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("end", [ValkeyServer.kill, ValkeyServer.pause], ids=["killed", "hung"])
async def test_failed_master_is_replaced(
    replicated_cluster: ValkeyCluster, end: Callable[[ValkeyServer], None]
) -> None:
    """Its replica serves its slots soon; the other shards are not held up meanwhile."""
    async with opened(replicated_cluster.url) as client:
        gone = await replicated_cluster.owner(slot_of("a"))
        others = [f"key{n}" for n in range(100)]
        here = [key for key in others if await replicated_cluster.owner(slot_of(key)) is not gone][:5]
        assert await client.set("a", 1)
        end(gone)
        with pytest.raises(UNAVAILABLE):
            await client.set("a", 2)
        for key in here:
            await works(client, key)
        await replicated_cluster.failed_over(slot_of("a"), gone)
        await works(client, "a")


async def test_silent_node_is_not_asked_again_at_once(
    replicated_cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call pays its bound; the others fail at once for a while."""
    monkeypatch.setattr(cluster, "SILENT_SECONDS", 60.0)
    async with opened(replicated_cluster.url) as client:
        gone = await replicated_cluster.owner(slot_of("a"))
        assert await client.set("a", 1)
        gone.pause()
        try:
            with pytest.raises(cluster.NodeSilent, match="in time"):
                await client.set("a", 2)
            with pytest.raises(cluster.NodeSilent, match="a moment ago"):
                await client.set("a", 3)
        finally:
            gone.resume()


async def test_transactions_are_refused(client: ClusterRedis) -> None:
    """A cluster has none over several nodes, so none is promised."""
    with pytest.raises(NotImplementedError):
        client.pipeline()


async def test_start_needs_a_cluster(
    config: MakeConfig, steady_cluster: ValkeyCluster, start_valkey: StartValkey
) -> None:
    """A server that is none is named; one that is passes, with a queue elsewhere."""
    single = start_valkey(tcp=True)
    await check_start(config(redis_url=steady_cluster.url, queue_redis_url=single.tcp_url))
    wrong = single.tcp_url.replace("redis://", "redis+cluster://").removesuffix("/0")
    with pytest.raises(ConfigError, match=r"TRYON_REDIS_URL: Redis cannot be used: .*cluster support disabled"):
        await check_start(config(redis_url=wrong, queue_redis_url=single.tcp_url))


def test_queue_needs_one_server() -> None:
    """Without a URL of its own, and with that of a cluster, the start says so."""
    environ: dict[str, Any] = {"TRYON_REDIS_URL": "redis+cluster://a,b"}
    with pytest.raises(ConfigError, match="TRYON_QUEUE_REDIS_URL must be set"):
        Config.load(environ, env_file=None)
    with pytest.raises(ConfigError, match=r"TRYON_QUEUE_REDIS_URL.*must be a single server or Sentinels"):
        Config.load(environ | {"TRYON_QUEUE_REDIS_URL": "redis+cluster://a,b"}, env_file=None)
    assert Config.load(environ | {"TRYON_QUEUE_REDIS_URL": "redis://c"}, env_file=None).queue_redis == "redis://c"
