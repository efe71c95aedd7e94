"""Everything a worker does with a session: claim it, keep it, report, end it.

A claim is fenced by its attempt: after another worker has claimed the session, or it
has ended, nothing that the first one does changes anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from server.adapters.database.attempts import AttemptWriter
from server.adapters.database.changes import Change, Complete, Fail, Moved, Outcome, Usage
from server.adapters.database.clock import DatabaseClock
from server.adapters.database.reading import SessionReader
from server.adapters.database.writing import SessionWriter
from server.adapters.files.port import Files
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue
from server.domain.session import Progress, Session, timestamp
from server.domain.stored_files import Direction, NewFile
from server.domain.upstream import UpstreamWork
from server.sessions.access import AccessIssuer
from server.sessions.checkpoints import Checkpoints
from server.sessions.describing import describe
from server.sessions.file_keys import output_key, preview_key
from server.sessions.progress import ProgressReports
from server.sessions.requeueing import Requeueing
from server.sessions.transitions import Transitions, failure
from server.telemetry import logs, metrics
from server.telemetry.once import Once
from tryon.protocol.errors import TryOnError
from tryon.protocol.states import Event, Status

log = logging.getLogger("tryon.sessions")


@dataclass(slots=True)
class _Notes:
    """The progress of a claim."""

    work: UpstreamWork | None
    """The work upstream that its last checkpoint, or that of an attempt before, finds.
    """
    usage: Usage | None = None
    previews: int = 0
    showing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a preview is stored, so that they replace each other in order."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's hold on a session; ``attempt`` fences out every earlier worker."""

    session: Session
    worker: str
    reports: ProgressReports = field(repr=False, compare=False)
    notes: _Notes = field(repr=False, compare=False)

    @property
    def work(self) -> UpstreamWork | None:
        """The work upstream that was begun, by this attempt or an earlier one."""
        return self.notes.work

    @property
    def usage(self) -> Usage | None:
        """Return the usage of the attempt so far, as its processor has said it."""
        return self.notes.usage

    @property
    def processor(self) -> str:
        """The name of the processor that runs this attempt."""
        return self.session.processor

    @property
    def attempt(self) -> int:
        """The number of this claim, from 1."""
        return self.session.attempt

    @property
    def actor(self) -> str:
        """The worker's name in the audit trail."""
        return f"worker:{self.worker}"


