"""Publishes what the worker's processor says of itself, while the worker lives.

Uploads are judged by it, so a worker publishes as soon as its processor has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from server.config.settings import ConfigError
from server.sessions.processors import RENEW_SECONDS, RETRY_SECONDS, ProcessorDirectory
from tryon.processor import Info
from tryon.processor.description import BadInfo, describe
from tryon.protocol.errors import TryOnError
from worker.isolation.errors import NotStarted

log = logging.getLogger("tryon.worker")

WITHDRAW_SECONDS: Final = 0.2
"""Time for a stopping worker to end its lease; then it lapses."""


class Publisher:
    """The publication of one worker.

    ``info``: returns the info of the first processor, when it has started; those behind
    it may take longer, or never start. ``on_error`` is called once if uploads cannot be
    judged by it.
    """

    def __init__(
        self,
        directory: ProcessorDirectory,
        worker_id: str,
        info: Callable[[], Awaitable[Info]],
        *,
        on_error: Callable[[Exception], None],
    ) -> None:
        self._directory = directory
        self._worker_id = worker_id
        self._info = info
        self._on_error = on_error

    def __repr__(self) -> str:
        return f"<Publisher {self._worker_id}>"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Publish until the end of the block, then end the lease."""
        task = asyncio.create_task(self._publish(), name="publisher")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            with contextlib.suppress(TryOnError, TimeoutError):
                async with asyncio.timeout(WITHDRAW_SECONDS):
                    await self._directory.withdraw(self._worker_id)

    async def _publish(self) -> None:
        try:
            view = describe(await self._info())
        except (NotStarted, ConfigError):
            return  # the pool has reported it
        except BadInfo as error:
            self._on_error(ConfigError(f"TRYON_PROCESSOR: it cannot judge uploads: {error}"))
            return
        while True:
            try:
                await self._directory.publish(self._worker_id, view)
                pause = RENEW_SECONDS
            except TryOnError as error:
                log.warning("The processor could not be published now: %s", error.detail)
                pause = RETRY_SECONDS
            await asyncio.sleep(pause)
