"""Redis is unavailable in every way it can be.

In all of them clients stay connected and learn of transitions, uploads are accepted,
the worker survives, and every accepted session runs once Redis is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from faults import evidence
from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.scene import Scene, running_scene
from server.adapters.redis.queue import cancel_channel, doorbell
from server.domain.bus_message import progress_message
from server.domain.session import Progress, timestamp
from testkit.damage import frozen_valkey, full_valkey, overrun_subscribers
from testkit.programs import Program
from testkit.proxy import subscribes
from testkit.servers import ValkeyServer
from tryon.protocol.paths import SESSIONS

RATE: Final = 4.0
CHANNELS: Final = "tryon:session:"
RECONNECTS: Final = "tryon_bus_reconnects_total"
SLOTS: Final[dict[str, Any]] = {"worker_jobs": 200}
"""Load low enough that recovery is the product's, not the time to work off what queued
up.
"""


@contextlib.asynccontextmanager
async def without_redis(pace: Pace, *, push_seconds: float = 2.0, **cluster: Any) -> AsyncIterator[Scene]:
    """Load a cluster, break Redis in the block, and expect a good end.

    ``push_seconds``: transitions during the fault are on the screens within this time.
    The database is read every second as soon as Redis is known to be unavailable, and
    every three seconds before.
    """
    async with running_scene(pace, **SLOTS, **cluster, lease_seconds=pace.steady_lease_seconds) as scene:
        await scene.healthy("redis", "workers")
        async with scene.clients.load(RATE, longest=2.0):
            await scene.until(lambda: len(scene.screens) >= 4)
            await scene.clients.live()
            scene.began()
            yield scene
            await scene.healthy("redis")
            scene.recovered()
        await scene.finish()
        trails = await scene.trails()
        scene.promises.resumed(trails)
        scene.promises.no_lease_lost(trails)
        scene.promises.no_connection_lost()
        scene.promises.uploads_accepted()
        scene.promises.still_running(*scene.cluster.webs, *scene.cluster.workers)
        scene.promises.nothing_stale()
        scene.promises.pushed_during_fault(push_seconds)
        scene.promises.within(scene.outcome.recovery_seconds or 0.0, 5.0, "recovery")


async def killed(pace: Pace) -> Outcome:
    async with without_redis(pace) as scene:
        scene.cluster.valkey.kill()
        await scene.outage(pace.outage_seconds)
        await asyncio.to_thread(scene.cluster.valkey.start)
        scene.repaired()
    return scene.outcome


async def frozen(pace: Pace) -> Outcome:
    async with without_redis(pace, push_seconds=5.0) as scene:
        with frozen_valkey(scene.cluster.valkey):
            await scene.outage(pace.frozen_seconds)
        scene.repaired()
    return scene.outcome


async def out_of_memory(pace: Pace) -> Outcome:
    async with without_redis(pace) as scene:
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
    async with without_redis(pace) as scene:
        cuts = 3
        async with _cutting(scene, cuts):
            for _ in range(cuts):
                async with asyncio.timeout(10):
                    while not await _overrun_followers(scene):
                        pass  # its last follower left in between
                    for channel in (doorbell("tryon:"), cancel_channel("tryon:")):
                        while not await overrun_subscribers(scene.cluster.valkey, channel, b"1" * 1000):
                            await asyncio.sleep(0.02)  # the worker has one connection for both
                await scene.outage(pace.outage_seconds / cuts)
        scene.repaired()
    return scene.outcome


async def _overrun_followers(scene: Scene) -> bool:
    """Cut off those who follow a session; return whether it had followers still."""
    while not (channels := await scene.cluster.valkey.command("PUBSUB", "CHANNELS", f"{CHANNELS}*")):
        await asyncio.sleep(0.01)
    session_id = channels[0].decode().removeprefix(CHANNELS)
    progress = Progress(seq=0, attempt=0, at=timestamp(datetime.now(UTC)), stage="x" * 1000)
    message = progress_message(session_id, progress)
    return await overrun_subscribers(scene.cluster.valkey, f"{CHANNELS}{session_id}", message)


async def deaf(pace: Pace) -> Outcome:
    """Drop everything that Redis says to subscribers.

    Subscriptions of new connections are not confirmed either; all else works.
    """
    async with without_redis(pace, push_seconds=5.0, proxy=True) as scene:
        proxy = scene.cluster.proxy
        assert proxy is not None
        proxy.deafen(subscribes)
        await scene.outage(pace.frozen_seconds)
        proxy.hear()
        scene.repaired()
    return scene.outcome


async def subscribers_killed(pace: Pace) -> Outcome:
    async with without_redis(pace) as scene:
        cuts = 5
        async with _cutting(scene, cuts):
            for _ in range(cuts):
                await scene.cluster.valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
                await scene.outage(pace.outage_seconds / cuts)
        scene.repaired()
    return scene.outcome


async def vanished(pace: Pace) -> Outcome:
    """Lose every byte to and from Redis without an RST, as if its machine was gone.

    New connections are swallowed too, until it is back; the old ones stay dead.
    """
    async with without_redis(pace, push_seconds=5.0, proxy=True) as scene:
        proxy = scene.cluster.proxy
        assert proxy is not None
        scene.expect(proxy.black_hole() > 2, "there were no connections to lose")
        await scene.outage(pace.outage_seconds)
        proxy.mend()
        scene.repaired()
    return scene.outcome


async def stopped_without(pace: Pace) -> Outcome:
    """Stop web process and worker (SIGTERM) when Redis has vanished without an RST."""
    async with running_scene(pace, proxy=True, drain_seconds=1, lease_seconds=pace.steady_lease_seconds) as scene:
        cluster = scene.cluster
        assert cluster.proxy is not None
        await scene.healthy("redis", "workers")
        for _ in range(4):
            await scene.submit(seconds=6.0)
        await scene.clients.live()
        scene.began()
        cluster.proxy.black_hole()
        began = time.monotonic()
        statuses = await asyncio.gather(*(_stopped(program, began) for program in (cluster.web, cluster.worker)))
        for program, (status, seconds) in zip((cluster.web, cluster.worker), statuses, strict=True):
            scene.expect(status in (0, -signal.SIGTERM), f"{program.name} ended with {status}")
            scene.promises.within(seconds, 5.0, f"{program.name} ended", most_slack=2.0)
            scene.note(f"{program.name} ended after {seconds:.1f} s")
        cluster.proxy.mend()
        scene.repaired()
        await cluster.worker.start()
        await cluster.start_web(cluster.web)
        await scene.healthy("redis", "workers")
        scene.recovered()
        await scene.finish()
        trails = await scene.trails()
        scene.promises.no_lease_lost(trails)
    return scene.outcome


async def _stopped(program: Program, began: float) -> tuple[int, float]:
    status = await program.terminate(60)
    return status, time.monotonic() - began


async def full_and_erased(pace: Pace) -> Outcome:
    """Delete sessions before and while Redis is out of memory; its file names none."""
    async with running_scene(pace, valkey_options=("--appendonly", "yes")) as scene:
        valkey = scene.cluster.valkey
        await scene.healthy("redis", "workers")
        made = [await scene.clients.upload(seconds=60) for _ in range(4)]
        erased = [(session["session_id"], token) for session, token in filter(None, made)]
        await scene.until(lambda: all(_file_names(valkey, session_id) for session_id, _ in erased))
        scene.began()
        await _delete(scene, *erased[:2])
        async with full_valkey(valkey):
            await _delete(scene, *erased[2:])
            await scene.outage(pace.outage_seconds + 5)  # every process has asked for a rewrite
        scene.repaired()
        async with asyncio.timeout(60):
            while any(_file_names(valkey, session_id) for session_id, _ in erased):
                await valkey.command("DEL", "tryon:rewritten")  # does not wait out the time between two rewrites
                await asyncio.sleep(0.1)
        scene.recovered()
        scene.promises.within(scene.outcome.recovery_seconds or 0.0, 10.0, "the last id left the file")
        left = await evidence.strangers(scene.cluster, ())
        scene.expect(not left, f"left over: {left}")
        scene.promises.still_running(*scene.cluster.webs, *scene.cluster.workers)
        scene.outcome.sessions = len(erased)
    return scene.outcome


async def _delete(scene: Scene, *sessions: tuple[str, str]) -> None:
    for session_id, token in sessions:
        path = f"{scene.cluster.url}{SESSIONS}/{session_id}"
        answer = await scene.http.delete(path, headers={"Authorization": f"Bearer {token}"})
        scene.expect(answer.status_code == 200, f"a deletion was answered {answer.status_code}")


def _file_names(valkey: ValkeyServer, session_id: str) -> bool:
    """Return whether the append-only file contains the id."""
    for path in (valkey.folder / "appendonlydir").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if session_id.encode() in path.read_bytes():
                return True
    return False


ROWS: Final[dict[str, Row]] = {
    "redis-killed": Row("Redis is killed and comes back empty", killed, sample=True),
    "redis-frozen": Row("Redis is frozen (SIGSTOP)", frozen),
    "redis-full": Row("Redis is out of memory (`noeviction`)", out_of_memory),
    "redis-cut-off": Row("Redis cuts its subscribers off (output buffer limit)", cut_off),
    "redis-subscribers-killed": Row("`CLIENT KILL TYPE pubsub`, again and again", subscribers_killed),
    "redis-deaf": Row("Redis is deaf while it is up: nothing published arrives", deaf),
    "redis-vanished": Row("Redis vanishes without a word: no RST, new connections unanswered", vanished),
    "redis-vanished-stop": Row("Web process and worker are stopped when Redis has vanished", stopped_without),
    "redis-full-erased": Row("Sessions are deleted while Redis is out of memory", full_and_erased),
}
