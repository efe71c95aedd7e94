"""The one task: claim a session, run the processor, say how it ended.

The database decides everything: ``sessions.begin`` whether there is something to do,
``renew`` whether the claim still counts, ``complete`` and ``fail`` whether the end
does. Whatever is left undone here, a lapsed lease and the reconciler put right.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from server.adapters.files.port import MissingFile
from server.domain.images import MEDIA_TYPES
from server.services import Services
from server.sessions.claims import Claim
from server.telemetry import logs
from tryon.processor import EXTENSION, Job, Output, Processor, ProcessorError
from tryon.protocol.errors import StorageFull, TryOnError, Unavailable
from worker.isolation.errors import NotStarted

log = logging.getLogger("tryon.worker")

STORE_DELAYS: Final = (0.5, 1.0, 2.0)
"""Pauses between attempts to store an output in a full storage."""

AGAIN_SECONDS: Final = 1.0
"""Pause between attempts while the database or the storage is away."""

SETTLE_SECONDS: Final = 1.0
"""How long a worker that is told to stop still tries to write down how a session ended;
then its lease will lapse.
"""


async def run_session(ctx: dict[Any, Any], session_id: str) -> None:
    """The arq function, by this name on the wire."""
    await ctx["runner"].run(session_id)


class SessionRunner:
    """Runs sessions on one worker; as many at once as arq starts."""

    def __init__(self, services: Services, processor: Processor, worker_id: str) -> None:
        """``processor`` must take several jobs at once and end soon after a cancel:

        :class:`~worker.isolation.pool.ProcessPool` does.
        """
        self._files = services.files
        self._sessions = services.sessions
        self._lease_seconds = services.config.lease_seconds
        self._processor = processor
        self._worker_id = worker_id
        self._looks: dict[asyncio.Event, str] = {}
        """For every run its session; set, the event makes its next heartbeat come at
        once.
        """

    def __repr__(self) -> str:
        return f"<SessionRunner {self._worker_id} {self._processor.name}>"

    async def run(self, session_id: str) -> None:
        """From the claim to the end.

        Cancelled (the worker stops): hands the session back, no attempt burnt.
        """
        look = asyncio.Event()
        self._looks[look] = session_id  # before the claim: a cancel may follow it closely
        try:
            await self._run(session_id, look)
        finally:
            del self._looks[look]

    async def _run(self, session_id: str, look: asyncio.Event) -> None:
        # A task of its own: a cancel that strikes while the claim is being committed
        # must not lose the claim.
        beginning = asyncio.create_task(self._sessions.claims.begin(session_id, worker=self._worker_id))
        stopping = await _see_out(beginning)
        if not beginning.done():  # the database lets nobody write, and the worker stops
            beginning.cancel()
            await asyncio.wait({beginning}, timeout=SETTLE_SECONDS)
        if not beginning.done() or beginning.cancelled():
            raise asyncio.CancelledError
        try:
            claim = beginning.result()
        except TryOnError as error:
            log.warning("Session %s could not be claimed now: %s", session_id, error)
            return
        if claim is not None:
            logs.request_id.set(claim.session.request_id)
            stopping = await self._hold(claim, look, stopping=stopping)
        if stopping:
            raise asyncio.CancelledError

    def look_now(self, session_id: str) -> None:
        """Somebody has cancelled or erased this session: if it runs here, its next
        heartbeat is now.
        """
        for look, each in self._looks.items():
            if each == session_id:
                look.set()

    async def _hold(self, claim: Claim, look: asyncio.Event, *, stopping: bool) -> bool:
        """Work under a heartbeat until there is an end to write down, and write it.

        Returns whether the worker stops.
        """
        # Both times are the database's, so its difference to this machine's clock does
        # not matter.
        seconds_left = (claim.session.deadline_at - claim.session.updated_at).total_seconds()
        deadline = asyncio.get_running_loop().time() + seconds_left
        if stopping:
            await _see_out(
                asyncio.create_task(self._write_down(claim, self._hand_back(claim), deadline)), SETTLE_SECONDS
            )
            return True
        beat = asyncio.create_task(self._beat(claim, look), name="heartbeat")
        work = asyncio.create_task(self._work(claim), name="processor")
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.wait({work, beat}, return_when=asyncio.FIRST_COMPLETED)
            end = self._end(claim, work if work.done() else None, beat)
        except TimeoutError:
            end = self._fail(claim, "timeout")
        except asyncio.CancelledError:
            stopping = True
            end = self._hand_back(claim)
        stopping |= await self._stop(work)
        writing = asyncio.create_task(self._write_down(claim, end, deadline))
        stopping |= await _see_out(writing, SETTLE_SECONDS if stopping else None)
        for task in (writing, beat):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        return stopping

    async def _work(self, claim: Claim) -> Output:
        image = await self._input(claim.image_key)
        garment = await self._input(claim.garment_key) if claim.garment_key else None
        job = Job(
            session_id=claim.session.id,
            attempt=claim.attempt,
            image=image,
            image_type=_media_type(claim.image_key),
            garment=garment,
            garment_type=_media_type(claim.garment_key) if claim.garment_key else None,
            params=claim.session.params,
        )

        async def report(progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
            try:
                await self._sessions.claims.report(claim, progress, stage, eta_seconds)
            except Exception:
                log.debug("Progress of session %s was not reported", claim.session.id, exc_info=True)

        try:
            output = await self._processor.run(job, report)
        except ProcessorError as error:
            if error.requeue:  # what kept it from working needs a moment, and the queue would give it none
                await asyncio.sleep(AGAIN_SECONDS * 2**claim.session.burnt)
            raise
        if not isinstance(output, Output) or not output.data or not EXTENSION.fullmatch(output.extension):
            raise TypeError(f"the processor returned {output!r}, not an Output with data and an extension")
        return output

    async def _input(self, key: str) -> bytes:
        """While the storage is away the session waits, under its lease and until its
        deadline.
        """
        while True:
            try:
                return await self._files.get(key)
            except Unavailable as error:
                log.warning("%s could not be read now: %s", key, error.detail)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _beat(self, claim: Claim, look: asyncio.Event) -> Literal["cancelled", "lost"]:
        """Renew the lease until somebody else decided otherwise; soon again after it
        could not be.
        """
        period = pause = self._lease_seconds / 3
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):  # wait_for may swallow a cancel (bpo-42130)
                    await look.wait()
            look.clear()
            pause = min(period, AGAIN_SECONDS)
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

    async def _stop(self, work: asyncio.Task[Output]) -> bool:
        """Cancel the processor if it still runs.

        Returns whether the worker was told to stop meanwhile.
        """
        if work.done():
            return False
        work.cancel()
        stopping = await _see_out(work)
        work.add_done_callback(_forget)  # it may still be at it, if the worker is in a hurry
        return stopping

    # -- how it ends: what to write down, tried until it is written or makes no sense
    # any more

    def _end(
        self, claim: Claim, work: asyncio.Task[Output] | None, beat: asyncio.Task[Literal["cancelled", "lost"]]
    ) -> Callable[[], Awaitable[bool]]:
        if work is None:
            return self._hand_back(claim, "cancelled") if beat.result() == "cancelled" else _nothing
        if work.cancelled():
            log.error("The processor of session %s cancelled itself", claim.session.id)
            return self._fail(claim, "processor_error")
        error = work.exception()
        match error:
            case None:
                return lambda: self._complete(claim, work.result())
            case NotStarted():  # not the session's fault: it costs no attempt, and another worker may be warm
                return self._hand_back(claim, "not_started")
            case ProcessorError(requeue=True):
                log.warning("Session %s goes back to the queue: %s", claim.session.id, error)
                return lambda: self._sessions.claims.requeue(claim, burnt=True, reason=error.code)
            case ProcessorError():
                return self._fail(claim, error.code, error.message, error.retryable)
            case MissingFile():
                return self._fail(claim, "input_lost")
            case _:
                log.error("The processor failed on session %s", claim.session.id, exc_info=error)
                return self._fail(claim, "processor_error")

    def _hand_back(self, claim: Claim, reason: str = "drained") -> Callable[[], Awaitable[bool]]:
        return lambda: self._sessions.claims.requeue(claim, burnt=False, reason=reason)

    def _fail(
        self, claim: Claim, code: str, message: str | None = None, retryable: bool | None = None
    ) -> Callable[[], Awaitable[bool]]:
        return lambda: self._sessions.claims.fail(claim, code, message, retryable=retryable)

    async def _complete(self, claim: Claim, output: Output) -> bool:
        for delay in (*STORE_DELAYS, None):
            try:
                if await self._sessions.claims.complete(claim, output.data, output.extension):
                    return True
                break
            except StorageFull:
                if delay is None:
                    return await self._sessions.claims.fail(claim, "storage_full")
                await asyncio.sleep(delay)
        # Refused: the claim was lost, the deadline has passed, or the person cancelled
        # at the last moment.
        if await self._sessions.claims.renew(claim) == "cancelled":
            return await self._sessions.claims.requeue(claim, burnt=False, reason="cancelled")
        return False

    async def _write_down(self, claim: Claim, end: Callable[[], Awaitable[bool]], deadline: float) -> None:
        while True:
            try:
                await end()
                return
            except Unavailable as error:
                log.warning("The end of session %s could not be written down now: %s", claim.session.id, error.detail)
            except Exception:
                log.exception("The end of session %s could not be written down", claim.session.id)
                return
            if asyncio.get_running_loop().time() >= deadline:
                return  # the reconciler has ended it, or will
            await asyncio.sleep(AGAIN_SECONDS)


async def _nothing() -> bool:
    return False


async def _see_out(task: asyncio.Task[Any], seconds: float | None = None) -> bool:
    """Wait until the task has ended.

    A cancel of the waiting one does not reach it, but bounds the wait to
    :data:`SETTLE_SECONDS`; returns whether there was one. ``seconds`` bounds it in any
    case.
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
    """Look at a result nobody wants, so that asyncio does not complain about it."""
    if not task.cancelled():
        task.exception()


def _media_type(key: str) -> str:
    return MEDIA_TYPES.get(key.rpartition(".")[2], "application/octet-stream")
