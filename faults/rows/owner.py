"""What serves the connection of all of an owner's sessions is killed.

Its clients come back by themselves, and each session's story stays whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Final

from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.scene import Scene, running_scene
from testkit.photos import photo
from tryon.client.api import AsyncTryOn
from tryon.client.watching import WATCH_TRANSPORTS, Erased

OWNERS_EACH: Final = 2
"""Owners over each transport."""
SESSIONS: Final = 4
"""Sessions that each owner uploads at a time."""
RATE: Final = 4.0
SEEN_SECONDS: Final = 30.0
"""Longest time until a watcher has seen what it waits for."""


class Owner:
    """A client that watches all of its sessions, and what it was told of them."""

    def __init__(self, scene: Scene, client: AsyncTryOn, transport: str) -> None:
        self.transport = transport
        self.uploaded: list[str] = []
        self.seqs: defaultdict[str, list[int]] = defaultdict(list)
        self.shown: defaultdict[str, list[int]] = defaultdict(list)
        self.ended: set[str] = set()
        self._scene = scene
        self._client = client

    def __repr__(self) -> str:
        return f"<Owner over {self.transport}: {len(self.ended)} of {len(self.uploaded)} ended>"

    async def watch(self) -> None:
        """Note what the client yields, until it is cancelled."""
        async with contextlib.aclosing(self._client.watch_all(transports=(self.transport,))) as updates:
            async for update in updates:
                if isinstance(update, Erased):
                    self._scene.expect(False, f"{update.session_id} was erased")
                    continue
                session = update.session
                self.shown[session.session_id].append(session.seq)
                if update.event is not None:
                    self.seqs[session.session_id].append(update.event.seq)
                if update.terminal:
                    self.ended.add(session.session_id)

    async def upload(self, seconds: float) -> None:
        """Upload sessions that take so long, one after the other."""
        for _ in range(SESSIONS):
            session = await self._client.upload(photo(), params={"seconds": seconds})
            self.uploaded.append(session.session_id)
            self._scene.props.append(session.session_id)

    async def sees(self, ids: set[str]) -> None:
        """Wait until it was told of these sessions. Raises TimeoutError."""
        await self._scene.until(lambda: ids <= set(self.seqs), SEEN_SECONDS)

    async def judge(self) -> None:
        """Wait for all ends; expect each story whole, and no step back."""
        with contextlib.suppress(TimeoutError):
            await self._scene.until(lambda: set(self.uploaded) <= self.ended)
        for session_id in self.uploaded:
            trail = [event.seq for event in (await self._client.history(session_id)).events]
            seen, shown = self.seqs[session_id], self.shown[session_id]
            self._scene.expect(seen == trail, f"{session_id} over {self.transport}: {seen} instead of {trail}")
            self._scene.expect(shown == sorted(shown), f"{session_id} over {self.transport}: a step back in {shown}")


@contextlib.asynccontextmanager
async def watching(scene: Scene) -> AsyncIterator[list[Owner]]:
    """Start the owners' watchers; they are closed in the end."""
    async with contextlib.AsyncExitStack() as stack:
        owners: list[Owner] = []
        for transport in WATCH_TRANSPORTS * OWNERS_EACH:
            client = await stack.enter_async_context(AsyncTryOn(scene.cluster.url, attempts=8, trust_env=False))
            owners.append(Owner(scene, client, transport))
        tasks = [asyncio.create_task(owner.watch(), name=repr(owner)) for owner in owners]
        try:
            yield owners
        finally:
            for task in tasks:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                scene.expect(isinstance(ended, asyncio.CancelledError), f"a watcher ended: {ended!r}")


async def killed(pace: Pace) -> Outcome:
    """Kill one web process, then the other, while owners watch all their sessions."""
    async with running_scene(pace, webs=2) as scene, watching(scene) as owners:
        await scene.healthy("redis", "workers")
        async with scene.clients.load(RATE, longest=pace.outage_seconds):
            for web in scene.cluster.webs:
                await asyncio.gather(*(owner.upload(pace.outage_seconds) for owner in owners))
                await asyncio.gather(*(owner.sees(set(owner.uploaded)) for owner in owners))
                scene.repaired()
                began = time.monotonic()
                await web.kill()
                await asyncio.gather(*(owner.upload(0.2) for owner in owners))
                await asyncio.gather(*(owner.sees(set(owner.uploaded)) for owner in owners))
                scene.recovered()
                scene.note(f"all owners live again after {time.monotonic() - began:.2f} s, uploads included")
                await scene.cluster.start_web(web)
        for owner in owners:
            await owner.judge()
        await scene.finish(orphans=True)
        count = sum(len(owner.uploaded) for owner in owners)
        scene.note(f"{count} sessions of {len(owners)} owners over {', '.join(WATCH_TRANSPORTS)}")
        scene.promises.nothing_stale()
    return scene.outcome


ROWS: Final[dict[str, Row]] = {
    "owner-socket": Row("What serves the connection of all of an owner's sessions is killed under load", killed),
}
