"""Runs the chores of a web or worker process, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from server.reconciler import timing
from server.reconciler.chores import Chore, Chores
from server.reconciler.cleanup import Cleanup
from server.reconciler.reconciler import Reconciler
from server.reconciler.usage import UsageReports
from server.reconciler.webhooks import Webhooks
from server.sessions.erased_bytes import ErasedBytes
from server.sessions.queueing import Queueing
from server.sessions.submissions import Submissions
from tryon.protocol.errors import Unavailable


class Maintenance:
    """The table of chores; stateless."""

    def __init__(
        self,
        *,
        chores: Chores,
        reconciler: Reconciler,
        cleanup: Cleanup,
        webhooks: Webhooks,
        usage: UsageReports,
        submissions: Submissions,
        queueing: Queueing,
        erased_bytes: ErasedBytes,
        cleanup_seconds: float,
    ) -> None:
        self._chores = chores
        self._reconciler = reconciler
        self._cleanup = cleanup
        self._webhooks = webhooks
        self._usage = usage
        self._submissions = submissions
        self._queueing = queueing
        self._erased_bytes = erased_bytes
        self._cleanup_seconds = cleanup_seconds

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take part in reconciling and cleaning while the block runs."""
        every, reconciler = timing.RECONCILE_SECONDS, self._reconciler
        chores = [
            Chore("reconcile", reconciler.maintain, every, reconciler.until_due),
            Chore("cleanup", self._cleanup.clean_up, self._cleanup_seconds),
            Chore("webhooks", self._webhooks.deliver, every),
            Chore("usage", self._usage.deliver, every),
            Chore("traces", self._cleanup.forget_traces, timing.TRACES_SECONDS, shared=False),
            Chore("discard", self._submissions.clean_up_failed_uploads, every, shared=False),
            Chore("enqueue", self._queueing.retry_enqueues, timing.ENQUEUE_SECONDS, shared=False),
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._chores.run(chore), name=chore.name) for chore in chores]
            tasks.append(group.create_task(self._cleanup.scrub_forever(), name="scrub"))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await self._reconciler.stop()
                with contextlib.suppress(Unavailable, TimeoutError):
                    async with asyncio.timeout(timing.END_SECONDS):
                        await self._chores.drop_leases()
                        await self._submissions.clean_up_failed_uploads()
                        if self._erased_bytes.in_log:
                            await self._cleanup.scrub()
