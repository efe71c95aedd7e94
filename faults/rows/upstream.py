"""The server that does a processor's work is busy, or away for a while.

Its sessions wait, none is paid for twice, and no attempt is burnt.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from faults import evidence
from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.scene import Scene, running_scene
from testkit.damage import freeze
from testkit.model_host import ModelHost
from testkit.upstreams import Reply
from tryon.protocol.paths import SESSIONS as SESSIONS_PATH
from tryon.protocol.states import Event, Status

SESSIONS: Final = 6
POLL_SECONDS: Final = 0.2
CLEANED: Final = 90.0
"""Seconds until a cleanup that was cut off has been run again."""


def _options(host: ModelHost) -> dict[str, Any]:
    """Return the settings of a cluster whose model is this host."""
    options = host.options()
    options["poll"] |= {"every": POLL_SECONDS}
    return {"processor": "httpjob", "processor_options": json.dumps(options)}


async def _uploaded(scene: Scene) -> None:
    for _ in range(SESSIONS):
        await scene.submit()


async def _good_ending(scene: Scene, host: ModelHost, *, attempts: int = 1) -> None:
    """Expect that every session completed, and was paid for once.

    ``attempts``: the most that one may have taken.
    """
    await scene.finish()
    for session_id, trail in (await scene.trails()).items():
        scene.expect(trail[-1].status is Status.COMPLETED, f"{session_id} ended as {trail[-1].status}")
        starts = sum(event.event is Event.PROCESSING for event in trail)
        scene.expect(starts <= attempts, f"{session_id} took {starts} attempts")
    scene.expect(len(host.works) == SESSIONS, f"{len(host.works)} pieces of work were paid for")
    scene.promises.no_connection_lost()
    scene.promises.still_running(*scene.cluster.webs)


async def busy(pace: Pace) -> Outcome:
    """Answer every submission with 429 for a while."""
    async with ModelHost() as host, running_scene(pace, **_options(host)) as scene:
        host.refusal = Reply.of({"error": "busy"}, 429, Retry_After="1")
        await _uploaded(scene)
        await scene.until(lambda: len(host.server.asked("POST", "/jobs")) >= 2 * SESSIONS)
        refused = len(host.server.asked("POST", "/jobs"))
        host.refusal = None
        scene.repaired()
        await _good_ending(scene, host)
        scene.note(f"{refused} submissions were refused")
    return scene.outcome


async def away(pace: Pace) -> Outcome:
    """Cut every connection to the upstream off while it works."""
    async with ModelHost(polls=20) as host, running_scene(pace, **_options(host)) as scene:
        await _uploaded(scene)
        await scene.until(lambda: len(host.works) == SESSIONS and all(each.polls > 1 for each in host.works.values()))
        scene.began()
        host.refusal = Reply(body=b"{", length=9)
        await scene.outage(1.0)
        host.refusal = None
        scene.repaired()
        await _good_ending(scene, host)
    return scene.outcome


async def worker_killed(pace: Pace) -> Outcome:
    """Kill the worker that waits for work that is paid for."""
    async with ModelHost(polls=None) as host, running_scene(pace, workers=2, **_options(host)) as scene:
        one, other = scene.cluster.workers
        await freeze(scene.cluster, other)
        await _uploaded(scene)
        await scene.until(lambda: len(host.works) == SESSIONS and all(each.polls > 1 for each in host.works.values()))
        other.thaw()
        await one.kill()
        scene.repaired()
        host.polls = 0
        await _good_ending(scene, host, attempts=2)
    return scene.outcome


async def cleanup_killed(pace: Pace) -> Outcome:
    """Kill the worker in the middle of a cancel and of a forget."""
    async with ModelHost(polls=None) as host, running_scene(pace, workers=2, **_options(host)) as scene:
        one, other = scene.cluster.workers
        await freeze(scene.cluster, other)
        made = [made for made in [await scene.clients.upload() for _ in range(2)] if made is not None]
        await scene.until(lambda: len(host.works) == 2 and all(each.polls > 1 for each in host.works.values()))
        host.stuck = True
        (erased, token), cancelled = made
        path, mine = f"{scene.cluster.url}{SESSIONS_PATH}/{erased['session_id']}", {"Authorization": f"Bearer {token}"}
        answer = await scene.http.delete(path, headers=mine)
        scene.expect(answer.json().get("upstream") == "pending", f"the receipt says {answer.text}")
        await scene.clients.cancel(*cancelled)
        await scene.until(lambda: len(host.waiting) == 2)
        scene.began()
        await one.kill()
        host.stuck = False
        other.thaw()
        scene.repaired()
        await scene.until(lambda: {each.state for each in host.works.values()} == {"forgotten", "cancelled"}, CLEANED)
        scene.recovered()
        scene.promises.within(scene.outcome.recovery_seconds or 0.0, 65.0, "the cleanup was run again")
        async with asyncio.timeout(CLEANED):
            while await evidence.cleanups(scene.cluster):  # the row goes after the answer
                await asyncio.sleep(0.1)
        scene.expect(len(host.works) == 2, f"{len(host.works)} pieces of work were paid for")
        scene.promises.still_running(*scene.cluster.webs, other)
        scene.outcome.sessions = len(made)
    return scene.outcome


ROWS: Final[dict[str, Row]] = {
    "upstream-busy": Row("A processor's upstream is busy (429) for a while", busy),
    "upstream-away": Row("A processor's upstream cannot be reached for a while, at work", away),
    "upstream-worker-killed": Row("A worker is killed while an upstream works for it", worker_killed),
    "upstream-cleanup-killed": Row("A worker is killed in the middle of a cancel or a forget", cleanup_killed),
}
"""The rows of the fault matrix, by what breaks."""
