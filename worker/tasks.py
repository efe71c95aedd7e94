"""The one task: claim a session, run the processor, record how it ended.

The database decides everything: ``claims.begin`` whether there is something to do,
``renew`` whether the claim still counts, ``complete`` and ``fail`` whether the end
counts. A session that is left unfinished here is found by its lapsed lease, and the
reconciler puts it right.

A claim that was not answered may have been committed. Its lease would lapse, so the run
repeats the claim until the database answers. Each run has a number, which is part of
the lease's owner: it gets its own claim back, and never that of another run.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from server.adapters.files.port import MissingFile
from server.domain.stored_files import NewFile
from server.services import Services
from server.sessions.claims import Claim
from server.sessions.transitions import failure
from server.telemetry import logs, metrics, tracing
from tryon.processor import AttemptLost, ProcessorError
from tryon.protocol.errors import StorageFull, Unavailable
from tryon.protocol.states import Event as Transition
from worker.attempt import RETRY_SECONDS, Attempt, Verifies
from worker.chain import Chain
from worker.isolation.errors import Evicted, NotStarted

log = logging.getLogger("tryon.worker")

STORE_DELAYS: Final = (0.5, 1.0, 2.0)
"""Pauses between attempts to store an output in a full storage."""

SETTLE_SECONDS: Final = 1.0
"""Time for a stopping worker to record how a session ended; then its lease will lapse.
"""

HAND_BACK_SECONDS: Final = 0.3
"""Time after that for a stopping worker to hand back a session whose end could not be
recorded, because its output is still being stored.
"""

CANCEL_SECONDS: Final = 0.1
"""Time for the tasks of a session to end in a stopping worker."""


async def run_session(ctx: dict[Any, Any], session_id: str) -> None:
    """Run one session; arq knows the function by this name."""
    await ctx["runner"].run(session_id)


class SessionRunner:
    """Runs sessions on one worker, as many at once as arq starts."""

    def __init__(self, services: Services, chain: Chain, worker_id: str, imaging: Verifies) -> None:
        self._files = services.files
        self._sessions = services.sessions
        self._database_clock = services.database.clock
        self._lease_seconds = services.config.lease_seconds
        self._deadline_seconds = services.config.deadline_seconds
        self._max_attempts = services.config.max_attempts
        self._chain = chain
        self._imaging = imaging
        self._worker_id = worker_id
        self._hurries: dict[asyncio.Event, str] = {}
        """The session of every run, by the event that makes its next heartbeat come at
        once.
        """
        self._numbers = itertools.count(1)
        """Numbers of the runs."""
        self._stopping = asyncio.Event()
        """Set when the worker was told to stop."""

    def __repr__(self) -> str:
        return f"<SessionRunner {self._worker_id} {self._chain!r}>"

    async def run(self, session_id: str) -> None:
        """Run a session from its claim to its end.

        If this is cancelled, because the worker stops, the session is handed back and
        no attempt is burnt.
        """
        hurry = asyncio.Event()
        self._hurries[hurry] = session_id  # before the claim: a cancel may follow it closely
        metrics.running.set(len(self._hurries))
        try:
            await self._run(session_id, hurry)
        finally:
            del self._hurries[hurry]
            metrics.running.set(len(self._hurries))

    async def _run(self, session_id: str, hurry: asyncio.Event) -> None:
        asked_at = asyncio.get_running_loop().time()
        # A task of its own: a cancel that strikes while the claim is being committed
        # must not lose the claim.
        beginning = asyncio.create_task(self._claim(session_id, hurry))
        stopping = await _see_out(beginning)
        if not beginning.done():  # the database takes no write, and the worker stops
            beginning.cancel()
            await asyncio.wait({beginning}, timeout=SETTLE_SECONDS)
        if not beginning.done() or beginning.cancelled():
            raise asyncio.CancelledError
        if (claim := beginning.result()) is not None:
            logs.request_id.set(claim.session.request_id)
            session = claim.session
            about: tracing.Attributes = {
                "tryon.session_id": session.id,
                "tryon.attempt": claim.attempt,
                "tryon.processor": session.processor,
            }
            with tracing.span("run session", "consumer", session.trace, about):
                stopping = await self._hold(claim, hurry, self._deadline(claim, asked_at), stopping=stopping)
        if stopping:
            raise asyncio.CancelledError

    async def _claim(self, session_id: str, hurry: asyncio.Event) -> Claim | None:
        """Claim a session, again and again while the database is unavailable.

        Return None if there is nothing to do, the worker stops, or the session's
        deadline must have passed.
        """
        loop = asyncio.get_running_loop()
        number, deadline = next(self._numbers), loop.time() + self._deadline_seconds
        while True:
            try:
                return await self._sessions.claims.begin(
                    session_id,
                    worker=self._worker_id,
                    run=number,
                    processors=self._chain.names,
                )
            except Unavailable as error:
                log.warning("Session %s could not be claimed now: %s", session_id, error.detail)
            hurry.set()  # the lease of a claim that was committed has begun
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._stopping.wait()
            if self._stopping.is_set() or loop.time() >= deadline:
                return None

    def claim_no_more(self) -> None:
        """Repeat no claim that the database does not answer: the worker stops."""
        self._stopping.set()

    def hurry(self, session_id: str) -> None:
        """Renew a session's lease now, if it runs here.

        It was cancelled or erased, which the renewal will learn.
        """
        for hurry, each in self._hurries.items():
            if each == session_id:
                hurry.set()

    def runs(self, session_id: str) -> bool:
        """Return whether a session runs here now."""
        return session_id in self._hurries.values()

    def _deadline(self, claim: Claim, asked_at: float) -> float:
        """Return the session's deadline on the loop's clock.

        The claim may have been committed long before it was answered. Its age is
        learnt from the database's clock as it is known here, which may be wrong: it is
        never taken for older than ``asked_at``.
        """
        now, session = asyncio.get_running_loop().time(), claim.session
        claim_age = min(max(0.0, self._database_clock.now() - session.updated_at.timestamp()), now - asked_at)
        return now - claim_age + (session.deadline_at - session.updated_at).total_seconds()

    async def _hold(self, claim: Claim, hurry: asyncio.Event, deadline: float, *, stopping: bool) -> bool:
        """Work under a heartbeat until there is an end to record, and record it.

        Returns whether the worker stops.
        """
        if stopping:
            await self._hand_back_soon(claim, deadline, SETTLE_SECONDS)
            return True
        beat = asyncio.create_task(self._beat(claim, hurry), name="heartbeat")
        attempt = Attempt(
            claim,
            claims=self._sessions.claims,
            files=self._files,
            chain=self._chain,
            imaging=self._imaging,
            deadline=deadline,
            max_attempts=self._max_attempts,
        )
        work = asyncio.create_task(attempt.work(), name="processor")
        try:
            while not (work.done() or beat.done()) and (pause := attempt.pause()) > 0:
                # the deadline moves while the processor starts
                await asyncio.wait({work, beat}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if not (work.done() or beat.done()):
                raise TimeoutError
            end = self._end(attempt, work if work.done() else None, beat)
        except TimeoutError:
            end = self._fail(claim, attempt.busy or ProcessorError("timeout"))
        except asyncio.CancelledError:
            stopping = True
            end = self._hand_back(claim)
        stopping |= await self._stop(work)
        writing = asyncio.create_task(self._record(claim, end, attempt.deadline))
        interrupted = await _see_out(writing, SETTLE_SECONDS if stopping else None)
        stopping |= interrupted
        if interrupted and not writing.done():  # a large output is still being stored, perhaps
            writing.cancel()
            await self._hand_back_soon(claim, attempt.deadline, HAND_BACK_SECONDS)
        for task in (writing, beat):
            task.cancel()
            task.add_done_callback(_forget)
        # A thread inside a blocked SQLite hears the cancel after five seconds: a worker
        # that stops does not wait for it.
        await asyncio.wait({writing, beat}, timeout=CANCEL_SECONDS if stopping else None)
        return stopping

    async def _beat(self, claim: Claim, hurry: asyncio.Event) -> Literal["cancelled", "lost"]:
        """Renew the lease until the claim does not count any more, and return why.

        A renewal that failed is retried soon.
        """
        period = pause = self._lease_seconds / 3
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):  # wait_for may swallow a cancel (bpo-42130)
                    await hurry.wait()
            hurry.clear()
            pause = min(period, RETRY_SECONDS)
            try:
                verdict = await self._sessions.claims.renew(claim)
            except Unavailable as error:
                log.warning("Lease of session %s could not be renewed now: %s", claim.session.id, error.detail)
            except Exception:
                log.exception("Lease of session %s could not be renewed", claim.session.id)
            else:
                pause = period
                if verdict != "held":
                    return verdict

    async def _stop(self, work: asyncio.Task[tuple[NewFile, ...]]) -> bool:
        """Cancel the processor if it still runs.

        Returns whether the worker was asked to stop meanwhile.
        """
        if work.done():
            return False
        work.cancel()
        stopping = await _see_out(work)
        work.add_done_callback(_forget)  # it may still be running, if the worker is stopping
        return stopping

    # -- the end of a session, recorded as soon as the database takes it ---------------

    def _end(
        self,
        attempt: Attempt,
        work: asyncio.Task[tuple[NewFile, ...]] | None,
        beat: asyncio.Task[Literal["cancelled", "lost"]],
    ) -> Callable[[], Awaitable[bool]]:
        """Return the call that records the end, by the outcome of the processor."""
        claim = attempt.claim
        if work is None:
            return self._hand_back(claim, "cancelled") if beat.result() == "cancelled" else _nothing
        if work.cancelled():
            log.error("The processor of session %s cancelled itself", claim.session.id)
            return self._fail(claim, ProcessorError("processor_error"))
        error = work.exception()
        match error:
            case None:
                return lambda: self._complete(claim, work.result())
            case AttemptLost():
                return _nothing
            case Evicted():  # its processor is well, and may have begun work upstream
                return self._hand_back(claim, "not_started")
            case NotStarted():  # not the session's fault: it costs no attempt, and another worker may be warm
                return self._hand_back(claim, "not_started", processor=self._chain.first.name)
            case ProcessorError() if error.requeue or attempt.successor is not None:
                log.warning("Requeueing session %s: %s", claim.session.id, error)
                last = failure(error.code, error.message, error.retryable)
                tracing.note({"tryon.outcome": Transition.REQUEUED, "tryon.reason": error.code}, failed=True)
                return lambda: self._sessions.claims.requeue(
                    claim, burnt=error.requeue, reason=error.code, error=last, processor=attempt.successor
                )
            case ProcessorError():
                return self._fail(claim, error)
            case MissingFile():
                return self._fail(claim, ProcessorError("input_lost"))
            case _:
                log.error("The processor failed on session %s", claim.session.id, exc_info=error)
                return self._fail(claim, ProcessorError("processor_error"))

    def _hand_back(
        self, claim: Claim, reason: str = "drained", *, processor: str | None = None
    ) -> Callable[[], Awaitable[bool]]:
        """Return the call that requeues a session at no cost to it."""
        tracing.note({"tryon.outcome": Transition.REQUEUED, "tryon.reason": reason})
        return lambda: self._sessions.claims.requeue(claim, burnt=False, reason=reason, processor=processor)

    async def _hand_back_soon(self, claim: Claim, deadline: float, seconds: float) -> None:
        """Requeue a session within a time, because the worker stops.

        If another end of it was committed meanwhile, nothing changes.
        """
        writing = asyncio.create_task(self._record(claim, self._hand_back(claim), deadline))
        await _see_out(writing, seconds)
        writing.cancel()
        writing.add_done_callback(_forget)

    def _fail(self, claim: Claim, error: ProcessorError) -> Callable[[], Awaitable[bool]]:
        tracing.note({"tryon.outcome": Transition.FAILED, "error.type": error.code}, failed=True)
        return lambda: self._sessions.claims.fail(claim, error.code, error.message, retryable=error.retryable)

    async def _complete(self, claim: Claim, outputs: tuple[NewFile, ...]) -> bool:
        """Store the outputs and complete the session; fail it if storage stays full."""
        for delay in (*STORE_DELAYS, None):
            try:
                if await self._sessions.claims.complete(claim, outputs):
                    tracing.note({"tryon.outcome": Transition.COMPLETED})
                    return True
                break
            except StorageFull:
                if delay is None:
                    return await self._sessions.claims.fail(claim, "storage_full")
                await asyncio.sleep(delay)
        # Refused: the claim was lost, the deadline has passed, or the client cancelled
        # at the last moment.
        if await self._sessions.claims.renew(claim) == "cancelled":
            return await self._sessions.claims.requeue(claim, burnt=False, reason="cancelled")
        return False

    async def _record(self, claim: Claim, end: Callable[[], Awaitable[bool]], deadline: float) -> None:
        """Record the end, again and again while the database is unavailable."""
        while True:
            try:
                await end()
                return
            except Unavailable as error:
                log.warning("The end of session %s could not be recorded now: %s", claim.session.id, error.detail)
            except Exception:
                log.exception("The end of session %s could not be recorded", claim.session.id)
                return
            if asyncio.get_running_loop().time() >= deadline:
                return  # the reconciler has ended it, or will
            await asyncio.sleep(RETRY_SECONDS)


async def _nothing() -> bool:
    """Record nothing: the claim was lost."""
    return False


async def _see_out(task: asyncio.Task[Any], seconds: float | None = None) -> bool:
    """Wait until a task has ended, and return whether the waiter was cancelled.

    A cancellation of the waiter does not reach the task, but bounds the wait to
    :data:`SETTLE_SECONDS`. ``seconds`` bounds the wait in any case.
    """
    loop = asyncio.get_running_loop()
    until = None if seconds is None else loop.time() + seconds
    stopping = False
    while not task.done():
        left = None if until is None else until - loop.time()
        if left is not None and left <= 0:
            break
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError:
            stopping = True
            latest = loop.time() + SETTLE_SECONDS
            until = latest if until is None else min(until, latest)
    return stopping


def _forget(task: asyncio.Task[Any]) -> None:
    """Take a result that is not wanted, so that asyncio does not complain about it."""
    if not task.cancelled():
        task.exception()
