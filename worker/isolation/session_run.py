"""One run on a child: its files, its words, and how it ends.

The pool makes one for each call; the child's connection fills in what the child sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from server.system.memory_files import EXHAUSTED, is_memory_file, read_all
from server.telemetry import metrics
from tryon.processor import AttemptLost, Job, Output, ProcessorError, Report
from tryon.processor.validation import MAX_OUTPUT_BYTES, MAX_PREVIEW_BYTES, is_preview, outputs_of
from worker.isolation.errors import LOSS_CODES, Evicted, Loss, RaisedInChild
from worker.isolation.messages import Answer, Checkpoint, CleanUp, Committed, Done, Failed, File, Preview, Raised, Run
from worker.isolation.messages import Report as Progress
from worker.isolation.messages import Usage as Used

log = logging.getLogger("tryon.worker")

RETRY_SECONDS: Final = 1.0
"""Pause before an output is read again, without a descriptor or memory for it."""

MAX_WAITING: Final = 16
"""Checkpoints of one run that wait to be stored, at most."""


@dataclass(frozen=True, slots=True)
class Work:
    """The job of a run, and the checkpoint from which it resumes."""

    job: Job
    checkpoint: str | None = None

    @property
    def name(self) -> str:
        return self.job.session_id

    def until(self, deadline_at: float) -> Work:
        """Return the same work with another deadline, in Unix seconds."""
        return replace(self, job=replace(self.job, deadline_at=deadline_at))

    def open(self, number: int, files: list[int]) -> Run:
        """Open the inputs and return the message that goes with them.

        Raises OSError: no memory or no descriptor is left.
        """
        job = self.job
        for each in job.inputs:
            files.append(os.open(each.path, os.O_RDONLY | os.O_CLOEXEC))
        return Run(
            number=number,
            session_id=job.session_id,
            attempt=job.attempt,
            attempts_left=job.attempts_left,
            inputs=[
                File(each.role, each.index, each.type, each.bytes, each.sha256, each.width, each.height)
                for each in job.inputs
            ],
            params=json.dumps(dict(job.params)),
            seed=job.seed,
            deadline_at=None if math.isinf(job.deadline_at) else job.deadline_at,
            trace=job.trace,
            checkpoint=self.checkpoint,
        )


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Work upstream that is to be cancelled or forgotten."""

    message: CleanUp

    @property
    def name(self) -> str:
        return self.message.key

    def open(self, number: int, files: list[int]) -> CleanUp:
        self.message.number = number
        return self.message


