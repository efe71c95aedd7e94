"""The disk is full: under the photos alone, or under everything."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from faults.evidence import terminal
from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.scene import Scene, running_scene
from testkit.damage import fill_up, full_disk
from testkit.photos import photo
from tryon.protocol.paths import SESSIONS
from tryon.protocol.states import Status

DISK_BYTES: Final = 48 * 2**20


async def full_for_uploads(pace: Pace) -> Outcome:
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


async def full_for_results(pace: Pace) -> Outcome:
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


async def full_everywhere(pace: Pace) -> Outcome:
    """Fill the whole data directory while sessions run, and whatever is freed since.

    No process dies. Uploads get 507, running sessions fail as `storage_full` on their
    screens, DELETE erases, and everything goes on as soon as there is room.
    """
    async with running_scene(pace, disk_bytes=DISK_BYTES, whole_disk=True, webs=2) as scene:
        await scene.healthy("storage", "redis", "workers")
        deleted = await _uploaded(scene)
        await asyncio.gather(*(scene.submit(seconds=2.0) for _ in range(8)))
        await scene.until(lambda: all(screen.cursor >= 2 for screen in scene.screens))
        scene.began()
        with full_disk(scene.cluster):
            until = asyncio.get_running_loop().time() + pace.outage_seconds
            while asyncio.get_running_loop().time() < until or not all(screen.outcome for screen in scene.screens):
                fill_up(scene.cluster)
                scene.expect(not _maps(scene.cluster.data), "this process would die of SIGBUS, not the product")
                scene.expect(await scene.clients.upload(patient=False) is None, "an upload was taken on a full disk")
                await scene.metric("tryon_http_requests_total")  # its files are on that disk
                await asyncio.sleep(0.5)
            fill_up(scene.cluster)
            await _erased(scene, *deleted)
        scene.repaired()
        again = await scene.clients.upload()
        scene.recovered()
        assert again is not None
        scene.clients.follow(*again)
        await scene.healthy("storage", "redis", "workers")
        await scene.finish()
        trails = await scene.trails()
        ends = [(terminal(trail), trail[-1].data.get("error", {}).get("code")) for trail in trails.values()]
        scene.expect(
            ends.count((Status.FAILED, "storage_full")) == 8 and ends.count((Status.COMPLETED, None)) == 1,
            f"sessions ended as {ends}",
        )
        refusals = {each.status for each in scene.outcome.uploads if each.status != 201}
        scene.expect(refusals == {507}, f"uploads got {refusals}, not 507")
        scene.note("507; running sessions `failed: storage_full`; DELETE works; nothing dies")
        scene.promises.no_connection_lost()
        scene.promises.still_running(*scene.cluster.webs, *scene.cluster.workers)
        scene.promises.within(scene.outcome.recovery_seconds or 0.0, 5.0, "recovery")
        scene.promises.nothing_stale()
    return scene.outcome


async def _uploaded(scene: Scene) -> tuple[str, dict[str, str]]:
    """Upload a session for :func:`_erased`; return its URL and its owner's header."""
    made = await scene.http.post(scene.cluster.url + SESSIONS, files={"image": photo()}, data={"params": "{}"})
    session = made.json()
    return f"{scene.cluster.url}{SESSIONS}/{session['session_id']}", {"X-Client-Token": session["client_token"]}


def _maps(folder: Path) -> bool:
    """Return whether this process has mapped a file of a folder (proc(5))."""
    return f" {folder}/" in Path("/proc/self/maps").read_text()


async def _erased(scene: Scene, url: str, token: dict[str, str]) -> None:
    erased = await scene.http.delete(url, headers=token)
    scene.expect(erased.status_code == 200, f"DELETE got {erased.status_code} on a full disk")
    looked = await scene.http.get(url, headers=token)
    scene.expect(looked.status_code == 404, f"an erased session got {looked.status_code}")


ROWS: Final[dict[str, Row]] = {
    "disk-full-upload": Row("No room for a photo", full_for_uploads, sample=True),
    "disk-full-output": Row("No room for a result", full_for_results),
    "disk-full-everywhere": Row("The disk is full everywhere: photos, database, Redis, metrics", full_everywhere),
}
