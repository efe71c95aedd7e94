"""The database or the disk cannot be used for a while.

Calls that need them are refused with a time to come back; connected clients stay
connected; and nothing is wrong afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from faults.evidence import terminal
from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.scene import Scene, running_scene
from testkit.damage import exhausted_postgres, full_disk, locked_sqlite, restart_postgres
from tryon.protocol.states import Status

RATE: Final = 4.0
SLOTS: Final[dict[str, Any]] = {"worker_jobs": 200}
"""Load low enough that recovery is the product's, not the time to work off what queued
up.
"""


@contextlib.asynccontextmanager
async def _without_database(pace: Pace, *, felt_seconds: float, **cluster: Any) -> AsyncIterator[Scene]:
    """Load a cluster, break its database in the block, and expect a good end.

    ``felt_seconds``: a client waits for this long, if none is refused.
    """
    async with running_scene(pace, **SLOTS, **cluster) as scene:
        await scene.healthy("database", "redis", "workers")
        async with scene.clients.load(RATE, longest=2.0):
            await scene.until(lambda: len(scene.screens) >= 6)
            await scene.clients.live()
            scene.began()
            yield scene
            await scene.healthy("database")
            scene.recovered()
        await scene.finish(unreadable=True)
        trails = await scene.trails()
        scene.promises.resumed(trails)
        scene.promises.no_lease_lost(trails)
        scene.promises.streams_stayed()
        scene.promises.refusals_have_retry_after(503)
        scene.promises.losses_mean_unavailable()
        scene.promises.cancels_answered()
        scene.promises.fault_was_felt(felt_seconds)
        scene.promises.still_running(*scene.cluster.webs, *scene.cluster.workers)
        scene.promises.within(scene.outcome.recovery_seconds or 0.0, 10.0, "recovery")
        scene.promises.nothing_stale()


async def locked(pace: Pace) -> Outcome:
    async with _without_database(pace, felt_seconds=pace.locked_seconds / 2) as scene:
        with locked_sqlite(scene.cluster):
            await scene.outage(pace.locked_seconds)
        scene.repaired()
    return scene.outcome


async def restarted(pace: Pace) -> Outcome:
    """Restart PostgreSQL three times (``pg_ctl restart -m immediate``).

    Every connection dies without a word, and the server recovers from its log.
    """
    async with _without_database(pace, felt_seconds=0.0, postgres=True) as scene:
        for _ in range(3):
            await scene.outage(pace.outage_seconds / 3)
            await restart_postgres(scene.cluster)
        scene.repaired()
    return scene.outcome


async def gone(pace: Pace) -> Outcome:
    """Kill PostgreSQL for a while: connections are refused."""
    async with _without_database(pace, felt_seconds=pace.outage_seconds / 2, postgres=True) as scene:
        assert scene.cluster.postgres is not None
        await asyncio.to_thread(scene.cluster.postgres.kill)
        await scene.outage(pace.outage_seconds)
        await asyncio.to_thread(scene.cluster.postgres.start_again)
        scene.repaired()
    return scene.outcome


async def frozen(pace: Pace) -> Outcome:
    """Freeze every process of PostgreSQL.

    Connections stay open and nothing answers.
    """
    async with _without_database(pace, felt_seconds=pace.outage_seconds / 2, postgres=True) as scene:
        assert scene.cluster.postgres is not None
        scene.cluster.postgres.pause()
        await scene.outage(pace.outage_seconds)
        scene.cluster.postgres.resume()
        scene.repaired()
    return scene.outcome


async def exhausted(pace: Pace) -> Outcome:
    """Hold every connection that PostgreSQL has to give."""
    few = {"max_connections": "30"}
    async with _without_database(pace, felt_seconds=pace.locked_seconds / 2, postgres=few) as scene:
        async with exhausted_postgres(scene.cluster):
            await scene.outage(pace.locked_seconds)
        scene.repaired()
    return scene.outcome


async def disk_full_upload(pace: Pace) -> Outcome:
    """Fill the disk for a photo: 507, and nothing is left of it."""
    async with running_scene(pace, disk_bytes=2**20) as scene:
        await scene.healthy("storage", "workers")
        await scene.submit()
        await scene.until(lambda: scene.screens[0].outcome)
        with full_disk(scene.cluster):
            before = await scene.sessions()
            for _ in range(5):
                scene.expect(
                    await scene.clients.upload(patient=False) is None, "an upload was taken with the disk full"
                )
            scene.expect(len(await scene.sessions()) == len(before), "a refused upload has a row")
        scene.repaired()
        again = await scene.clients.upload()
        scene.recovered()
        assert again is not None
        scene.clients.follow(*again)
        await scene.finish()
        for each in scene.outcome.uploads[1:6]:
            scene.expect(each.status == 507, f"an upload got {each.status} {each.why}, not 507")
        scene.outcome.notes.append("507 `storage_full`, nothing left")
        scene.promises.no_connection_lost()
        scene.promises.still_running(scene.cluster.web, scene.cluster.worker)
        scene.promises.nothing_stale()
    return scene.outcome


async def disk_full_output(pace: Pace) -> Outcome:
    """Fill the disk for a result.

    The worker tries again for some seconds, then the session fails; if there is room by
    then, it ends well.
    """
    async with running_scene(pace, disk_bytes=2**20) as scene:
        await scene.healthy("storage", "workers")
        made = await asyncio.gather(*(scene.clients.upload(seconds=2.0) for _ in range(4)))
        with full_disk(scene.cluster):
            for each in made:
                assert each is not None
                scene.clients.follow(*each)
            await scene.until(lambda: all(each.outcome for each in scene.screens))
        patient = await scene.submit(seconds=1.0)
        with full_disk(scene.cluster):
            await scene.until(lambda: scene.screens[-1].cursor >= 2)
            await scene.outage(2.0)  # it has found the disk full by now
        scene.repaired()
        await scene.finish()
        scene.recovered()
        trails = await scene.trails()
        for session, _ in filter(None, made):
            last = trails[session["session_id"]][-1]
            ended = (last.status, last.data.get("error", {}).get("code"))
            scene.expect(ended == (Status.FAILED, "storage_full"), f"with the disk full it ended as {ended}")
        patiently = terminal(trails[patient.session])
        scene.expect(patiently is Status.COMPLETED, f"with room again it ended as {patiently}")
        scene.note("`failed: storage_full` after 3.5 s, `completed` if there is room by then")
        scene.promises.no_connection_lost()
        scene.promises.still_running(scene.cluster.web, scene.cluster.worker)
        scene.promises.nothing_stale()
    return scene.outcome


ROWS: Final[dict[str, Row]] = {
    "sqlite-locked": Row("SQLite is locked by another process", locked, sample=True),
    "postgres-restarted": Row("PostgreSQL is restarted (`-m immediate`)", restarted),
    "postgres-gone": Row("PostgreSQL is unavailable: connections are refused", gone),
    "postgres-frozen": Row("PostgreSQL is frozen (SIGSTOP)", frozen),
    "postgres-exhausted": Row("All of PostgreSQL's connections are taken", exhausted),
    "disk-full-upload": Row("No room for a photo", disk_full_upload, sample=True),
    "disk-full-output": Row("No room for a result", disk_full_output),
}
