"""One attempt at a session: its inputs, its run, and what the run says.

:class:`~worker.tasks.SessionRunner` holds the claim and records the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Final, Protocol

from server.adapters.files.port import Files
from server.domain.stored_files import StoredFile
from server.sessions.claims import Claim, Claims
from server.system.memory_files import memory_file, path_of
from tryon.processor import Checkpoint, Input, Job, Output, ProcessorError, Report, Result
from tryon.processor.validation import outputs_of
from tryon.protocol.errors import Unavailable

log = logging.getLogger("tryon.worker")

RETRY_SECONDS: Final = 1.0
"""Pause between attempts while the storage is unavailable; after an error that is to be
retried, and at least for an upstream that is busy.
"""


class Runs(Protocol):
    """A processor as a worker uses it: :class:`~worker.isolation.pool.ProcessPool`.

    It takes several jobs at once, and ends soon after a cancel.
    """

    name: str

    async def run(self, job: Job, report: Report) -> Result: ...

    async def resume(self, job: Job, checkpoint: Checkpoint, report: Report) -> Result: ...


class Attempt:
    """The work of one claim; it is cancelled when the claim counts no more."""

    def __init__(self, claim: Claim, *, claims: Claims, files: Files, processor: Runs) -> None:
        self.claim = claim
        self._files = files
        self._processor = processor
        self.report = AttemptReport(claim, claims)

    def __repr__(self) -> str:
        return f"<Attempt {self.claim.session.id}-{self.claim.attempt}>"

    async def work(self) -> tuple[Output, ...]:
        """Read the photos, run the processor, and return its outputs."""
        with contextlib.ExitStack() as stack:
            job = self._job([stack.enter_context(_in_memory(*each)) for each in await self._inputs()])
            try:
                result = await self._processor.run(job, self.report)
            except ProcessorError as error:
                if error.requeue:  # the cause needs a moment to pass, and the queue would give it none
                    await asyncio.sleep(RETRY_SECONDS * 2**self.claim.session.burnt)
                raise
        return outputs_of(result)

    def _job(self, inputs: list[Input]) -> Job:
        session = self.claim.session
        return Job(
            session_id=session.id,
            attempt=self.claim.attempt,
            inputs=tuple(inputs),
            params=dict(session.params),
            seed=session.seed,
            deadline_at=session.deadline_at.timestamp(),
        )

    async def _inputs(self) -> list[tuple[StoredFile, bytes]]:
        """Return each photo with its content."""
        return [(file, await self._input(file.key)) for file in self.claim.session.inputs]

    async def _input(self, key: str) -> bytes:
        """Return a file of the session.

        While the storage is unavailable the session waits, under its lease and until
        its deadline.
        """
        while True:
            try:
                return await self._files.get(key)
            except Unavailable as error:
                log.warning("%s could not be read now: %s", key, error.detail)
            await asyncio.sleep(RETRY_SECONDS)


class AttemptReport:
    """The ``Report`` of an attempt: progress is published, the rest is recorded."""

    def __init__(self, claim: Claim, claims: Claims) -> None:
        self._claim = claim
        self._claims = claims

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
        """Drop the picture."""

    async def log(self, text: str) -> None:
        log.info("Session %s: %s", self._claim.session.id, text)

    async def usage(
        self, *, credits: float | None = None, cost_usd: float | None = None, gpu_seconds: float | None = None
    ) -> None:
        """Drop the amounts."""

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Drop the checkpoint."""


@contextlib.contextmanager
def _in_memory(file: StoredFile, content: bytes) -> Iterator[Input]:
    """Return a photo as a job's input, in a memory file."""
    memory = memory_file(content)
    try:
        yield Input(
            role=file.role,
            index=file.index,
            type=file.type,
            path=path_of(memory),
            bytes=len(content),
            sha256=file.sha256,
            width=file.width,
            height=file.height,
        )
    finally:
        os.close(memory)
