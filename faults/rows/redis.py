"""Redis is unavailable in every way it can be.

In all of them clients stay connected and learn of transitions, uploads are accepted,
the worker survives, and every accepted session runs once Redis is back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.scene import Scene, running_scene
from server.adapters.redis.queue import cancel_channel, doorbell
from server.domain.bus_message import progress_message
from server.domain.session import Progress, timestamp
from testkit.damage import frozen_valkey, full_valkey, overrun_subscribers
from testkit.proxy import subscribes

RATE: Final = 4.0
CHANNELS: Final = "tryon:session:"
RECONNECTS: Final = "tryon_bus_reconnects_total"
SLOTS: Final[dict[str, Any]] = {"worker_jobs": 200}
"""Load low enough that recovery is the product's, not the time to work off what queued
up.
"""


@contextlib.asynccontextmanager
async def _without_redis(pace: Pace, *, push_seconds: float = 2.0, **cluster: Any) -> AsyncIterator[Scene]:
    """Load a cluster, break Redis in the block, and expect a good end.

    ``push_seconds``: transitions during the fault are on the screens within this time.
    The database is read every second as soon as Redis is known to be unavailable, and
    every four seconds before.
    """
    async with running_scene(pace, **SLOTS, **cluster) as scene:
        await scene.healthy("redis", "workers")
        async with scene.clients.load(RATE, longest=2.0):
            await scene.until(lambda: len(scene.screens) >= 4)
            await scene.clients.live()
            scene.began()
            yield scene
            await scene.healthy("redis")
            scene.recovered()
        await scene.finish()
        scene.promises.resumed(await scene.trails())
        scene.promises.no_connection_lost()
        scene.promises.uploads_accepted()
        scene.promises.still_running(*scene.cluster.webs, *scene.cluster.workers)
        scene.promises.nothing_stale()
        scene.promises.pushed_during_fault(push_seconds)
        scene.promises.within(scene.outcome.recovery_seconds or 0.0, 5.0, "recovery")


async def killed(pace: Pace) -> Outcome:
    async with _without_redis(pace) as scene:
        scene.cluster.valkey.kill()
        await scene.outage(pace.outage_seconds)
        await asyncio.to_thread(scene.cluster.valkey.start)
        scene.repaired()
    return scene.outcome


async def frozen(pace: Pace) -> Outcome:
    async with _without_redis(pace, push_seconds=5.0) as scene:
        with frozen_valkey(scene.cluster.valkey):
            await scene.outage(pace.frozen_seconds)
        scene.repaired()
    return scene.outcome


async def out_of_memory(pace: Pace) -> Outcome:
    async with _without_redis(pace) as scene:
        async with full_valkey(scene.cluster.valkey):
            await scene.outage(pace.outage_seconds)
        scene.repaired()
    return scene.outcome


@contextlib.asynccontextmanager
async def _cutting(scene: Scene, cuts: int) -> AsyncIterator[None]:
    """Expect that the web process notices this many cuts of its subscriber."""
    before = await scene.metric(RECONNECTS)
    yield
    noticed = await scene.metric(RECONNECTS) - before
    scene.expect(noticed >= cuts, f"subscribers were cut off {cuts} times, and it came back {noticed:g} times")


async def cut_off(pace: Pace) -> Outcome:
    """Have Redis cut its subscribers off, by the limit on output buffers.

    Each cut loses the messages of that moment.
    """
    async with _without_redis(pace) as scene:
        cuts = 3
        async with _cutting(scene, cuts):
            for _ in range(cuts):
                session_id = await _followed(scene)
                progress = Progress(seq=0, attempt=0, at=timestamp(datetime.now(UTC)), stage="x" * 1000)
                for channel, message in (
                    (f"{CHANNELS}{session_id}", progress_message(session_id, progress)),
                    (doorbell("tryon:"), b"1" * 1000),
                    (cancel_channel("tryon:"), b"1" * 1000),
                ):
                    async with asyncio.timeout(10):  # the worker has one connection for two of them
                        while not (await scene.cluster.valkey.command("PUBSUB", "NUMSUB", channel))[1]:
                            await asyncio.sleep(0.02)
                    await overrun_subscribers(scene.cluster.valkey, channel, message)
                await scene.outage(pace.outage_seconds / cuts)
        scene.repaired()
    return scene.outcome


async def _followed(scene: Scene) -> str:
    """Return a session whose channel has a subscriber."""
    async with asyncio.timeout(10):
        while not (channels := await scene.cluster.valkey.command("PUBSUB", "CHANNELS", f"{CHANNELS}*")):
            await asyncio.sleep(0.01)
    return str(channels[0].decode().removeprefix(CHANNELS))


async def deaf(pace: Pace) -> Outcome:
    """Drop everything that Redis says to subscribers.

    Subscriptions of new connections are not confirmed either; all else works.
    """
    async with _without_redis(pace, push_seconds=5.0, proxy=True) as scene:
        proxy = scene.cluster.proxy
        assert proxy is not None
        proxy.deafen(subscribes)
        await scene.outage(pace.frozen_seconds)
        proxy.hear()
        scene.repaired()
    return scene.outcome


async def subscribers_killed(pace: Pace) -> Outcome:
    async with _without_redis(pace) as scene:
        cuts = 5
        async with _cutting(scene, cuts):
            for _ in range(cuts):
                await scene.cluster.valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
                await scene.outage(pace.outage_seconds / cuts)
        scene.repaired()
    return scene.outcome


ROWS: Final[dict[str, Row]] = {
    "redis-killed": Row("Redis is killed and comes back empty", killed, sample=True),
    "redis-frozen": Row("Redis is frozen (SIGSTOP)", frozen),
    "redis-full": Row("Redis is out of memory (`noeviction`)", out_of_memory),
    "redis-cut-off": Row("Redis cuts its subscribers off (output buffer limit)", cut_off),
    "redis-subscribers-killed": Row("`CLIENT KILL TYPE pubsub`, again and again", subscribers_killed),
    "redis-deaf": Row("Redis is deaf while it is up: nothing published arrives", deaf),
}
