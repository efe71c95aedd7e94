"""Wrong clocks (libfaketime).

Machines are two days apart, or the clock of one machine is set while it works.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from faults import form
from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.scene import Scene, running_scene
from testkit.clocks import own_clock
from tryon.protocol.paths import SESSIONS

RATE: Final = 4.0
HOURS: Final = 25
BUCKET_MINUTES: Final = 14
"""Furthest from a bucket's clock: S3 refuses what was signed more than 15 minutes off
(RequestTimeTooSkewed).
"""
DAYS_SECONDS: Final = 10 * 86400.0
"""Seconds by which sessions may outlive their time of the calendar."""


async def apart(pace: Pace) -> Outcome:
    """Run two web processes and two workers on PostgreSQL, one pair two days ahead.

    With a bucket the pairs are half an hour apart. The cleanup works meanwhile.
    """
    offset = f"{BUCKET_MINUTES}m" if "s3" in form.chosen() else f"{HOURS}h"
    clocks = [own_clock() | {"FAKETIME": f"{sign}{offset}"} for sign in "+-"]
    lease = pace.steady_lease_seconds
    async with running_scene(pace, webs=0, workers=0, postgres=True, cleanup_seconds=1, lease_seconds=lease) as scene:
        cluster = scene.cluster
        for clock in clocks:
            await cluster.make_worker(clock).start()
            await cluster.start_web(cluster.make_web(clock))
        await cluster.workers_seen(2)
        await scene.healthy("redis", "workers")
        async with scene.clients.load(RATE, cancelled=0.1):
            await scene.outage(pace.outage_seconds)
        scene.repaired()
        await scene.finish()
        scene.promises.no_lease_lost(await scene.trails())
        await _everything_is_there(scene)
        scene.promises.no_connection_lost()
        scene.promises.uploads_accepted()
        scene.promises.still_running(*cluster.webs, *cluster.workers)
        scene.promises.nothing_stale()
    return scene.outcome


async def _everything_is_there(scene: Scene) -> None:
    """Expect each session with its files, and every ticket and link honoured.

    It does not matter which process signed them.
    """
    line = scene.clients.network.line(0)
    paths = [f"{SESSIONS}/{made['session_id']}?{made['links']['ws'].partition('?')[2]}" for made in scene.clients.made]
    opened = [await line.request("GET", path) for path in paths]
    refused = [answer.status for answer in opened if answer.status != 200]
    scene.expect(not refused, f"{len(refused)} of {len(paths)} valid tickets were refused: {refused}")
    links = [
        link
        for answer in opened
        if answer.status == 200
        for role, link in answer.json()["links"].items()
        if role in ("input", "output") and link is not None
    ]
    files = [(await line.request("GET", link)).status for link in links]
    gone = [status for status in files if status != 200]
    scene.expect(not gone, f"{len(gone)} of {len(files)} files could not be opened: {gone}")
    scene.note(f"{len(paths)} tickets and {len(files)} links honoured")


async def jumps(pace: Pace) -> Outcome:
    """Set the clock of a single machine (SQLite) a day forward and back.

    Sessions run meanwhile.
    """
    lasts = {"deadline_seconds": DAYS_SECONDS, "retention_seconds": DAYS_SECONDS}
    lease = pace.steady_lease_seconds
    async with running_scene(pace, webs=0, workers=0, lease_seconds=lease, **lasts) as scene:
        cluster = scene.cluster
        clock = own_clock() | {"FAKETIME_TIMESTAMP_FILE": str(cluster.folder / "clock")}
        _set_clock(cluster.folder, "+0")
        await cluster.make_worker(clock).start()
        await cluster.start_web(cluster.make_web(clock))
        await cluster.workers_seen(1)
        made = await asyncio.gather(*(scene.clients.upload(seconds=lease) for _ in range(8)))
        screens = [scene.clients.follow(*each) for each in made if each is not None]
        await scene.until(lambda: all(each.cursor >= 2 for each in screens))
        for offset in (f"+{HOURS}h", "+0"):
            _set_clock(cluster.folder, offset)
            await scene.outage(lease / 3)
        await scene.submit()
        await scene.finish()
        trails = await scene.trails()
        stories = {tuple(event.event.value for event in trail) for trail in trails.values()}
        scene.expect(stories == {("created", "processing", "completed")}, f"sessions went {stories}")
        scene.promises.no_connection_lost()
        scene.promises.still_running(*cluster.webs, *cluster.workers)
        scene.outcome.stale_seconds = 0.0  # no clock is left to measure it by
        scene.note(f"{len(trails)} sessions ran once")
    return scene.outcome


def _set_clock(folder: Path, offset: str) -> None:
    """Set the clock of every process that reads this file; at once, and never half."""
    written = folder / "clock.new"
    written.write_text(f"{offset}\n")
    written.replace(folder / "clock")


ROWS: Final[dict[str, Row]] = {
    "clocks-apart": Row("Clocks of web and worker machines are two days apart (PostgreSQL)", apart),
    "clock-set": Row("The clock of a machine is set a day forward, and back (SQLite)", jumps, sample=True),
}
