"""Connections to PostgreSQL die without an RST.

The machine at their other end has vanished, or a firewall has forgotten them. Calls are
refused with a time to come back until new connections are open; connected clients stay
connected, and no running session is taken from its worker.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Final

from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.rows.database import without_database
from faults.scene import Scene, running_scene
from testkit.programs import Program
from testkit.proxy import running_proxy
from tryon.protocol.states import Status

STOP_SECONDS: Final = 5.0
"""Promised time from SIGTERM to the end of a process, whatever is unavailable."""


async def failed_over(pace: Pace) -> Outcome:
    """Lose every open connection for good; new ones reach the database at once."""
    async with without_database(pace, felt_seconds=0.5, postgres=True, database_proxy=True) as scene:
        proxy = scene.cluster.database_proxy
        assert proxy is not None
        lost = proxy.black_hole(new=False)
        scene.note(f"{lost} connections lost")
        scene.repaired()
    return scene.outcome


async def black_hole(pace: Pace) -> Outcome:
    """Lose every open connection, and every new one until the network is back."""
    felt = pace.outage_seconds / 2
    async with without_database(pace, felt_seconds=felt, postgres=True, database_proxy=True) as scene:
        proxy = scene.cluster.database_proxy
        assert proxy is not None
        proxy.black_hole()
        await scene.outage(pace.outage_seconds)
        proxy.mend()
        scene.repaired()
    return scene.outcome


async def worker_cut_off(pace: Pace) -> Outcome:
    """Lose the connections of a worker alone, while its sessions run.

    No other process notices, so that none extends its leases: it must renew them over
    new connections itself.
    """
    lease_seconds = pace.steady_lease_seconds
    async with running_scene(pace, workers=0, postgres=True, lease_seconds=lease_seconds) as scene:
        postgres = scene.cluster.postgres
        assert postgres is not None
        async with running_proxy(postgres.port) as proxy:
            worker = scene.cluster.make_worker(database_url=postgres.url("tryon", port=proxy.port))
            await worker.start()
            await scene.cluster.workers_seen(1)
            await scene.healthy("database", "redis", "workers")
            for _ in range(8):
                await scene.submit(seconds=lease_seconds * 1.5)
            await scene.until(lambda: all(each.cursor >= 2 for each in scene.screens))
            scene.began()
            scene.expect(proxy.black_hole(new=False) > 0, "the worker had no connection to lose")
            await scene.finish()
        trails = await scene.trails()
        scene.promises.no_lease_lost(trails)
        scene.promises.no_connection_lost()
        scene.promises.still_running(scene.cluster.web, worker)
        ends = {trail[-1].status for trail in trails.values()}
        scene.expect(ends == {Status.COMPLETED}, f"sessions ended as {ends}")
        scene.promises.nothing_stale()
    return scene.outcome


async def stopped(pace: Pace) -> Outcome:
    """Stop a web process and a worker while no connection answers."""
    async with running_scene(pace, postgres=True, database_proxy=True) as scene:
        await scene.healthy("database", "redis", "workers")
        await scene.submit()
        await scene.until(lambda: scene.screens[0].outcome)
        web, worker, proxy = scene.cluster.web, scene.cluster.worker, scene.cluster.database_proxy
        assert proxy is not None
        scene.began()
        proxy.black_hole()
        await asyncio.gather(*(_stop(scene, each) for each in (web, worker)))
        proxy.mend()
        scene.repaired()
        await scene.cluster.start_web(web)
        await worker.start()
        await scene.healthy("database", "workers")
        scene.recovered()
        await scene.submit()
        await scene.finish()
        scene.promises.nothing_stale()
    return scene.outcome


async def _stop(scene: Scene, program: Program) -> None:
    began = time.monotonic()
    status = await program.terminate()
    seconds = time.monotonic() - began
    scene.promises.within(seconds, STOP_SECONDS, f"the end of {program.name}")
    scene.expect(status in (0, -signal.SIGTERM), f"{program.name} ended with {status}")
    scene.note(f"{program.name} ended after {seconds:.1f} s")


ROWS: Final[dict[str, Row]] = {
    "postgres-failed-over": Row("Every connection to PostgreSQL dies without an RST", failed_over),
    "postgres-black-hole": Row("The network to PostgreSQL swallows everything", black_hole),
    "postgres-worker-cut-off": Row("A worker's connections to PostgreSQL die without an RST", worker_cut_off),
    "postgres-black-hole-stop": Row("Processes are stopped while PostgreSQL is in a black hole", stopped, sample=True),
}
