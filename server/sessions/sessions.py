"""The use cases: everything that can happen to a session, in words of the product.

Each changes the database first (one transaction), then, after the commit, publishes
once. Web and worker call the same methods; neither knows SQL, Redis or file paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from server.adapters.database.changes import Cancel, Change, Complete, Fail, Moved, NewSession, Outcome, Requeue
from server.adapters.database.database import Database
from server.adapters.database.errors import Taken
from server.adapters.files.port import Files, MissingFile
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.queue import ArqQueue, QueueAway
from server.config.settings import Config
from server.domain.access import Access, signed_receipt, view
from server.domain.bus_message import event_frame, event_message, gone_message, history_event, progress_message
from server.domain.queue_place import Waiting, expected_seconds
from server.domain.session import Progress, Session, new_session_id, timestamp, valid_session_id
from server.domain.tokens import Signer, token_hash
from server.sessions.shared_reads import Reader, Reading
from server.telemetry import logs, metrics
from tryon.protocol import errors
from tryon.protocol.errors import NotFound, Unauthorized
from tryon.protocol.frames import EventFrame
from tryon.protocol.states import Event, GoneReason, Status
from tryon.protocol.views import ErasedFile, History, Receipt, ReceiptBody, SessionView

log = logging.getLogger("tryon.sessions")

PROGRESS_SECONDS: Final = 0.2
"""Progress is coalesced to at most one word per session in this time (5 per second)."""

WAITING_SECONDS: Final = 1.0
"""How old a place in the queue may be when it is told."""

MAX_UNFORGOTTEN: Final = 10_000
"""So many erased sessions are remembered for a Redis that is away.

The hourly cleanup finds what more there was.
"""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a caller showed: the hash of a token, or a ticket, or nothing."""

    owner: str | None = None
    ticket: str | None = None

    @classmethod
    def of_token(cls, token: str) -> Credential:
        return cls(owner=token_hash(token))


