"""The task that ends work upstream after its session: cancel it, or forget it.

The reconciler enqueues it for each row that is due
(:mod:`server.sessions.upstream_cleaning`), until it has succeeded once or the time of
the row is over.
"""

from __future__ import annotations

import logging
from typing import Any

from server.adapters.database.cleanups import CleanupKind
from server.sessions.upstream_cleaning import DueCleanup, UpstreamCleaning
from tryon.processor import ProcessorError, Reference
from tryon.protocol.errors import TryOnError
from worker.chain import Chain
from worker.isolation.errors import NotStarted, RaisedInChild

log = logging.getLogger("tryon.worker")


async def run_cleanup(ctx: dict[Any, Any], cleanup_id: str) -> None:
    """Do one cleanup; arq knows the function by this name."""
    await ctx["cleaner"].run(cleanup_id)


class Cleaner:
    """Does cleanups on one worker, each in a child; stateless."""

    def __init__(self, cleaning: UpstreamCleaning, chain: Chain) -> None:
        self._cleaning = cleaning
        self._chain = chain

    def __repr__(self) -> str:
        return f"<Cleaner {self._chain!r}>"

    async def run(self, cleanup_id: str) -> None:
        """Do a cleanup, and remove it; one that fails is enqueued again soon."""
        try:
            cleanup = await self._cleaning.begin(cleanup_id)
            if cleanup is not None:
                await self._try(cleanup)
        except TryOnError as error:
            log.warning("Work upstream could not be cleaned up now: %s", error)

    async def _try(self, cleanup: DueCleanup) -> None:
        try:
            if await self._do(cleanup):
                await self._cleaning.done(cleanup)
            return
        except (ProcessorError, NotStarted, TimeoutError) as error:
            log.warning("Work upstream could not be cleaned up now: %s", error or type(error).__name__)
        except RaisedInChild:
            log.exception("The processor failed to clean up work upstream")
        await self._cleaning.failed(cleanup)

    async def _do(self, cleanup: DueCleanup) -> bool:
        """Return whether there is nothing left to do upstream."""
        work = cleanup.work
        if not work.checkpoint:  # it was forgotten, and nothing was begun since
            return True
        processor = self._chain.of(work.processor)
        if processor is None:  # another worker has it, or it was taken out of the setting
            await self._cleaning.hold(cleanup)
            return False
        clean = processor.cancel if cleanup.kind is CleanupKind.CANCEL else processor.forget
        await clean(Reference(key=work.key), work.checkpoint)
        return True
