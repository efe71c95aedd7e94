"""One attempt at a session: its inputs, its run, and what the run says.

:class:`~worker.tasks.SessionRunner` holds the claim and records the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO, Final, Protocol

from server.adapters.files.port import Files
from server.domain.outputs import VerifiedOutput
from server.domain.stored_files import NewFile, StoredFile
from server.domain.upstream import UpstreamWork
from server.sessions.claims import Claim, Claims
from server.system.memory_files import EXHAUSTED, memory_file, path_of
from server.telemetry import tracing
from tryon.processor import Input, Job, Output, ProcessorError, Reference, Result
from tryon.processor.validation import outputs_of
from tryon.protocol.errors import TryOnError, Unavailable
from worker.attempt_report import AttemptReport
from worker.chain import Chain

log = logging.getLogger("tryon.worker")

RETRY_SECONDS: Final = 1.0
"""Pause between attempts while the storage or the image processes are unavailable, and
after an error that is to be retried.
"""


MIN_PAUSE_SECONDS: Final = 0.2
"""Least wait for an upstream that is busy."""

COLD_SECONDS: Final = 600.0
"""Longest start of a processor that does not count against a session's deadline."""

WARMING_SECONDS: Final = 0.2
"""Start of a processor that needs no words."""

WARM_SECONDS: Final = 2.0
"""Time between two extensions of a deadline while the processor starts."""

EARLY_SECONDS: Final = 0.5
"""Time before its deadline at which a session ends that waits for a busy or cold model:
at the deadline the reconciler would fail it with ``timeout``, which says less. So does
one that has used something: the reconciler knows no more than its last checkpoint.
"""

BUSY_STAGE: Final = "waiting for the model"


class Verifies(Protocol):
    """The image processes, as far as a worker uses them: for outputs."""

    def warm(self) -> None: ...

    async def verify(self, source: BinaryIO, type: str, *, generated: bool, address: str = "") -> VerifiedOutput: ...