@dataclass(frozen=True, slots=True)
class Photo:
    """A cleaned image, ready to be stored: upright, no metadata."""

    data: bytes
    extension: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one caller may see of a session at one moment: all of it read by one
    statement.
    """

    session: Session
    view: SessionView
    missed: list[EventFrame]
    access: Access


class _Reports:
    """The progress of one claim on its way out: the newest word waits until the last
    one is 200 ms old.
    """

    __slots__ = ("ended", "last_at", "latest", "timer")

    def __init__(self) -> None:
        self.latest: Progress | None = None
        self.timer: asyncio.Task[None] | None = None
        self.last_at = float("-inf")
        self.ended = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's hold on a session; ``attempt`` fences out whoever held it before."""

    session: Session
    reports: _Reports = field(default_factory=_Reports, repr=False, compare=False)

    @property
    def attempt(self) -> int:
        return self.session.attempt

    @property
    def image_key(self) -> str:
        return self.session.input_key

    @property
    def garment_key(self) -> str | None:
        return self.session.garment_key

    @property
    def params(self) -> dict[str, Any]:
        return self.session.params


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's Idempotency-Key, hashed, and the fingerprint of what it came with."""

    key_hash: str
    fingerprint: str

    @classmethod
    def of(cls, key: str, fingerprint: str) -> Idempotency:
        return cls(hashlib.sha256(key.encode()).hexdigest(), fingerprint)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What became of a wish to cancel; ``pending``: the worker has been asked to stop."""

    view: SessionView
    pending: bool


class Sessions:
    """Built once per process by :func:`server.services.open_services`."""

    def __init__(
        self, *, config: Config, database: Database, files: Files, bus: RedisBus, queue: ArqQueue, signer: Signer
    ) -> None:
        self._config = config
        self._clock = database.clock
        self._reading = database.reading
        self._writing = database.writing
        self._files = files
        self._bus = bus
        self._queue = queue
        self._signer = signer
        self._reader = Reader(database.reading, bus)
        self._undecided: dict[str, list[str]] = {}
        """Files of failed uploads, by a session id that may or may not have a row."""
        self._unqueued: set[str] = set()
        """Sessions that this process could not queue because Redis was away."""
        self._unforgotten: dict[str, Session] = {}
        """Erased sessions that Redis could not be told of."""
        self.erased = asyncio.Event()
        """Something was, and SQLite's log still tells of it."""
        self._waiting: dict[str, Waiting] = {}
        self._joined: dict[str, Waiting] = {}
        """Sessions that this process has queued since it began to read the queue: the
        reading may not know them.
        """
        self._waiting_at = float("-inf")
        self._run_seconds: float | None = None
        self._slots = 0
        self._waiting_lock = asyncio.Lock()

    # -- for clients -------------------------------------------------------------------

    async def submit(
        self,
        *,
        owner: str,
        image: Photo,
        garment: Photo | None,
        params: dict[str, Any],
        request_id: str | None,
        idempotency: Idempotency | None = None,
    ) -> Session:
        """Store the photos, write the session and its first event, and after the commit
        queue it.

        A failure before the commit leaves neither file nor row. A failure to queue is
        not the caller's: the row is safe and the reconciler queues it. Raises
        StorageFull, Unavailable, and Taken if the idempotency key was used meanwhile.
        """
        session_id = new_session_id()
        photos = {"input": (f"inputs/{session_id}-image.{image.extension}", image.data)}
        if garment is not None:
            photos["garment"] = (f"inputs/{session_id}-garment.{garment.extension}", garment.data)
        return await self._create(
            photos,
            NewSession(
                id=session_id,
                owner=owner,
                processor=self._config.processor,
                params=params,
                input_key=photos["input"][0],
                garment_key=photos["garment"][0] if garment is not None else None,
                request_id=request_id,
                deadline_seconds=self._config.deadline_seconds,
                retention_seconds=self._config.retention_seconds,
                idempotency_key=idempotency.key_hash if idempotency else None,
                idempotency_fingerprint=idempotency.fingerprint if idempotency else None,
            ),
        )

    async def _create(self, photos: dict[str, tuple[str, bytes]], new: NewSession) -> Session:
        """Files, then row and first event, then the queue."""
        keys = [key for key, _ in photos.values()]
        try:
            for key, data in photos.values():
                await self._files.put(key, data)
            session = await self._writing.insert(new)
        except BaseException:
            # Also when the client went away: nothing may stay of an upload that has no
            # row.
            await asyncio.shield(self._discard(new.id, keys))
            raise
        for key in keys:
            log.info("Saved input file: %s", key)
        log.info("Created session %s for user %s", session.id, session.owner[:8])
        metrics.transitions.labels(Event.CREATED).inc()
        if position := await self.enqueue(session):  # the queue as it was last read does not know it yet
            self._waiting[session.id] = self._joined[session.id] = self._place(position)
        return session

    async def replay(self, owner: str, idempotency: Idempotency) -> Session | None:
        """The session that this Idempotency-Key made.

        Raises Unprocessable if it was made from something else.
        """
        found = await self._reading.by_idempotency_key(owner, idempotency.key_hash)
        if found is None:
            return None
        session, fingerprint = found
        if fingerprint != idempotency.fingerprint:
            raise errors.Unprocessable("idempotency_mismatch")
        return session

    async def _discard(self, session_id: str, keys: list[str]) -> None:
        """Delete the files of an upload that failed, unless its commit went through
        after all.

        While the database cannot tell, they are kept in mind: a photo without a session
        must not lie about for hours.
        """
        try:
            if not await self._reading.ids_among([session_id]):
                await self._files.delete(keys)
            self._undecided.pop(session_id, None)
        except errors.Unavailable:
            self._undecided[session_id] = keys

    async def discard_undecided(self) -> None:
        for session_id, keys in list(self._undecided.items()):
            await self._discard(session_id, keys)

    async def enqueue(self, session: Session) -> int:
        """How many wait now; 0: Redis is away."""
        try:
            position = await self._queue.enqueue(
                session.id, session.attempt, session.enqueues, score_ms=int(session.created_at.timestamp() * 1000)
            )
        except QueueAway:
            metrics.enqueue_failures.inc()
            if session.id not in self._unqueued:
                log.warning("Session %s could not be queued now; it will be when Redis is back", session.id)
            self._unqueued.add(session.id)
            return 0
        self._unqueued.discard(session.id)
        return position

    async def enqueue_again(self, session: Session) -> bool:
        """Of one that waits, some time after its commit.

        False: Redis is away. If it is erased meanwhile, so is its job.
        """
        if not await self.enqueue(session):
            return False
        if not await self._reading.ids_among([session.id]):
            with contextlib.suppress(QueueAway):
                await self._queue.forget(session.id, session.attempt, session.enqueues)
        return True

    async def enqueue_unqueued(self) -> None:
        """Those that this process could not queue: again under the same n, as nobody
        else knows that they failed.
        """
        for session_id in list(self._unqueued):
            session = await self._reading.get(session_id)
            if session is None or session.status is not Status.CREATED:
                self._unqueued.discard(session_id)
            elif not await self.enqueue_again(session):
                return

    def access(self, *, until: int | None = None) -> Access:
        """What a token holder's answers may hold; ``until``: a ticket holder's."""
        return Access(
            self._signer, self._clock.now(), self._config.link_seconds, self._config.ticket_seconds, until=until
        )

    async def look(self, session_id: str, credential: Credential, *, since: int | None = None) -> Look:
        """The session as this caller may see it, with the events after ``since``.

        Raises NotFound for an unknown id and for a wrong or missing credential alike,
        Unauthorized for a bad ticket.
        """
        return await self._look(*await self._read_as(session_id, credential, since))

    async def _read_as(self, session_id: str, credential: Credential, since: int | None) -> tuple[Reading, int | None]:
        """What is known of the session, and until when its reader's ticket holds.

        Raises as :meth:`look`.
        """
        until = None
        if credential.ticket is not None:
            until = self._signer.check_ticket(session_id, credential.ticket, now=self._clock.now())
            if until is None:
                raise Unauthorized("invalid_ticket")
        reading = await self._read(session_id, since, lambda owner: until is not None or owner == credential.owner)
        if reading is None:
            raise NotFound
        return reading, until

    async def look_again(self, session_id: str, *, until: int | None, since: int | None) -> Look:
        """For a client that was let in before: an open socket outlives its ticket.

        Raises NotFound once it is erased.
        """
        reading = await self._read(session_id, since, lambda owner: True)
        if reading is None:
            raise NotFound
        return await self._look(reading, until)

    async def _read(self, session_id: str, since: int | None, may: Callable[[str], bool]) -> Reading | None:
        return await self._reader.read(session_id, since, may) if valid_session_id(session_id) else None

    async def _look(self, reading: Reading, until: int | None) -> Look:
        session, access = reading.story.session, self.access(until=until)
        waiting = (await self.waiting()).get(session.id) if session.status is Status.CREATED else None
        return Look(
            session,
            view(session, access, progress=reading.progress, waiting=waiting),
            [event_frame(event, access.file) for event in reading.story.events],
            access,
        )

    async def view_of(self, session: Session) -> SessionView:
        """What its owner sees of a session that was just read or made."""
        return await self._view(session, self.access())

    def _place(self, position: int) -> Waiting:
        return Waiting(position, expected_seconds(position, run_seconds=self._run_seconds, slots=self._slots))

    async def _view(self, session: Session, access: Access) -> SessionView:
        return (await self._views([session], access))[0]

    async def _views(self, sessions: list[Session], access: Access) -> list[SessionView]:
        progress = await self._bus.last_progress([s.id for s in sessions if s.status is Status.PROCESSING])
        waiting = await self.waiting() if any(s.status is Status.CREATED for s in sessions) else {}
        return [view(s, access, progress=progress.get(s.id), waiting=waiting.get(s.id)) for s in sessions]

    async def waiting(self) -> dict[str, Waiting]:
        """Every waiting session's place in the queue and time to its end; empty while
        Redis is away.

        Read at most once in :data:`WAITING_SECONDS` (and a second more for each
        thousand that wait), however many ask: what is pushed and what is polled are the
        same. The same object again means: not read again.
        """
        loop = asyncio.get_running_loop()
        good_for = WAITING_SECONDS + len(self._waiting) // 1000
        if loop.time() - self._waiting_at < good_for:
            return self._waiting
        async with self._waiting_lock:
            if loop.time() - self._waiting_at >= good_for:
                self._joined.clear()
                try:
                    order, self._run_seconds, workers = await asyncio.gather(
                        self._queue.order(self._config.queue_limit),
                        self._queue.run_seconds(self._config.processor),
                        self._queue.workers(),
                    )
                except QueueAway:
                    order, self._run_seconds, workers = [], None, 0
                self._slots = workers * self._config.worker_jobs
                self._waiting = self._joined | {id: self._place(n) for n, id in enumerate(order, 1)}
                self._waiting_at = loop.time()
            return self._waiting

    async def mine(
        self, owner: str, *, limit: int, before: tuple[datetime, str] | None
    ) -> tuple[list[SessionView], tuple[datetime, str] | None]:
        """An owner's sessions, newest first, and where the next page begins."""
        sessions = await self._reading.of_owner(owner, limit=limit + 1, before=before)
        page = sessions[:limit]
        views = await self._views(page, self.access())
        return views, (page[-1].created_at, page[-1].id) if len(sessions) > limit else None

    async def history(self, session_id: str, credential: Credential) -> History:
        """The audit trail from the beginning. Raises as :meth:`look`."""
        reading, until = await self._read_as(session_id, credential, 0)
        access = self.access(until=until)
        delivered_at = reading.story.session.delivered_at
        return History(
            [history_event(event, access.file) for event in reading.story.events],
            None if delivered_at is None else timestamp(delivered_at),
        )

    async def file(self, key: str, *, expires: str, key_id: str, signature: str) -> str:
        """The key of a file that a signed link opens, if a living session still names
        it. Raises NotFound.
        """
        now = self._clock.now()
        if self._signer.check_link(key, expires=expires, key_id=key_id, signature=signature, now=now) is None:
            raise NotFound
        session_id = key.partition("/")[2][:36]
        session = await self._reading.get(session_id) if valid_session_id(session_id) else None
        if session is None or key not in session.file_keys:
            raise NotFound
        return key

    # -- what an owner may do ----------------------------------------------------------

    async def _own(self, session_id: str, owner: str | None) -> Session:
        """The owner's session; a ticket is read-only and owns nothing.

        Raises NotFound.
        """
        session = await self._reading.get(session_id) if valid_session_id(session_id) else None
        if session is None or session.owner != owner:
            raise NotFound
        return session

    async def cancel(self, session_id: str, owner: str | None) -> Cancelled:
        """Cancel at once what waits, ask the worker to stop what runs, leave what has
        ended. Raises NotFound.
        """
        for _ in range(10):  # the state may move on between reading and acting; each turn of the wheel is a transition
            session = await self._own(session_id, owner)
            if session.status is Status.CREATED:
                moved = await self._writing.transition(
                    Change(
                        session_id=session.id,
                        outcome=Cancel(),
                        from_status=Status.CREATED,
                        actor="client",
                        seq=session.seq,
                    )
                )
                if moved is not None:
                    await self._tell(moved)
                    log.info("Session %s was cancelled", session.id)
                    with contextlib.suppress(QueueAway):
                        await self._queue.forget(session.id, session.attempt, session.enqueues)
                    return Cancelled(await self._view(moved.session, self.access()), pending=False)
            elif session.status is Status.PROCESSING:
                if await self._writing.request_cancel(session.id, seq=session.seq):
                    with contextlib.suppress(QueueAway):
                        await self._queue.ring_cancel(session.id)
                    return Cancelled(await self._view(session, self.access()), pending=True)
            else:
                return Cancelled(await self._view(session, self.access()), pending=False)
        raise errors.Unavailable(retry_after=1)

    async def retry(self, session_id: str, owner: str | None, *, request_id: str | None) -> tuple[Session, bool]:
        """A failed or cancelled session again, over its own copy of the inputs; and
        whether that was done before.

        Raises NotFound, also when the original is erased meanwhile; Conflict in any
        other state; StorageFull, Unavailable.
        """
        original = await self._own(session_id, owner)
        if original.status not in (Status.FAILED, Status.CANCELLED):
            raise errors.Conflict("not_finished")
        if (successor := await self._reading.retry_of(original.id)) is not None:
            return successor, True
        new_id = new_session_id()
        photos: dict[str, tuple[str, bytes]] = {}
        try:
            for role, key in (("input", original.input_key), ("garment", original.garment_key)):
                if key is not None:
                    photos[role] = (key.replace(original.id, new_id), await self._files.get(key))
        except MissingFile:
            raise NotFound from None
        new = NewSession(
            id=new_id,
            owner=original.owner,
            processor=self._config.processor,
            params=original.params,
            input_key=photos["input"][0],
            garment_key=photos["garment"][0] if "garment" in photos else None,
            request_id=request_id,
            deadline_seconds=self._config.deadline_seconds,
            retention_seconds=self._config.retention_seconds,
            expires_at=original.expires_at,
            retry_of=original.id,
        )
        try:
            return await self._create(photos, new), False
        except Taken:
            successor = await self._reading.retry_of(original.id)
            if successor is None:  # it was erased in between, with the original
                raise NotFound from None
            return successor, True

    async def delete(self, session_id: str, owner: str | None) -> Receipt:
        """Erase a session and every retry of the same photo now.

        Raises NotFound, and Unavailable if the storage is away: then it is unreadable
        already and the reconciler erases it when it can.
        """
        asked = await self._own(session_id, owner)
        family = await self._writing.mark_deleted(asked.id, id_hash=self._signer.gone_hash)
        if asked.id not in {session.id for session in family}:
            raise NotFound  # somebody else was quicker
        for session in family:  # told first: the storage may fail or be slow
            await self._bus.publish(session.id, gone_message(GoneReason.DELETED))
            with contextlib.suppress(QueueAway):
                await self._queue.ring_cancel(session.id)
        files = [file for session in family for file in await self._erased_files(session)]
        unnamed = [session.id for session in family if may_have_unnamed_outputs(session)]
        outputs = await self._files.outputs_of(unnamed) if unnamed else []
        for session in family:
            own = [key for key in outputs if session_of(key) == session.id]
            await self.erase(session, GoneReason.DELETED, outputs=own)
        at = timestamp(datetime.fromtimestamp(self._clock.now(), UTC))
        return signed_receipt(ReceiptBody(asked.id, GoneReason.DELETED.value, at, files), self._signer)

    async def _erased_files(self, session: Session) -> list[ErasedFile]:
        found = []
        roles = (("image", session.input_key), ("garment", session.garment_key), ("output", session.output_key))
        for role, key in roles:
            if key is not None:
                with contextlib.suppress(MissingFile):
                    data = await self._files.get(key)
                    found.append(ErasedFile(session.id, role, len(data), await asyncio.to_thread(_sha256, data)))
        return found

    # -- for workers -------------------------------------------------------------------

    async def begin(self, session_id: str, *, worker: str) -> Claim | None:
        """Claim a waiting session for one worker.

        None: there is nothing to do (taken, ended, past its deadline, gone).
        """
        moved = await self._writing.claim(
            session_id, worker=worker, lease_seconds=self._config.lease_seconds, actor=f"worker:{worker}"
        )
        if moved is None:
            return None
        logs.request_id.set(moved.session.request_id)
        await self._tell(moved)
        log.info("Processing session %s", session_id)
        return Claim(moved.session)

    async def renew(self, claim: Claim) -> Literal["held", "cancelled", "lost"]:
        """Heartbeat: extend the claim's lease, and learn whether it still counts.

        Raises Unavailable.
        """
        flag = await self._writing.renew(
            claim.session.id, attempt=claim.attempt, lease_seconds=self._config.lease_seconds
        )
        return "lost" if flag is None else "cancelled" if flag else "held"

    async def report(
        self, claim: Claim, progress: float | None, stage: str | None, eta_seconds: float | None = None
    ) -> None:
        """The latest word about a running session.

        Never waits for Redis; at most 5 a second go out, the newest wins. After the
        claim's end nothing does.
        """
        reports = claim.reports
        if reports.ended:
            return
        reports.latest = Progress(
            seq=claim.session.seq,
            attempt=claim.attempt,
            at=timestamp(datetime.fromtimestamp(self._clock.now(), UTC)),
            progress=None if progress is None else min(1.0, max(0.0, round(progress, 4))),
            stage=stage,
            eta_seconds=None if eta_seconds is None else max(0.0, round(eta_seconds, 1)),
        )
        if reports.timer is None:
            reports.timer = asyncio.create_task(self._send_reports(claim, reports), name="progress")

    async def _send_reports(self, claim: Claim, reports: _Reports) -> None:
        loop = asyncio.get_running_loop()
        try:
            while reports.latest is not None:
                await asyncio.sleep(reports.last_at + PROGRESS_SECONDS - loop.time())
                latest, reports.latest = reports.latest, None
                reports.last_at = loop.time()
                message = progress_message(claim.session.id, latest)
                await self._bus.publish_progress(claim.session.id, latest, message)
        finally:
            reports.timer = None

    async def _end_reports(self, claim: Claim) -> None:
        claim.reports.ended = True
        timer, claim.reports.timer = claim.reports.timer, None
        if timer is not None:
            timer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await timer

    async def complete(self, claim: Claim, data: bytes, extension: str) -> bool:
        """Store the output, then processing -> completed.

        False: the claim was lost, and its output is gone again.

        Raises StorageFull, Unavailable.
        """
        await self._end_reports(claim)
        key = f"outputs/{claim.session.id}-{claim.attempt}.{extension}"
        await self._files.put(key, data)
        moved = None
        try:
            moved = await self._change(claim, Complete(key), strict=True)
        finally:
            if moved is None:  # who loses the compare-and-set deletes its own file
                await asyncio.shield(self._discard_output(claim.session.id, key))
        if moved is None:
            return False
        log.info("Session %s completed successfully", claim.session.id)
        with contextlib.suppress(QueueAway):
            ran = moved.session.updated_at - claim.session.updated_at
            await self._queue.note_run(claim.session.processor, ran.total_seconds())
        return True

    async def _discard_output(self, session_id: str, key: str) -> None:
        with contextlib.suppress(errors.TryOnError):
            session = await self._reading.get(session_id)
            if session is None or session.output_key != key:
                await self._files.delete([key])

    async def fail(self, claim: Claim, code: str, message: str | None = None, *, retryable: bool | None = None) -> bool:
        """processing -> failed.

        ``message`` is shown to the person; None: the code's own. False: the claim was
        lost.
        """
        await self._end_reports(claim)
        moved = await self._change(claim, _failure(code, message, retryable))
        if moved is None:
            return False
        log.info("Session %s failed: %s", claim.session.id, code)
        return True

    async def requeue(self, claim: Claim, *, burnt: bool, reason: str) -> bool:
        """Hand a session back to the queue.

        ``burnt``: the attempt counts against the limit; at the limit it fails.
        """
        await self._end_reports(claim)
        return await self._requeue(claim.session, actor=self._actor(claim), burnt=burnt, reason=reason)

    async def _requeue(
        self, session: Session, *, actor: str, burnt: bool, reason: str, lease_lapsed: bool = False
    ) -> bool:
        """processing -> created; or failed, with the last attempt burnt; or cancelled,
        if that was asked for.
        """
        lost = session.burnt + burnt
        common: dict[str, Any] = {
            "session_id": session.id,
            "from_status": Status.PROCESSING,
            "actor": actor,
            "attempt": session.attempt,
            "lease_lapsed": lease_lapsed,
        }
        if lost >= self._config.max_attempts:
            outcome: Outcome = _failure("worker_lost", burnt=lost)
        else:
            outcome = Requeue(reason=reason, burnt=lost, enqueues=session.enqueues + 1)
        change = Change(outcome=outcome, cancelled=False, **common)
        moved = await self._writing.transition(change) or await self._writing.transition(
            Change(outcome=Cancel(), cancelled=True, **common)
        )
        if moved is None:
            return False
        await self._tell(moved)
        if moved.event.event is Event.REQUEUED:
            await self.enqueue(moved.session)
        else:
            log.info(
                "Session %s %s",
                session.id,
                "was cancelled" if moved.event.event is Event.CANCELLED else "failed: worker_lost",
            )
        return True

    def _actor(self, claim: Claim) -> str:
        return f"worker:{claim.session.lease_owner}"

    async def _change(self, claim: Claim, outcome: Outcome, *, strict: bool = False) -> Moved | None:
        """One transition of a claim.

        ``strict``: only within the deadline and uncancelled.
        """
        moved = await self._writing.transition(
            Change(
                session_id=claim.session.id,
                outcome=outcome,
                from_status=Status.PROCESSING,
                actor=self._actor(claim),
                seq=claim.session.seq,
                attempt=claim.attempt,
                within_deadline=strict,
                cancelled=False if strict else None,
            )
        )
        if moved is not None:
            await self._tell(moved)
        return moved

    async def _tell(self, moved: Moved) -> None:
        """After the commit: count, log, publish once."""
        event = moved.event
        metrics.transitions.labels(event.event).inc()
        log.info(
            "Session state transition: %s → %s", event.from_status, event.status, extra={"session_id": event.session_id}
        )
        await self._bus.publish(event.session_id, event_message(event, self.access().file))

    # -- for the reconciler ------------------------------------------------------------

    async def time_out(self, session_ids: Collection[str]) -> set[str]:
        """Those of these that are past their deadline -> failed: many at once.

        Which they were.
        """
        moved = await self._writing.time_out(session_ids, _failure("timeout"), actor="reconciler")
        for each in moved:
            await self._tell(each)
            log.info("Session %s failed: timeout", each.session.id)
        return {each.session.id for each in moved}

    async def take_back(self, session: Session) -> bool:
        """Whose worker let its lease lapse: processing -> created, or its end.

        False: the worker was back in time.
        """
        return await self._requeue(session, actor="reconciler", burnt=True, reason="lease_lost", lease_lapsed=True)

    async def deleted_among(self, expired: Collection[Session]) -> set[str]:
        """The ids of those that are not over by the clock:

        :meth:`delete` has hidden them, and was slow or died.
        """
        ids = {hashed: each.id for each in expired for hashed in self._signer.gone_hashes(each.id)}
        return {ids[hashed] for hashed in await self._reading.deleted_among(ids)}

    async def erase(self, session: Session, reason: GoneReason, *, outputs: list[str] | None = None) -> None:
        """Remove everything of a session: files first (a row without files is tried
        again, a file without a row is an orphan), then row and events, then what Redis
        holds; then tell whoever is connected.

        ``outputs``: all its result files, if the caller looked for many sessions' at
        once; that takes a listing of them all.
        """
        keys = session.file_keys
        if outputs is None and may_have_unnamed_outputs(session):
            outputs = await self._files.outputs_of([session.id])
        keys += [key for key in outputs or () if key not in keys]
        for key in await self._files.delete(keys):
            log.info("Deleted %s file: %s", "output" if key.startswith("outputs/") else "input", key)
        erased = await self._writing.erase({session.id: self._signer.gone_hash(session.id)}, reason)
        self.erased.set()
        for row in erased:
            # An output that was completed between the two steps is named only by the
            # row that was just removed.
            await self._files.delete(row.file_keys)
            await self._bus.publish(row.id, gone_message(reason))
            if not await self._forget(row) and len(self._unforgotten) < MAX_UNFORGOTTEN:
                self._unforgotten[row.id] = row
            log.info(
                "Cleaned up expired session: %s" if reason is GoneReason.EXPIRED else "Deleted session: %s", row.id
            )

    async def _forget(self, erased: Session) -> bool:
        """Delete every key of a session. False: Redis is away."""
        try:
            await self._queue.forget(erased.id, erased.attempt, erased.enqueues)
        except QueueAway:
            return False
        return await self._bus.forget([erased.id])

    async def forget_erased(self) -> bool:
        """What Redis could not forget while it was away. False: it is."""
        for session in list(self._unforgotten.values()):
            if not await self._forget(session):
                return False
            del self._unforgotten[session.id]
        return True


def may_have_unnamed_outputs(session: Session) -> bool:
    """An attempt may have died after it had stored its file."""
    return session.attempt > 1 or (session.attempt == 1 and session.status is not Status.COMPLETED)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def session_of(key: str) -> str:
    return key.partition("/")[2][:36]


def _failure(code: str, message: str | None = None, retryable: bool | None = None, *, burnt: int | None = None) -> Fail:
    known = errors.FAILURES.get(code)
    text = message or (known or errors.FAILURES["processor_error"]).detail
    again = retryable if retryable is not None else (known.retryable if known else True)
    return Fail(code, text[:500], again, burnt)
