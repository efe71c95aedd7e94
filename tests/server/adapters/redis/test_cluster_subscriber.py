"""The subscriber in a cluster: channels at their masters, wherever those go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from server.adapters.redis.bus import RedisBus
from server.adapters.redis.cluster import slot_of
from server.adapters.redis.cluster_subscriber import ClusterSubscriber
from testkit.fixtures import PATIENT_SECONDS
from testkit.running import until
from testkit.servers import ValkeyServer
from testkit.valkey_cluster import ValkeyCluster
from tests.server.adapters.redis.listening import Listener, publisher

SESSIONS = [f"0199a1b2-0000-7000-8000-{n:012d}" for n in range(40)]


@pytest.fixture
async def bus(steady_cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisBus]:
    for bound in ("cluster.NODE_SECONDS", "topology.ASK_SECONDS", "bus.PUBLISH_SECONDS"):
        monkeypatch.setattr(f"server.adapters.redis.{bound}", PATIENT_SECONDS)
    async with publisher(steady_cluster.url) as bus:
        yield bus


async def subscribe(listener: Listener, *channels: str) -> None:
    await asyncio.gather(*(listener.subscriber.subscribe(channel.encode()) for channel in channels))


async def subscriptions(cluster: ValkeyCluster) -> list[int]:
    """Return the number of sharded channels at each node."""
    return [len(await node.command("PUBSUB", "SHARDCHANNELS")) for node in cluster.nodes]


async def confirmed(cluster: ValkeyCluster, count: int) -> None:
    async with asyncio.timeout(60):
        while sum(await subscriptions(cluster)) != count:
            await asyncio.sleep(0.01)


async def test_channels_of_sessions_spread_over_the_masters(bus: RedisBus, steady_cluster: ValkeyCluster) -> None:
    """Every master has some of them, and each message arrives once, unchanged."""
    async with Listener(steady_cluster.url) as listener:
        assert isinstance(listener.subscriber, ClusterSubscriber)
        await subscribe(listener, *map(bus.channel, SESSIONS))
        await confirmed(steady_cluster, len(SESSIONS))
        assert all(await subscriptions(steady_cluster))
        sent = [(bus.channel(session), f"news of {session} \r\n".encode()) for session in SESSIONS]
        for session, (_, message) in zip(SESSIONS, sent, strict=True):
            assert await bus.publish(session, message)
        await until(lambda: len(listener.messages) == len(sent))
        assert sorted(listener.messages) == sorted(sent)
        assert await bus.publish_to_each(SESSIONS, b"to all")
        await until(lambda: len(listener.messages) == 2 * len(sent))
        for channel, _ in sent:
            listener.subscriber.unsubscribe(channel.encode())
        await confirmed(steady_cluster, 0)


async def test_channels_of_other_kinds_spread_too(bus: RedisBus, steady_cluster: ValkeyCluster) -> None:
    """Those of owners have no tag: their names decide. Any channel can be heard."""
    owners = [f"tryon:owner:{n:032x}" for n in range(40)]
    async with Listener(steady_cluster.url) as listener:
        await subscribe(listener, *owners)
        await confirmed(steady_cluster, len(owners))
        assert all(await subscriptions(steady_cluster))
        for owner in owners:
            assert await bus.probe(owner, b"news") == 1
        await until(lambda: len(listener.messages) == len(owners))


async def test_moved_channel_is_subscribed_at_its_new_master(bus: RedisBus, steady_cluster: ValkeyCluster) -> None:
    """A resharding ends its subscription; it returns elsewhere and is reported."""
    channel = bus.channel(SESSIONS[0])
    slot = slot_of(channel)
    source = await steady_cluster.owner(slot)
    target = next(node for node in steady_cluster.nodes if node is not source)
    async with Listener(steady_cluster.url) as listener:
        await subscribe(listener, *map(bus.channel, SESSIONS))
        await confirmed(steady_cluster, len(SESSIONS))
        before = listener.restored
        await steady_cluster.migrate(slot, source, target)
        await until(lambda: listener.restored > before)
        assert channel.encode() in await target.command("PUBSUB", "SHARDCHANNELS")
        assert await bus.probe(channel, b"after") == 1
        await until(lambda: (channel, b"after") in listener.messages)
        await steady_cluster.migrate(slot, target, source)


@pytest.mark.slow
@pytest.mark.parametrize("end", [ValkeyServer.kill, ValkeyServer.pause], ids=["killed", "hung"])
async def test_failed_master_is_replaced(
    replicated_cluster: ValkeyCluster, end: Callable[[ValkeyServer], None]
) -> None:
    """Its channels come back at its replica; meanwhile the others are heard."""
    async with publisher(replicated_cluster.url) as bus, Listener(replicated_cluster.url) as listener:
        channels = {session: bus.channel(session) for session in SESSIONS}
        await subscribe(listener, *channels.values())
        gone = await replicated_cluster.owner(slot_of(channels[SESSIONS[0]]))
        (elsewhere, *_) = [
            session
            for session, channel in channels.items()
            if await replicated_cluster.owner(slot_of(channel)) is not gone
        ]
        before = listener.restored
        end(gone)
        async with asyncio.timeout(60):
            while (channels[elsewhere], b"other") not in listener.messages:
                await bus.probe(channels[elsewhere], b"other")
                await asyncio.sleep(0.05)
        await replicated_cluster.failed_over(slot_of(channels[SESSIONS[0]]), gone)
        await until(lambda: listener.subscriber.up)
        async with asyncio.timeout(60):
            while {channel for channel, message in listener.messages if message == b"back"} != set(channels.values()):
                for channel in channels.values():
                    await bus.probe(channel, b"back")
                await asyncio.sleep(0.05)
        assert listener.restored > before


async def test_cluster_may_come_late(steady_cluster: ValkeyCluster) -> None:
    """Channels that were wanted while no node answered are subscribed to afterwards."""
    for node in steady_cluster.nodes:
        node.pause()
    listener = Listener(steady_cluster.url)
    try:
        async with listener.subscriber:
            await subscribe(listener, "tryon:session:a", "tryon:session:b")  # done, though not confirmed
            assert not listener.subscriber.up
            listener.subscriber.unsubscribe(b"tryon:session:b")
            for node in steady_cluster.nodes:
                node.resume()
            await until(lambda: listener.restored)
            await confirmed(steady_cluster, 1)
    finally:
        for node in steady_cluster.nodes:
            node.resume()
