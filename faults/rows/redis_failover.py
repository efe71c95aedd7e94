"""A master of Redis fails, and another one takes over.

Sentinels and a cluster decide within seconds; the product follows by itself. As in
every outage of Redis, clients stay connected and learn of transitions meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.rows.redis import without_redis
from faults.scene import Scene
from testkit.sentinels import Sentinels
from testkit.servers import ValkeyServer
from testkit.valkey_cluster import ValkeyCluster

PUSH_SECONDS: Final = 5.0
"""Bound on the news of a transition while a master is gone."""


@contextlib.asynccontextmanager
async def _watched(pace: Pace) -> AsyncIterator[tuple[Scene, Sentinels]]:
    async with without_redis(pace, push_seconds=PUSH_SECONDS, redis="sentinels") as scene:
        assert scene.cluster.sentinels is not None
        yield scene, scene.cluster.sentinels


async def sentinel_failed_over(pace: Pace) -> Outcome:
    """Kill the master; later it returns, as a replica of the new one."""
    async with _watched(pace) as (scene, sentinels):
        former = await sentinels.master()
        former.kill()
        await sentinels.other_than(former)
        await asyncio.to_thread(former.start)
        await scene.outage(pace.outage_seconds)
        scene.repaired()
    return scene.outcome


async def sentinel_master_hung(pace: Pace) -> Outcome:
    """Freeze the master; after the fail-over it goes on, as a master at first."""
    async with _watched(pace) as (scene, sentinels):
        former = await sentinels.master()
        former.pause()
        try:
            await sentinels.other_than(former)
        finally:
            former.resume()
        await scene.outage(pace.outage_seconds)
        scene.repaired()
    return scene.outcome


async def cluster_failed_over(pace: Pace) -> Outcome:
    """Kill one master of the news, then freeze another one."""
    async with without_redis(pace, push_seconds=PUSH_SECONDS, redis="cluster") as scene:
        news = scene.cluster.news
        assert news is not None
        slots = (0, 16383)
        for slot, end in zip(slots, (ValkeyServer.kill, ValkeyServer.pause), strict=True):
            await _failed_over(news, slot, end)
        scene.repaired()
    return scene.outcome


async def _failed_over(news: ValkeyCluster, slot: int, end: object) -> None:
    asked = news.nodes[1]  # neither of the two masters that end
    former = await news.owner(slot, asked=asked)
    assert callable(end) and former is not asked
    end(former)
    await news.failed_over(slot, former, asked=asked)


ROWS: Final[dict[str, Row]] = {
    "sentinel-failed-over": Row(
        "The master of Redis is killed, and Sentinels make its replica the master", sentinel_failed_over
    ),
    "sentinel-master-hung": Row("The master of Redis is frozen until Sentinels have replaced it", sentinel_master_hung),
    "cluster-failed-over": Row("Two masters of the news' cluster fail: one is killed, one frozen", cluster_failed_over),
}
