"""Processes are stopped under load, and others take over.

In a deploy, where old and new serve side by side, and while the database is blocked.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Final

from faults.outcome import PUSHED, Outcome, Row
from faults.pace import Pace
from faults.scene import Scene, running_scene
from server.config.settings import Config
from testkit.damage import locked_sqlite
from testkit.expansion import expand
from testkit.programs import Program

RATE: Final = 8.0
LEASE_SECONDS: Final = 15.0
"""Shortest lease: none may lapse while eight processes start and stop on two cores. A
session that was not handed back is noticed all the same, only later.
"""


async def finish_rolled(scene: Scene) -> None:
    """Finish; expect that each stopping process told its clients to come back."""
    await scene.finish()
    scene.promises.refusals_have_retry_after(503)
    for loss, count in scene.outcome.losses.items():
        allowed = {4000, 503} if loss.over in PUSHED else {503}
        scene.expect(loss.code in allowed, f"{count} x a client over {loss.over} was cut off by {loss.code}")
    burnt = [session.burnt for session in await scene.sessions()]
    scene.expect(not any(burnt), f"attempts were burnt: {burnt}")


async def rolling(pace: Pace) -> Outcome:
    """Migrate, then replace every worker, then every web process.

    The new process starts before the old one stops; the old ones go on on the new
    schema. Every request is answered.
    """
    lease = max(pace.lease_seconds, LEASE_SECONDS)
    async with running_scene(pace, webs=2, workers=2, lease_seconds=lease) as scene:
        cluster = scene.cluster
        await scene.healthy("redis", "workers")
        old_webs, old_workers = list(cluster.webs), list(cluster.workers)
        async with scene.clients.load(RATE, longest=2.0, cancelled=0.1):
            await scene.until(lambda: len(scene.screens) >= 12)
            await scene.clients.live()
            await expand(Config.load(cluster.environ, env_file=None).database)
            before = len(scene.screens)
            await scene.until(lambda: len(scene.screens) >= before + 8)  # the old ones work on it
            for worker in old_workers:
                await cluster.make_worker().start()
                await cluster.workers_seen(3)
                scene.expect(await worker.terminate(60) == 0, f"{worker.name} did not end well")
            for web in old_webs:
                await cluster.start_web(cluster.make_web())
                await web.terminate(60)
                await scene.outage(pace.outage_seconds / 5)  # its clients come back in their own time
            scene.repaired()
        await finish_rolled(scene)
        scene.promises.still_running(
            *(program for program in (*cluster.webs, *cluster.workers) if program not in old_webs + old_workers)
        )
        scene.promises.nothing_stale()
        scene.note("every process replaced")
    return scene.outcome


async def stopped_while_locked(pace: Pace) -> Outcome:
    """Stop a web process and a worker while no one can write to SQLite.

    Both are gone in time, requests that wait are refused, and others take over.
    """
    async with running_scene(pace, webs=2, workers=2, postgres=False) as scene:
        cluster = scene.cluster
        await scene.healthy("database", "redis", "workers")
        web, worker = cluster.web, cluster.worker
        drain = float(Config.load(cluster.environ, env_file=None).drain_seconds)
        async with scene.clients.load(RATE, longest=2.0):
            await scene.until(lambda: len(scene.screens) >= 12)
            await scene.clients.live()
            scene.began()
            with locked_sqlite(cluster):
                await scene.outage(1.0)  # uploads and ends of sessions wait for the lock
                statuses = await asyncio.gather(_seconds_to_end(web), _seconds_to_end(worker))
                await scene.outage(pace.locked_seconds / 3)
            scene.repaired()
            await cluster.start_web(cluster.make_web())
            await cluster.make_worker().start()
            await scene.healthy("database", "workers")
            scene.recovered()
        await scene.finish(unreadable=True, orphans=True)
        (web_status, web_seconds), (worker_status, worker_seconds) = statuses
        scene.expect(web_status in (0, -signal.SIGTERM), f"{web.name} ended with {web_status}")
        scene.expect(worker_status == 0, f"{worker.name} ended with {worker_status}")
        scene.promises.within(web_seconds, 5.0, "the web process was gone")
        scene.promises.within(worker_seconds, drain + 3.5, "the worker was gone")
        scene.promises.refusals_have_retry_after(503)
        scene.promises.cancels_answered()
        for loss, count in scene.outcome.losses.items():
            allowed = {4000, 4053, 503} if loss.over in PUSHED else {503}
            scene.expect(loss.code in allowed, f"{count} x a client over {loss.over} was cut off by {loss.code}")
        scene.promises.nothing_stale()
        scene.note(f"web process gone after {web_seconds:.2f} s, worker after {worker_seconds:.2f} s")
    return scene.outcome


async def _seconds_to_end(program: Program) -> tuple[int, float]:
    """Stop a program; return its exit status and the time that it took."""
    began = time.monotonic()
    return await program.terminate(60), time.monotonic() - began


ROWS: Final[dict[str, Row]] = {
    "rolling-deploy": Row(
        "A rolling deploy: migrations, then every worker and web process replaced", rolling, sample=True
    ),
    "stopped-while-locked": Row(
        "A web process and a worker are stopped while another program holds SQLite's write lock", stopped_while_locked
    ),
}