class Attempt:
    """The work of one claim; it is cancelled when the claim counts no more."""

    def __init__(
        self,
        claim: Claim,
        *,
        claims: Claims,
        files: Files,
        chain: Chain,
        imaging: Verifies,
        deadline: float,
        max_attempts: int,
    ) -> None:
        self.claim = claim
        self.deadline = deadline
        """On the loop's clock."""
        self.busy: ProcessorError | None = None
        """Why the upstream did not take the job, until it does."""
        self._claims = claims
        self._files = files
        self._chain = chain
        processor = chain.of(claim.processor)
        assert processor is not None, "a worker claims only what its processors run"
        self._processor = processor
        self.successor: str | None = None
        """The processor of the next attempt, after an error that is to be retried."""
        self._generated = True
        """Whether outputs are to be marked so, as the processor said when it was ready.
        """
        self._imaging = imaging
        self._max_attempts = max_attempts
        self.report = AttemptReport(
            claim, claims=claims, verified=self._verified, deletable=lambda: self._processor.forgets
        )

    def __repr__(self) -> str:
        return f"<Attempt {self.claim.session.id}-{self.claim.attempt}>"

    def pause(self) -> float:
        """Return the seconds until the deadline must be looked at again; 0: it is over.

        That is :data:`EARLY_SECONDS` before it, and the deadline itself. The first one
        ends an attempt that has more to say of its end than the reconciler.
        """
        left = self.deadline - asyncio.get_running_loop().time()
        if left > EARLY_SECONDS:
            return left - EARLY_SECONDS
        return 0.0 if self.busy is not None or self.claim.usage else max(0.0, left)

    async def work(self) -> tuple[NewFile, ...]:
        """Read the photos, run the processor, and return its verified outputs.

        While the upstream is busy (``retry_after``), or no memory or descriptor is left
        here, the session waits, under its lease, as long as its deadline allows.
        """
        self._imaging.warm()  # an idle worker has no image process; this one starts while the processor runs
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.report.close)
            await self._warm_up()
            await self._take_over()
            job = self._job(await self._inputs(stack))
            while True:
                try:
                    # A child's start may have moved the deadline in the round before.
                    outputs = outputs_of(await self._run(replace(job, deadline_at=self._deadline_at)))
                    break
                except ProcessorError as error:
                    self.busy = error if error.retry_after is not None else None
                    await self._wait(job, error)
        self.busy = None
        return tuple([await self._verified(output) for output in outputs])

    async def _warm_up(self) -> None:
        """Wait until the processor has said of itself what its jobs need."""
        describing = asyncio.ensure_future(self._processor.described())
        try:
            await self._starting(describing)
            if describing.exception() is None:  # else the run raises why there is none
                self._generated = describing.result().generated
        finally:
            describing.cancel()

    async def _starting(self, ready: asyncio.Future[Any]) -> float:
        """Wait until a processor is ready; that time is none of the deadline's.

        Once it has taken :data:`COLD_SECONDS`, or the session expires before a later
        deadline, the deadline holds again. It is returned in Unix seconds.
        """
        loop, busy = asyncio.get_running_loop(), self.busy
        seconds_left, cold_until = self.deadline - loop.time(), loop.time() + COLD_SECONDS
        await asyncio.wait({ready}, timeout=min(WARMING_SECONDS, seconds_left / 4))
        while not ready.done() and loop.time() < cold_until:
            await self.report(None, "warming")
            with contextlib.suppress(Unavailable):
                held = await self._claims.hold_deadline(self.claim, seconds_left)
                if held:
                    self.deadline = loop.time() + seconds_left
                self.busy = busy if held else ProcessorError("backend_cold")
            await asyncio.wait({ready}, timeout=min(WARM_SECONDS, seconds_left / 4))
        self.busy = busy if ready.done() else ProcessorError("backend_cold")
        await asyncio.wait({ready})
        self.busy = busy
        return self._deadline_at

    async def _take_over(self) -> None:
        """Give up the work of an earlier attempt that this one cannot go on with.

        Else it would run on, paid for, and be known to no cleanup.
        """
        work, mine = self._begun, self._processor
        if work is not None and not (mine.resumes and work.processor == mine.name):
            await self.report.give_up_work()

    async def _run(self, job: Job) -> Result:
        """Run the job, or go on with what a checkpoint says was begun."""
        if (work := self._begun) is None:
            return await self._processor.run(job, self.report, self._starting)
        return await self._processor.resume(job, work.checkpoint, self.report, self._starting)

    @property
    def _deadline_at(self) -> float:
        return time.time() + self.deadline - asyncio.get_running_loop().time()

    @property
    def _begun(self) -> UpstreamWork | None:
        """Return the work that this attempt, or an earlier one, has begun upstream."""
        work = self.claim.work
        return work if work is not None and work.checkpoint else None

    async def _wait(self, job: Job, error: ProcessorError) -> None:
        """Wait until the job may be run again; raise the error if it may not be, here.

        Work that was begun upstream stays with its processor; if that has failed, it is
        forgotten, and the next attempt begins anew.
        """
        if error.requeue and self._begun is not None:
            await self._forget(self._begun)
        if (error.requeue or error.retry_after is not None) and self._begun is None:
            following = await self._chain.after(self._processor, job, error)
            self.successor = None if following is None else following.name
        if self.successor is not None and not error.requeue:
            raise error  # the next processor may have room now
        if error.retry_after is not None:
            pause = max(error.retry_after, MIN_PAUSE_SECONDS)
            if pause < self.pause():
                log.info("Session %s waits %.1f s: %s", self.claim.session.id, pause, error.code)
                await self.report(None, BUSY_STAGE, pause)
                await asyncio.sleep(pause)
                return
        elif error.requeue:  # the cause needs a moment to pass, and the queue would give it none
            await asyncio.sleep(RETRY_SECONDS * 2**self.claim.session.burnt)
        raise error

    async def _forget(self, work: UpstreamWork) -> None:
        """Delete work upstream that has failed, or leave it to be resumed."""
        try:
            await self._processor.forget(Reference(key=work.key), work.checkpoint)
        except Exception as error:
            log.warning("Work of session %s could not be forgotten upstream: %s", self.claim.session.id, error)
        else:
            await self.report.checkpoint({})

    async def _verified(self, output: Output) -> NewFile:
        """Return an output as it may be shown.

        Raises ProcessorError if it may not be. While no image process is free, it
        waits.
        """
        while True:
            try:
                shown = await self._imaging.verify(
                    io.BytesIO(output.data), output.type, generated=self._generated, address=self.claim.session.id
                )
                return NewFile(shown.data, shown.type, shown.width, shown.height, output.role)
            except Unavailable as error:
                log.warning("An output of session %s waits: %s", self.claim.session.id, error.detail)
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                log.warning("An output of session %s waits: %s", self.claim.session.id, error)
            except TryOnError as error:
                log.error("An output of session %s cannot be shown: %s", self.claim.session.id, error.detail)
                raise ProcessorError("processor_error") from error
            await asyncio.sleep(RETRY_SECONDS)

    def _job(self, inputs: list[Input]) -> Job:
        session = self.claim.session
        return Job(
            session_id=session.id,
            attempt=self.claim.attempt,
            inputs=tuple(inputs),
            params=dict(session.params),
            seed=session.seed,
            deadline_at=self._deadline_at,
            trace=tracing.current() or session.trace,
            attempts_left=max(0, self._max_attempts - session.burnt - 1),
        )

    async def _inputs(self, stack: contextlib.AsyncExitStack) -> list[Input]:
        """Return the photos in memory files that the stack closes."""
        photos = [(file, await self._input(file.key)) for file in self.claim.session.inputs]
        while True:
            try:
                with contextlib.ExitStack() as files:
                    inputs = [files.enter_context(_in_memory(*each)) for each in photos]
                    stack.push(files.pop_all())
                return inputs
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                log.warning("Session %s waits: %s", self.claim.session.id, error)
            await asyncio.sleep(RETRY_SECONDS)

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