class Claims:
    """The steps of a worker; each claim carries its own state.

    State: the sessions that were logged to wait for another processor.
    """

    def __init__(
        self,
        *,
        reader: SessionReader,
        writer: SessionWriter,
        attempts: AttemptWriter,
        checkpoints: Checkpoints,
        access: AccessIssuer,
        files: Files,
        bus: RedisBus,
        queue: ArqQueue,
        transitions: Transitions,
        requeueing: Requeueing,
        database_clock: DatabaseClock,
        lease_seconds: float,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._attempts = attempts
        self._checkpoints = checkpoints
        self._access = access
        self._files = files
        self._bus = bus
        self._queue = queue
        self._transitions = transitions
        self._requeueing = requeueing
        self._database_clock = database_clock
        self._lease_seconds = lease_seconds
        self._waiting = Once()

    async def begin(
        self, session_id: str, *, worker: str, run: int = 0, processors: Collection[str] | None = None
    ) -> Claim | None:
        """Claim a waiting session for one run of a worker.

        ``processors``: those of the worker; None: any. Return None if there is nothing
        to do (claimed, ended, past its deadline, erased), or the session was judged by
        another processor: it waits for a worker that has it. Raises Unavailable; the
        claim may have been committed then, and its answer lost. A repeated call of the
        same run returns that claim.
        """
        owner = f"{worker}#{run}"
        moved = await self._writer.claim(
            session_id,
            worker=owner,
            lease_seconds=self._lease_seconds,
            actor=f"worker:{worker}",
            processors=processors,
        ) or await self._unanswered(session_id, owner, processors)
        if moved is None:
            return None
        logs.request_id.set(moved.session.request_id)
        work = await self._checkpoints.load(session_id) if moved.session.attempt > 1 else None
        await self._transitions.announce(moved)
        log.info("Processing session %s", session_id)
        reports = ProgressReports(session_id, self._bus, self._access)
        return Claim(moved.session, worker, reports, _Notes(work))

    async def renew(self, claim: Claim) -> Literal["held", "cancelled", "lost"]:
        """Extend the claim's lease, and return whether it still counts.

        Raises Unavailable.
        """
        flag = await self._writer.renew(claim.session.id, attempt=claim.attempt, lease_seconds=self._lease_seconds)
        return "lost" if flag is None else "cancelled" if flag else "held"

    async def report(
        self,
        claim: Claim,
        progress: float | None,
        stage: str | None,
        eta_seconds: float | None = None,
        *,
        step: int | None = None,
        steps: int | None = None,
        upstream_position: int | None = None,
    ) -> None:
        """Publish the progress of a running session (0..1, or None if unknown).

        Never waits for Redis; at most 5 messages a second go out, the newest wins.
        After the claim's end none does.
        """
        claim.reports.add(
            Progress(
                seq=claim.session.seq,
                attempt=claim.attempt,
                at=self._now(),
                progress=None if progress is None else min(1.0, max(0.0, round(progress, 4))),
                stage=stage,
                eta_seconds=None if eta_seconds is None else max(0.0, round(eta_seconds, 1)),
                step=step,
                steps=steps,
                upstream_position=upstream_position,
            )
        )

    async def preview(self, claim: Claim, picture: NewFile) -> bool:
        """Store an intermediate picture, and show it in place of the one before.

        Return False if the claim was lost; then the picture is deleted again. Raises
        StorageFull, Unavailable.
        """
        session_id = claim.session.id
        async with claim.notes.showing:
            claim.notes.previews += 1
            key = preview_key(session_id, claim.attempt, claim.notes.previews, picture.extension)
            (file,) = await describe([replace(picture, role="preview")], Direction.PREVIEW, lambda *_: key)
            try:
                await self._files.put(key, picture.data)
                replaced = await self._attempts.replace_preview(session_id, attempt=claim.attempt, file=file)
            except BaseException:
                # Above all a cancel, because the session was deleted: its erasure has
                # listed the files by then, and would never see this one.
                await asyncio.shield(self._discard(session_id, [key]))
                raise
            if replaced is None:
                await asyncio.shield(self._discard(session_id, [key]))
                return False
            claim.reports.show(key, seq=claim.session.seq, attempt=claim.attempt, at=self._now())
            with contextlib.suppress(TryOnError):  # else it goes with its session
                await self._files.delete(replaced)
        return True

    async def checkpoint(self, claim: Claim, checkpoint: Mapping[str, Any], *, deletable: bool = True) -> bool:
        """Commit what finds the claim's work upstream again, before this returns.

        It is the work of the checkpoint before, unless that was given up or forgotten.
        ``deletable``: whether the processor can delete what is kept there.
        Return False if the claim was lost: then nothing is kept. Raises Unavailable,
        StorageFull, ValueError.
        """
        before = claim.work
        key = before.key if before is not None and before.checkpoint else f"{claim.session.id}-{claim.attempt}"
        usage = None if claim.notes.usage is None else dict(claim.notes.usage)
        work = UpstreamWork(claim.processor, key, dict(checkpoint), deletable, claim.attempt, usage)
        if not await self._checkpoints.save(claim.session.id, claim.attempt, work):
            return False
        claim.notes.work = work
        return True

    async def give_up_work(self, claim: Claim) -> bool:
        """Let work upstream of an earlier attempt be forgotten: this one starts anew.

        Return False if the claim was lost: then nothing changes. Raises Unavailable.
        """
        if not await self._attempts.give_up_checkpoint(claim.session.id, attempt=claim.attempt):
            return False
        claim.notes.work = None
        return True

    async def hold_deadline(self, claim: Claim, seconds: float) -> bool:
        """Let the session's deadline be this far from now: its processor is starting.

        Return False if the claim was lost, or the session expires before that. Raises
        Unavailable.
        """
        return await self._attempts.extend_deadline(claim.session.id, attempt=claim.attempt, seconds=seconds)

    def note_usage(self, claim: Claim, usage: Usage) -> None:
        """Note what the attempt has used so far, in place of what was noted before.

        It stands in the event that ends the attempt. If its worker is not the one that
        ends it (lost, past the deadline, redriven by an operator), that event has what
        was noted before the last checkpoint.
        """
        claim.notes.usage = usage

    def _now(self) -> str:
        return timestamp(datetime.fromtimestamp(self._database_clock.now(), UTC))

    async def complete(self, claim: Claim, outputs: Sequence[NewFile]) -> bool:
        """Store the outputs, then move the session to completed.

        ``outputs``: at least one, the most important one first. Return False if the
        claim was lost; then its outputs are deleted again, as they are when one of them
        was not stored. Raises StorageFull, Unavailable. The outputs stay when the
        commit was not confirmed: it may still go through. The next try decides, or the
        session's erasure.
        """
        await claim.reports.end()
        session_id = claim.session.id
        async with claim.notes.showing:
            pass  # a preview that was being stored is named, or deleted
        files = await describe(
            outputs,
            Direction.OUTPUT,
            lambda file, index: output_key(session_id, claim.attempt, file.role, index, file.extension),
        )
        keys = [file.key for file in files]
        try:
            for key, output in zip(keys, outputs, strict=True):
                await self._files.put(key, output.data)
        except BaseException:
            # The session may have been erased: nothing else would delete them then.
            await asyncio.shield(self._discard(session_id, keys))
            raise
        moved = await self._change(claim, Complete(files), strict=True)
        if moved is None:  # the claim that loses the compare-and-set deletes its own files
            await asyncio.shield(self._discard(session_id, keys))
            return False
        log.info("Session %s completed successfully", claim.session.id)
        with contextlib.suppress(QueueUnavailable):
            ran = moved.session.updated_at - claim.session.updated_at
            await self._queue.note_run(claim.session.processor, ran.total_seconds())
        return True

    async def fail(self, claim: Claim, code: str, message: str | None = None, *, retryable: bool | None = None) -> bool:
        """Move the session to failed.

        ``message`` is shown to the client; None: the code's own text. Return False if
        the claim was lost.
        """
        await claim.reports.end()
        moved = await self._change(claim, failure(code, message, retryable))
        if moved is None:
            return False
        log.info("Session %s failed: %s", claim.session.id, code)
        return True

    async def requeue(
        self, claim: Claim, *, burnt: bool, reason: str, error: Fail | None = None, processor: str | None = None
    ) -> bool:
        """Hand a session back to the queue.

        ``burnt``: the attempt counts against the limit; at the limit the session fails,
        with ``error`` if there is one. ``processor``: that of the next attempt; None:
        the same. Return False if the claim was lost.
        """
        await claim.reports.end()
        requeued = await self._requeueing.requeue(
            claim.session,
            actor=claim.actor,
            burnt=burnt,
            reason=reason,
            error=error,
            usage=claim.notes.usage,
            processor=processor,
        )
        if requeued:
            self._observe_run(claim, Event.REQUEUED, self._database_clock.now())
        return requeued

    async def _unanswered(self, session_id: str, owner: str, processors: Collection[str] | None) -> Moved | None:
        """Return the claim that an earlier call of this run committed, or None.

        An earlier call whose commit is still under way holds the row: the claim that
        was refused just now has waited for it.
        """
        found = await self._reader.with_events(session_id, since=0)
        if found is None:
            return None
        wanted = found.session.processor
        waits = processors is not None and wanted not in processors and found.session.status is Status.CREATED
        if waits and self._waiting.first(session_id):  # it is enqueued again every few seconds
            log.warning("Session %s waits for a worker with the processor %s", session_id, wanted)
        if found.session.lease_owner != owner:
            return None
        return Moved(found.session, found.events[-1])

    async def _discard(self, session_id: str, keys: Sequence[str]) -> None:
        """Delete those of these files that the session's rows do not name."""
        with contextlib.suppress(TryOnError):
            named = await self._attempts.settled_keys(session_id)
            await self._files.delete([key for key in keys if key not in named])

    async def _change(self, claim: Claim, outcome: Outcome, *, strict: bool = False) -> Moved | None:
        """Try one transition of a claim.

        ``strict``: only within the deadline and uncancelled.
        """
        moved = await self._transitions.apply(
            Change(
                session_id=claim.session.id,
                outcome=outcome,
                from_status=Status.PROCESSING,
                actor=claim.actor,
                seq=claim.session.seq,
                attempt=claim.attempt,
                within_deadline=strict,
                cancelled=False if strict else None,
                usage=claim.notes.usage,
            )
        )
        if moved is not None:
            self._observe_run(claim, moved.event.event, moved.event.at.timestamp())
        return moved

    def _observe_run(self, claim: Claim, outcome: str, at: float) -> None:
        ran = metrics.run_seconds.labels(claim.processor, outcome)
        ran.observe(max(0.0, at - claim.session.updated_at.timestamp()))
