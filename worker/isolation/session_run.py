"""One session on a child: its files, its progress, and how it ends.

The pool makes one for each call of its ``run``; the child's connection fills in what
the child sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import os
from typing import Final

from server.system.memory_files import memory_file, read_all
from server.telemetry import metrics
from tryon.processor import Job, Output, ProcessorError, Report
from worker.isolation.errors import LOSS_CODES, Loss, RaisedInChild
from worker.isolation.messages import Answer, Done, Failed, Raised, Run
from worker.isolation.messages import Report as Reported

log = logging.getLogger("tryon.worker")

MAX_OUTPUT_BYTES: Final = 64 * 2**20
"""Size of a result, at most."""


class SessionRun:
    """A session on a child."""

    __slots__ = ("_changed", "answer", "context", "files", "job", "number", "progress")

    def __init__(self, number: int, job: Job) -> None:
        self.number = number
        self.job = job
        self.progress: Reported | None = None
        self.answer: Answer | Loss | None = None
        self.context = contextvars.copy_context()
        """Has the request id, for log lines that come from the child."""
        self.files: list[int] = []
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<SessionRun {self.number} {self.job.session_id}>"

    def open(self) -> Run:
        """Write the photos into files and return the message that goes with them.

        Raises OSError: no memory or no descriptor is left.
        """
        job = self.job
        for image in (job.image, job.garment):
            if image is not None:
                self.files.append(memory_file(image))
        self.files.append(memory_file())
        return Run(
            number=self.number,
            session_id=job.session_id,
            attempt=job.attempt,
            image_type=job.image_type,
            garment_type=job.garment_type,
            params=json.dumps(job.params),
        )

    def report(self, progress: Reported) -> None:
        """Keep the newest progress, for :meth:`outcome` to pass on."""
        self.progress = progress
        self._changed.set()

    def settle(self, answer: Answer | Loss) -> None:
        """Keep the answer, unless there is one already."""
        if self.answer is None:
            self.answer = answer
            self._changed.set()

    async def outcome(self, report: Report) -> Output:
        """Pass progress on until there is an answer; return the output.

        Raises :class:`ProcessorError` as the processor raised it, or with a code of
        :data:`LOSS_CODES`; :class:`RaisedInChild`; ValueError for an output that is too
        large.
        """
        while self.answer is None:
            await self._changed.wait()
            self._changed.clear()
            progress, self.progress = self.progress, None
            if progress is not None:
                await report(progress.progress, progress.stage, progress.eta_seconds)
        match self.answer:
            case Done(extension=extension):
                return Output(await self._result(), extension)
            case Failed(code=code, message=message, retryable=retryable, requeue=requeue):
                raise ProcessorError(code, message, retryable=retryable, requeue=requeue)
            case Raised(trace=trace):
                raise RaisedInChild(trace)
            case Loss(reason=reason, how=how):
                log.error("The process of session %s %s", self.job.session_id, how)
                metrics.processors_lost.labels(reason).inc()
                raise ProcessorError(LOSS_CODES[reason])
            case other:
                raise AssertionError(other)

    async def wait_for_answer(self, seconds: float) -> None:
        """Wait until a cancelled run has answered; count it as stuck if it does not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.answer is None:
                    await self._changed.wait()
                    self._changed.clear()
        if self.answer is None:
            log.warning("The processor of session %s ignores its cancellation", self.job.session_id)
            metrics.processors_lost.labels("stuck").inc()  # and its process is not fit for another session

    async def _result(self) -> bytes:
        file = self.files[-1]
        size = os.fstat(file).st_size
        if size > MAX_OUTPUT_BYTES:
            raise ValueError(f"the processor's output has {size} bytes")
        return await read_all(file, size)

    def close(self) -> None:
        """Close the files."""
        while self.files:
            os.close(self.files.pop())
