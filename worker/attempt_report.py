"""What the run of an attempt says: published, stored, or noted for its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from server.domain.stored_files import NewFile
from server.sessions.claims import Claim, Claims
from tryon.processor import AttemptLost, Checkpoint, Output, ProcessorError
from tryon.protocol.errors import StorageFull, TryOnError, Unavailable

log = logging.getLogger("tryon.worker")

RETRY_SECONDS: Final = 1.0
"""Pause between attempts to commit a checkpoint while the database takes none."""


class AttemptReport:
    """The ``Report`` of an attempt. :meth:`close` it when the run has ended.

    ``verified``: returns a picture as it may be shown, or raises ProcessorError. A
    preview is verified and stored beside the run; of those that come meanwhile, the
    newest is next. ``deletable``: returns whether the processor can delete what its
    upstream keeps.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        claims: Claims,
        verified: Callable[[Output], Awaitable[NewFile]],
        deletable: Callable[[], bool],
    ) -> None:
        self._claim = claim
        self._deletable = deletable
        self._claims = claims
        self._verified = verified
        self._preview: Output | None = None
        self._showing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<AttemptReport {self._claim.session.id}>"

    async def __call__(
        self,
        progress: float | None = None,
        stage: str | None = None,
        eta_seconds: float | None = None,
        *,
        step: int | None = None,
        steps: int | None = None,
        upstream_position: int | None = None,
    ) -> None:
        try:
            await self._claims.report(
                self._claim,
                progress,
                stage,
                eta_seconds,
                step=step,
                steps=steps,
                upstream_position=upstream_position,
            )
        except Exception:
            log.debug("Progress of session %s was not reported", self._claim.session.id, exc_info=True)

    async def preview(self, data: bytes, type: str = "image/jpeg") -> None:
        self._preview = Output(data, type, "preview")
        if self._showing is None or self._showing.done():
            self._showing = asyncio.create_task(self._show(), name="preview")

    async def log(self, text: str) -> None:
        log.info("Session %s: %s", self._claim.session.id, text)

    async def usage(
        self, *, credits: float | None = None, cost_usd: float | None = None, gpu_seconds: float | None = None
    ) -> None:
        amounts = {"credits": credits, "cost_usd": cost_usd, "gpu_seconds": gpu_seconds}
        self._claims.note_usage(self._claim, {name: value for name, value in amounts.items() if value is not None})

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Commit the checkpoint, as soon as the database takes it."""
        deletable = self._deletable()
        await self._commit(lambda: self._claims.checkpoint(self._claim, checkpoint, deletable=deletable))

    async def give_up_work(self) -> None:
        """Let the work upstream be forgotten, as soon as the database takes it."""
        await self._commit(lambda: self._claims.give_up_work(self._claim))

    async def _commit(self, change: Callable[[], Awaitable[bool]]) -> None:
        while True:
            try:
                if await change():
                    return
                break
            except (Unavailable, StorageFull) as error:
                log.warning("Session %s could not save its checkpoint now: %s", self._claim.session.id, error.detail)
            await asyncio.sleep(RETRY_SECONDS)
        raise AttemptLost

    async def close(self) -> None:
        """Show no other preview; wait until none is being stored."""
        self._preview = None
        showing, self._showing = self._showing, None
        if showing is not None:
            showing.cancel()
            await asyncio.wait({showing})  # `await showing` could not tell its cancel from ours

    async def _show(self) -> None:
        while self._preview is not None:
            preview, self._preview = self._preview, None
            try:
                if not await self._claims.preview(self._claim, await self._verified(preview)):
                    return
            except (ProcessorError, TryOnError) as error:
                log.warning("A preview of session %s was not shown: %s", self._claim.session.id, error)
            except Exception:
                log.exception("A preview of session %s was not shown", self._claim.session.id)