class SessionRun:
    """A run on a child."""

    __slots__ = (
        *("_changed", "_checkpoints", "_preview", "_progress", "_results", "_usage"),
        *("answer", "context", "ending", "files", "number", "order"),
    )

    def __init__(self, number: int, order: Work | Cleaning) -> None:
        self.number = number
        self.order = order
        self.answer: Answer | Loss | None = None
        self.context = contextvars.copy_context()
        """Has the request id, for log lines that come from the child."""
        self.ending: asyncio.Event | None = None
        """Event set when a cancelled run is closed; None before cancellation."""
        self.files: list[int] = []
        self._progress: Progress | None = None
        self._preview: tuple[Preview, int] | None = None
        self._usage: Used | None = None
        self._checkpoints: deque[Checkpoint] = deque()
        self._results: list[int] = []
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<SessionRun {self.number} {self.order.name}>"

    def open(self) -> Run | CleanUp:
        """Open the files and return the message that goes with them. Raises OSError."""
        return self.order.open(self.number, self.files)

    # -- from the child ----------------------------------------------------------------

    def take(self, message: Progress | Preview | Used | Checkpoint, files: Sequence[int] = ()) -> None:
        """Keep the newest of each, for :meth:`outcome` to pass on.

        Checkpoints are all kept. The descriptors are the run's from now on.
        """
        match message:
            case Progress():
                self._progress = message
            case Preview():
                self._drop_preview()
                self._preview = (message, files[0])
            case Used():
                self._usage = message
            case Checkpoint():
                self._checkpoints.append(message)
        self._changed.set()

    @property
    def flooded(self) -> bool:
        """Return whether the child sends checkpoints and waits for no answer."""
        return len(self._checkpoints) > MAX_WAITING

    def settle(self, answer: Answer | Loss, files: Sequence[int] = ()) -> None:
        """Keep the answer, unless there is one already."""
        if self.answer is None:
            self.answer = answer
            self._results += files
            self._changed.set()
        else:
            for file in files:
                os.close(file)

    # -- for the pool ------------------------------------------------------------------

    async def outcome(self, report: Report, reply: Callable[[Committed], object]) -> tuple[Output, ...]:
        """Pass the run's words on until there is an answer; return the outputs.

        Raises :class:`ProcessorError` as the processor raised it, or with a code of
        :data:`LOSS_CODES`; :class:`RaisedInChild`; TypeError, ValueError for outputs
        that are none; :class:`Evicted` if this worker ended the child.
        """
        while self.answer is None:
            await self._changed.wait()
            self._changed.clear()
            await self._pass_on(report, reply)
        await self.pass_usage(report)
        match self.answer:
            case Done():
                return await self._outputs(self.answer)
            case Failed(code=code, message=message, retryable=retryable, requeue=requeue, retry_after=retry_after):
                raise ProcessorError(code, message, retryable=retryable, requeue=requeue, retry_after=retry_after)
            case Raised(trace=trace):
                raise RaisedInChild(trace)
            case Loss(reason="evicted"):
                raise Evicted
            case Loss(reason="unheard"):
                raise ProcessorError("unavailable", requeue=True)
            case Loss(reason=reason, how=how):
                log.error("The process of session %s %s", self.order.name, how)
                metrics.processors_lost.labels(reason).inc()
                raise ProcessorError(LOSS_CODES[reason])
            case other:
                raise AssertionError(other)

    async def wait_for_answer(self, seconds: float) -> None:
        """Wait until a cancelled run has answered; count it as stuck if it does not."""
        self.ending = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.answer is None:
                    await self._changed.wait()
                    self._changed.clear()
        if self.answer is None:
            log.warning("The processor of session %s ignores its cancellation", self.order.name)
            metrics.processors_lost.labels("stuck").inc()  # and its process is not fit for another session

    async def pass_usage(self, report: Report) -> None:
        """Pass on the usage that the run has said since the last call."""
        usage, self._usage = self._usage, None
        if usage is not None:
            await report.usage(credits=usage.credits, cost_usd=usage.cost_usd, gpu_seconds=usage.gpu_seconds)

    def close(self) -> None:
        """Close the files; a cancel of the run is over."""
        if self.ending is not None:
            self.ending.set()
        self._drop_preview()
        for files in (self.files, self._results):
            while files:
                os.close(files.pop())

    def _drop_preview(self) -> None:
        if self._preview is not None:
            (_, file), self._preview = self._preview, None
            os.close(file)

    async def _pass_on(self, report: Report, reply: Callable[[Committed], object]) -> None:
        await self.pass_usage(report)  # before the checkpoint, which keeps it
        while self._checkpoints:
            checkpoint = self._checkpoints.popleft()
            lost = False
            try:
                await report.checkpoint(json.loads(checkpoint.checkpoint))
            except AttemptLost:
                lost = True
            reply(Committed(self.number, lost))
        if self._preview is not None:
            (preview, file), self._preview = self._preview, None
            try:
                data = await _content(file, MAX_PREVIEW_BYTES)
            finally:
                os.close(file)
            if is_preview(data, preview.media_type):
                await report.preview(data, preview.media_type)
        progress, self._progress = self._progress, None
        if progress is not None:
            await report(
                progress.progress,
                progress.stage,
                progress.eta_seconds,
                step=progress.step,
                steps=progress.steps,
                upstream_position=progress.upstream_position,
            )

    async def _outputs(self, done: Done) -> tuple[Output, ...]:
        outputs = [
            Output(await _content(file, MAX_OUTPUT_BYTES), head.type, head.role)
            for head, file in zip(done.outputs, self._results, strict=True)
        ]
        return outputs_of(outputs) if isinstance(self.order, Work) else ()


async def _content(file: int, max_bytes: int) -> bytes:
    """Return the content of a descriptor that came from a child.

    Raises ValueError: it is no file in memory, or too large.
    """
    if not is_memory_file(file):
        raise ValueError("the processor's output is no file in memory")
    size = os.fstat(file).st_size
    if size > max_bytes:
        raise ValueError(f"the processor's output has {size} bytes")
    while True:
        try:
            return await read_all(file, size)
        except OSError as error:  # what the run has cost must not be lost for it
            if error.errno not in EXHAUSTED:
                raise
            log.warning("An output waits: %s", error)
        await asyncio.sleep(RETRY_SECONDS)
