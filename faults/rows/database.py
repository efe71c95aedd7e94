"""The database cannot be used for a while.

Calls that need them are refused with a time to come back; connected clients stay
connected; and nothing is wrong afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.scene import Scene, running_scene
from testkit.damage import exhausted_postgres, locked_sqlite, restart_postgres

RATE: Final = 4.0
SLOTS: Final[dict[str, Any]] = {"worker_jobs": 200}
"""Load low enough that recovery is the product's, not the time to work off what queued
up.
"""

LEASE_SECONDS: Final = 4.0
"""Shortest lease: a shorter one lapses by itself on a busy machine, a longer one
outlasts the outages of scaled rows, which then show nothing.
"""


@contextlib.asynccontextmanager
async def without_database(pace: Pace, *, felt_seconds: float, **cluster: Any) -> AsyncIterator[Scene]:
    """Load a cluster, break its database in the block, and expect a good end.

    ``felt_seconds``: a client waits for this long, if none is refused.
    """
    lease_seconds = max(LEASE_SECONDS, pace.lease_seconds)
    async with running_scene(pace, **SLOTS, **cluster, lease_seconds=lease_seconds) as scene:
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
    async with without_database(pace, felt_seconds=pace.locked_seconds / 2, postgres=False) as scene:
        with locked_sqlite(scene.cluster):
            await scene.outage(pace.locked_seconds)
        scene.repaired()
    return scene.outcome


async def restarted(pace: Pace) -> Outcome:
    """Restart PostgreSQL three times (``pg_ctl restart -m immediate``).

    Every connection dies without a word, and the server recovers from its log.
    """
    async with without_database(pace, felt_seconds=0.0, postgres=True) as scene:
        for _ in range(3):
            await scene.outage(pace.outage_seconds / 3)
            await restart_postgres(scene.cluster)
        scene.repaired()
    return scene.outcome


async def gone(pace: Pace) -> Outcome:
    """Kill PostgreSQL for a while: connections are refused."""
    async with without_database(pace, felt_seconds=pace.outage_seconds / 2, postgres=True) as scene:
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
    async with without_database(pace, felt_seconds=pace.outage_seconds / 2, postgres=True) as scene:
        assert scene.cluster.postgres is not None
        scene.cluster.postgres.pause()
        await scene.outage(pace.outage_seconds)
        scene.cluster.postgres.resume()
        scene.repaired()
    return scene.outcome


async def exhausted(pace: Pace) -> Outcome:
    """Hold every connection that PostgreSQL has to give."""
    few = {"max_connections": "30"}
    async with without_database(pace, felt_seconds=pace.locked_seconds / 2, postgres=few) as scene:
        async with exhausted_postgres(scene.cluster):
            await scene.outage(pace.locked_seconds)
        scene.repaired()
    return scene.outcome


ROWS: Final[dict[str, Row]] = {
    "sqlite-locked": Row("SQLite is locked by another process", locked, sample=True),
    "postgres-restarted": Row("PostgreSQL is restarted (`-m immediate`)", restarted),
    "postgres-gone": Row("PostgreSQL is unavailable: connections are refused", gone),
    "postgres-frozen": Row("PostgreSQL is frozen (SIGSTOP)", frozen),
    "postgres-exhausted": Row("All of PostgreSQL's connections are taken", exhausted),
}
