"""A new release takes over under load, one process at a time.

Old and new serve side by side.
"""

from __future__ import annotations

from typing import Final

from faults.outcome import PUSHED, Outcome, Row
from faults.pace import Pace
from faults.scene import running_scene
from server.config.settings import Config
from testkit.expansion import expand

RATE: Final = 8.0
LEASE_SECONDS: Final = 6.0
"""Shortest lease: no lease may lapse while eight processes start and stop."""


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
        await scene.finish()
        scene.promises.refusals_have_retry_after(503)
        for loss, count in scene.outcome.losses.items():
            allowed = {4000, 503} if loss.over in PUSHED else {503}
            scene.expect(loss.code in allowed, f"{count} x a client over {loss.over} was cut off by {loss.code}")
        burnt = [session.burnt for session in await scene.sessions()]
        scene.expect(not any(burnt), f"attempts were burnt: {burnt}")
        scene.promises.still_running(
            *(program for program in (*cluster.webs, *cluster.workers) if program not in old_webs + old_workers)
        )
        scene.promises.nothing_stale()
        scene.note("every process replaced")
    return scene.outcome


ROWS: Final[dict[str, Row]] = {
    "rolling-deploy": Row(
        "A rolling deploy: migrations, then every worker and web process replaced", rolling, sample=True
    ),
}
