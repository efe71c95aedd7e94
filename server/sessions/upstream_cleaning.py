"""Cleanups: stop or delete upstream what sessions have left there, after their end.

The reconciler enqueues a job for each that is due; a worker does it, and removes the
row when the upstream has answered. Until then it is tried again, later and later, and
no longer than the session would have lived.

A cleanup is the work of the processor that has begun what is upstream. If no living
worker has that one, because it was taken out of ``TRYON_PROCESSOR``, the row waits
for it, and no attempt is counted.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from server.adapters.database.cleanups import Cleanup, CleanupKind, Cleanups
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue
from server.domain.upstream import UpstreamWork
from server.sessions.checkpoints import Checkpoints
from server.sessions.processors import ProcessorDirectory
from server.telemetry.once import Once

log = logging.getLogger("tryon.sessions")

AT_ONCE: Final = 100
"""Cleanups that a pass enqueues."""

PAUSE_SECONDS: Final = 60.0
"""Time until the second attempt if nothing is heard of the first, longer than that may
take; each pause after it is twice as long.
"""

FAILED_SECONDS: Final = 4.0
"""Time until the second attempt after a first one that has failed; each pause after it
is twice as long.
"""

MAX_PAUSE_SECONDS: Final = 1800.0

HELD_SECONDS: Final = 10.0
"""Time until it is looked again for a worker with the processor of a cleanup."""

MAX_PAGES: Final = 20
"""Pages of cleanups without a worker that a pass reads."""

Upstream = Literal["none", "pending", "deleted", "kept"]
"""Words of a receipt about the upstream: it was given nothing, is to delete it, has, or
cannot be told to.
"""


@dataclass(frozen=True, slots=True)
class DueCleanup:
    """A cleanup for a worker: the work, and what to do with it."""

    id: str
    kind: CleanupKind
    work: UpstreamWork
    attempts: int


class UpstreamCleaning:
    """Enqueues cleanups, and keeps what is left of them.

    State: the processors whose lack was logged.
    """

    def __init__(
        self, *, cleanups: Cleanups, checkpoints: Checkpoints, queue: ArqQueue, processors: ProcessorDirectory
    ) -> None:
        self._cleanups = cleanups
        self._checkpoints = checkpoints
        self._queue = queue
        self._processors = processors
        self._lacking = Once()

    async def enqueue_due(self) -> None:
        """Enqueue a job for each cleanup that is due. Raises Unavailable.

        A job that Redis loses is enqueued again after the pause. While workers live and
        none has the processor of a cleanup, it is looked at again later.
        """
        for _ in range(MAX_PAGES):
            if await self._enqueue(await self._cleanups.due(limit=AT_ONCE)) < AT_ONCE:
                return

    async def enqueue_new(self, works: Mapping[str, str]) -> None:
        """Enqueue the jobs of cleanups that an erasure has just added.

        ``works``: encrypted checkpoints by their ids; the reconciler sees to those
        beyond :data:`AT_ONCE`. Raises Unavailable.
        """
        new = itertools.islice(works.items(), AT_ONCE)
        await self._enqueue([Cleanup(each, CleanupKind.FORGET, work, attempts=0) for each, work in new])

    async def _enqueue(self, page: Sequence[Cleanup]) -> int:
        """Enqueue those that a worker may do; return the number of the others."""
        running = await self._processors.running() if page else set()
        held = [each for each in page if running and not self._has_worker(each, running)]
        if held:
            await self._cleanups.postpone([each.id for each in held], seconds=HELD_SECONDS)
        for cleanup in page:
            if cleanup not in held and await self._begin(cleanup):
                try:
                    await self._queue.enqueue_cleanup(cleanup.id, cleanup.attempts + 1)
                except QueueUnavailable:
                    break
        return len(held)

    async def _begin(self, cleanup: Cleanup) -> bool:
        return await self._cleanups.begin(cleanup, pause_seconds=_pause(PAUSE_SECONDS, cleanup.attempts))

    def _has_worker(self, cleanup: Cleanup, running: Collection[str]) -> bool:
        work = self._checkpoints.opened(cleanup.work)
        if work is not None and work.processor not in running:
            self._note_lack(work.processor)
            return False
        if work is not None and self._lacking.over(work.processor):
            log.info("Work upstream of %s is cleaned up again: a worker has this processor", work.processor)
        return True

    def _note_lack(self, processor: str) -> None:
        if self._lacking.first(processor):
            log.warning(
                "Work upstream of %s is not cleaned up for now: no worker has this processor. Start one with "
                "TRYON_PROCESSOR=…,%s, or delete by hand what is kept there",
                *(processor, processor),
            )

    async def remove_overdue(self) -> None:
        """Give up the cleanups whose time is over. Raises Unavailable."""
        if count := await self._cleanups.remove_overdue():
            log.warning("Gave up %d cleanups of work upstream: their time is over", count)

    async def begin(self, cleanup_id: str) -> DueCleanup | None:
        """Return a cleanup for the worker that runs its job; None if it is done.

        Raises Unavailable.
        """
        cleanup = await self._cleanups.get(cleanup_id)
        work = None if cleanup is None else self._checkpoints.opened(cleanup.work)
        return None if cleanup is None or work is None else DueCleanup(cleanup.id, cleanup.kind, work, cleanup.attempts)

    async def hold(self, cleanup: DueCleanup) -> None:
        """Leave a cleanup to a worker that has its processor. Raises Unavailable.

        The attempt that was counted for its job was none.
        """
        await self._cleanups.take_back_attempt(cleanup.id, attempts=cleanup.attempts, seconds=HELD_SECONDS)

    async def failed(self, cleanup: DueCleanup) -> None:
        """Let a cleanup that has failed be tried again soon. Raises Unavailable."""
        pause = _pause(FAILED_SECONDS, max(0, cleanup.attempts - 1))
        await self._cleanups.postpone([cleanup.id], seconds=pause)

    async def done(self, cleanup: DueCleanup) -> None:
        """Remove a cleanup that the upstream has answered. Raises Unavailable."""
        await self._cleanups.remove(cleanup.id)
        log.info("Cleaned up work upstream: %s by %s", cleanup.kind, cleanup.work.processor)

    async def state_of(self, works: Mapping[str, str]) -> Upstream:
        """Return what a receipt says of cleanups: encrypted checkpoints by their ids.

        Raises Unavailable.
        """
        if not works:
            return "none"
        opened = [self._checkpoints.opened(work) for work in works.values()]
        if any(work is None or not work.deletable for work in opened):  # what is not decrypted is not deleted
            return "kept"
        return "pending" if await self._cleanups.left_among(works) else "deleted"


def _pause(seconds: float, attempts: int) -> float:
    return min(seconds * 2.0 ** min(attempts, 10), MAX_PAUSE_SECONDS)
