"""A web process is killed while it calls an integrator's server.

No webhook is lost; at worst one comes twice, with the same id.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Final

from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.scene import running_scene
from testkit.receivers import receiving

SESSIONS: Final = 6
SECRET: Final = "whsec_" + base64.b64encode(b"faults--" * 4).decode()
PROMISED_SECONDS: Final = 20.0
"""An attempt that was counted is made again 15 s later; the rest is a chore's turn."""


async def killed(pace: Pace) -> Outcome:
    """Kill the web process between a webhook's request and its answer.

    The other sessions end while no web process is there; the worker may call for it.
    """
    async with receiving(b"silence") as receiver:
        settings = {"webhook_url": receiver.url, "webhook_secret": SECRET, "webhook_private": "yes"}
        async with running_scene(pace, **settings) as scene:
            cluster = scene.cluster
            await scene.submit(seconds=0.1)
            await asyncio.gather(*(scene.submit(seconds=2.5) for _ in range(SESSIONS - 1)))
            unanswered = (await receiver.wait_for(1))[0]
            scene.began()
            await cluster.web.kill()
            async with asyncio.timeout(10 * pace.slack):
                while not all(each.status.terminal for each in await scene.sessions()):
                    await asyncio.sleep(0.05)
            await cluster.start_web(cluster.web)
            scene.repaired()
            await receiver.wait_for(1 + SESSIONS, seconds=PROMISED_SECONDS * pace.slack)
            scene.recovered()
            await scene.finish()
            calls = receiver.received[1:]
            ended = {f"{id}-{trail[-1].seq}" for id, trail in (await scene.trails()).items()}
            scene.expect({each.headers["webhook-id"] for each in calls} == ended, "a webhook was lost")
            scene.expect(unanswered.headers["webhook-id"] in ended, "a repeat has another id")
            again = next(each for each in calls if each.headers["webhook-id"] == unanswered.headers["webhook-id"])
            scene.expect(again.message["type"] == unanswered.message["type"], "a repeat says something else")
            scene.promises.within(scene.outcome.recovery_seconds or 0, PROMISED_SECONDS, "the last one came")
            scene.note(f"{len(ended)} webhooks, {len(calls) - len(ended)} more than once")
    return scene.outcome


ROWS: Final[dict[str, Row]] = {
    "webhook-killed": Row("The web process is killed while it calls a webhook, before the answer", killed),
}
"""The rows of the fault matrix, by what breaks."""
