"""Parts of the production form break: a node, the proxy in front, or each in turn.

Clients that lose their connection are back on another node within seconds, miss nothing
and see nothing twice. These rows run behind a proxy only
(``python -m faults matrix --production nginx``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.rows.deploy import LEASE_SECONDS, finish_rolled
from faults.scene import Scene, running_scene

RATE: Final = 4.0
BACK_SECONDS: Final = 5.0
"""Promised time until every client that was cut off is connected again."""
RELOADS: Final = 3


async def _all_back(scene: Scene) -> None:
    """Wait until clients were cut off, and all of them are back; note how long it took.

    Before that :meth:`Scene.repaired` says when they were cut off.
    """
    since = scene.repaired_at
    await scene.until(lambda: scene.clients.lost(since))
    await scene.until(lambda: all(each.connected or each.outcome for each in scene.clients.lost(since)))
    scene.recovered()


def _only_cut_off(scene: Scene) -> None:
    """Expect that uploads were accepted, cut off, or told when to come back."""
    for each in scene.outcome.uploads:
        told = each.status == 503 and each.retry_after is not None
        scene.expect(each.status in (0, 201) or told, f"an upload got {each.status} {each.why}")
    scene.promises.within(scene.outcome.recovery_seconds or 0.0, BACK_SECONDS, "all were back")
    scene.promises.nothing_stale()


async def node_killed(pace: Pace) -> Outcome:
    """Kill one web process, which stays away for a while; the other serves alone."""
    async with running_scene(pace) as scene:
        await scene.healthy("redis", "workers")
        async with scene.clients.load(RATE, longest=pace.outage_seconds):
            await scene.until(lambda: len(scene.screens) >= 8)
            await scene.clients.live()
            for web in scene.cluster.webs:
                scene.repaired()
                await web.kill()
                await _all_back(scene)
                await scene.outage(pace.outage_seconds / 2)
                await scene.cluster.start_web(web)
                await scene.healthy("redis")
        await scene.finish(orphans=True)
        _only_cut_off(scene)
    return scene.outcome


async def proxy_killed(pace: Pace) -> Outcome:
    """Kill the proxy with all of its connections, and start it again."""
    async with running_scene(pace) as scene:
        balancer = scene.cluster.balancer
        assert balancer is not None
        await scene.healthy("redis", "workers")
        async with scene.clients.load(RATE, longest=pace.outage_seconds):
            await scene.until(lambda: len(scene.screens) >= 8)
            await scene.clients.live()
            await balancer.kill()
            await scene.outage(1.0)
            await balancer.start()
            scene.repaired()
            lost = [each for each in scene.screens if not each.connected and not each.outcome]
            scene.expect(bool(lost), "no client was cut off")
            await scene.until(lambda: all(each.connected or each.outcome for each in lost))
            scene.recovered()
        await scene.finish()
        for each in scene.outcome.uploads:
            scene.expect(each.status in (0, 201), f"an upload got {each.status} {each.why}")
        scene.promises.within(scene.outcome.recovery_seconds or 0.0, BACK_SECONDS, "all were back")
        scene.promises.still_running(*scene.cluster.webs, *scene.cluster.workers)
        scene.promises.nothing_stale(BACK_SECONDS + 1.0)  # the proxy was away for a second
    return scene.outcome


async def proxy_reloaded(pace: Pace) -> Outcome:
    """Have the proxy read its configuration again, several times, under load.

    nginx and HAProxy cut no one off. Caddy closes WebSockets, whose clients come back.
    """
    async with running_scene(pace) as scene:
        balancer = scene.cluster.balancer
        assert balancer is not None
        await scene.healthy("redis", "workers")
        async with scene.clients.load(RATE, longest=pace.outage_seconds):
            await scene.until(lambda: len(scene.screens) >= 8)
            await scene.clients.live()
            for _ in range(RELOADS):
                await balancer.reload()
                await scene.outage(pace.outage_seconds / RELOADS)
            scene.repaired()
        await scene.finish()
        scene.promises.uploads_accepted()
        if balancer.kind == "caddy":
            cut = {loss.over for loss in scene.outcome.losses}
            scene.expect(cut <= {"ws"}, f"not only WebSockets were cut off: {cut}")
        else:
            scene.promises.no_connection_lost()
        scene.promises.still_running(*scene.cluster.webs, *scene.cluster.workers)
        scene.promises.nothing_stale()
    return scene.outcome


async def nodes_rolled(pace: Pace) -> Outcome:
    """Restart every worker, then every web process, one after the other, under load.

    No session is lost, no attempt is burnt, and no request fails without a time to come
    back.
    """
    lease = max(pace.lease_seconds, LEASE_SECONDS)
    async with running_scene(pace, lease_seconds=lease) as scene:
        cluster = scene.cluster
        await scene.healthy("redis", "workers")
        async with scene.clients.load(RATE, longest=2.0, cancelled=0.1):
            await scene.until(lambda: len(scene.screens) >= 8)
            await scene.clients.live()
            for worker in cluster.workers:
                scene.expect(await worker.terminate(60) == 0, f"{worker.name} did not end well")
                await worker.start()
                await cluster.workers_seen(len(cluster.workers))
            for web in cluster.webs:
                await web.terminate(60)
                await cluster.start_web(web)
                await scene.outage(pace.outage_seconds / 5)  # its clients come back in their own time
            scene.repaired()
        await finish_rolled(scene)
        scene.promises.nothing_stale()
        scene.note("every process restarted")
    return scene.outcome


@contextlib.asynccontextmanager
async def _without_bucket(pace: Pace) -> AsyncIterator[Scene]:
    """Load the form, break its bucket in the block, and expect a good end.

    Streams stay and uploads are refused with a time to come back. A result that cannot
    be stored is tried again; its session may fail in words, and is never lost.
    """
    async with running_scene(pace, worker_jobs=50, deadline_seconds=120) as scene:
        await scene.healthy("storage", "redis", "workers")
        async with scene.clients.load(RATE, longest=2.0):
            await scene.until(lambda: len(scene.screens) >= 6)
            await scene.clients.live()
            scene.began()
            yield scene
            await scene.healthy("storage")
            scene.recovered()
        await scene.finish(orphans=True)
        scene.promises.streams_stayed()
        for each in scene.outcome.uploads:
            told = each.status in (503, 507) and each.retry_after is not None
            scene.expect(each.status in (0, 201) or told, f"an upload got {each.status} {each.why}")
        scene.promises.fault_was_felt(1.0)
        scene.promises.still_running(*scene.cluster.webs, *scene.cluster.workers)
        scene.promises.within(scene.outcome.recovery_seconds or 0.0, 2 * BACK_SECONDS, "recovery")
        scene.promises.nothing_stale()


async def bucket_killed(pace: Pace) -> Outcome:
    """Kill the S3 server, and start it again with its objects."""
    async with _without_bucket(pace) as scene:
        server = scene.cluster.s3
        assert server is not None
        await asyncio.to_thread(server.kill)
        await scene.outage(pace.outage_seconds)
        await asyncio.to_thread(server.start)
        scene.repaired()
    return scene.outcome


async def bucket_frozen(pace: Pace) -> Outcome:
    """Freeze the S3 server: connections stay open, nothing answers."""
    async with _without_bucket(pace) as scene:
        server = scene.cluster.s3
        assert server is not None
        server.pause()
        await scene.outage(pace.outage_seconds)
        server.resume()
        scene.repaired()
    return scene.outcome


ROWS: Final[dict[str, Row]] = {
    "bucket-killed": Row("The S3 server is killed, and comes back with its objects", bucket_killed),
    "bucket-frozen": Row("The S3 server is frozen (SIGSTOP)", bucket_frozen),
    "node-killed": Row("One web node after the other is killed, and away for a while", node_killed),
    "proxy-killed": Row("The proxy is killed and started again", proxy_killed),
    "proxy-reloaded": Row("The proxy reloads its configuration, again and again", proxy_reloaded),
    "nodes-rolled": Row("Workers and web nodes are restarted one after the other", nodes_rolled),
}
"""Rows that need a proxy in front of several web nodes, or a bucket."""

SQLITE: Final = "is about SQLite; production has PostgreSQL"
ONE_PROCESS: Final = "holds bare sockets against the buffers of one web process, past any proxy"
LOCAL_DISK: Final = "breaks the disk under local storage; production has a bucket"

EXCUSED: Final[dict[str, str]] = {
    "sqlite-locked": SQLITE,
    "stopped-while-locked": SQLITE,
    "worker-killed-unclaimed": SQLITE,
    "clock-set": SQLITE,
    "disk-full-upload": LOCAL_DISK,
    "disk-full-output": LOCAL_DISK,
    "disk-full-everywhere": LOCAL_DISK,
    "storage-read-only": LOCAL_DISK,
    "storage-silent": LOCAL_DISK,
    "descriptors": ONE_PROCESS,
    "web-terminated": ONE_PROCESS,
    "half-open": ONE_PROCESS,
    "stalled-readers": ONE_PROCESS,
    "ping-flood": ONE_PROCESS,
    "web-killed": "is `node-killed` behind a proxy",
    "owner-socket": "is `node-killed` behind a proxy",
    "rolling-deploy": "is `nodes-rolled` behind a proxy: a node restarts in its place",
}
"""Rows of the smallest form that do not apply to production's, and why."""
