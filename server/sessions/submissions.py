"""New sessions: an upload, its replay by idempotency key, and a retry of an old one.

Order of a submission: files, then the row with its first event in one transaction,
then, after the commit, the queue and the owner's channel. A failure before the commit
leaves neither file nor row; a failure after it is repaired by the reconciler. If the
commit was not confirmed, the files stay until it is certain that no row of theirs will
appear.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from server.adapters.database.changes import NewSession
from server.adapters.database.commits import Commits
from server.adapters.database.errors import Taken
from server.adapters.database.reading import SessionReader
from server.adapters.database.writing import SessionWriter
from server.adapters.files.port import Files, MissingFile
from server.adapters.redis.bus import RedisBus
from server.domain.allowance import Allowance
from server.domain.outputs import EXTENSIONS
from server.domain.quotas import Quota
from server.domain.session import MAX_SEED, Session, session_id_of
from server.domain.stored_files import Direction, NewFile, StoredFile
from server.domain.tokens import Signer
from server.sessions.describing import describe
from server.sessions.file_keys import input_key
from server.sessions.ownership import owned_session
from server.sessions.queue_places import QueuePlaces
from server.sessions.queueing import Queueing
from server.system.clock import Clock
from server.system.randomness import Randomness
from server.telemetry import metrics, tracing
from tryon.protocol import errors
from tryon.protocol.errors import NotFound
from tryon.protocol.states import Event, Status
from tryon.protocol.views import Params

log = logging.getLogger("tryon.sessions")

REFUSALS: Final = (Taken, NotFound, errors.StorageFull, errors.RateLimited)
"""Errors of an insert after which its row certainly does not exist; after any other the
commit may still go through.
"""


def _key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A hashed Idempotency-Key, and the fingerprint of the request that carried it."""

    key_hash: str
    fingerprint: str

    @classmethod
    def of(cls, key: str, fingerprint: str) -> Idempotency:
        """Return the value for a client's key as it was sent."""
        return cls(_key_hash(key), fingerprint)


@dataclass(slots=True)
class _Undecided:
    """The files of an upload that failed, and may or may not have a row.

    ``mark``: every transaction below it must end first; None: not asked for yet.
    """

    keys: list[str]
    mark: int | None = None


class Submissions:
    """Creates sessions: stores the photos, commits the row and enqueues it.

    State: the files of failed uploads. They stay until it is certain that no commit of
    theirs will go through.
    """

    def __init__(
        self,
        *,
        files: Files,
        writer: SessionWriter,
        reader: SessionReader,
        commits: Commits,
        bus: RedisBus,
        queueing: Queueing,
        queue_places: QueuePlaces,
        clock: Clock,
        randomness: Randomness,
        signer: Signer,
        allowance: Allowance,
        processor: str,
        deadline_seconds: float,
        retention_seconds: float,
        webhook: str | None = None,
        metered: bool = False,
    ) -> None:
        self._webhook = webhook
        self._metered = metered
        self._signer = signer
        self._allowance = None if allowance.unlimited else allowance
        self._processor = processor
        self._deadline_seconds = deadline_seconds
        self._retention_seconds = retention_seconds
        self._files = files
        self._writer = writer
        self._reader = reader
        self._commits = commits
        self._bus = bus
        self._queueing = queueing
        self._queue_places = queue_places
        self._clock = clock
        self._randomness = randomness
        self._undecided: dict[str, _Undecided] = {}
        """The failed uploads, by session id."""

    def __repr__(self) -> str:
        return f"<Submissions undecided={len(self._undecided)}>"

    async def submit(
        self,
        *,
        owner: str,
        inputs: Sequence[NewFile],
        params: Params,
        request_id: str | None,
        seed: int | None = None,
        seed_chosen: bool = False,
        address: str | None = None,
        original: Session | None = None,
        webhook: str | None = None,
        idempotency: Idempotency | None = None,
        quota: Quota | None = None,
    ) -> Session:
        """Store the photos, commit the session with its first event, then enqueue it.

        ``inputs``: the photos, at least one, in the order of the processor's roles.
        ``seed``: None draws one; ``seed_chosen``: whether the client chose it, so that
        a retry keeps it. ``original``: the session that some of ``inputs`` are copies
        of (:meth:`inputs_of`); the new one is erased with it, and lives no longer.
        ``webhook``: its own address, in place of the settings'. ``address``: the
        client's, for its limits; None: unknown. A failure leaves
        neither file nor row, the files at the latest when it is certain that their row
        was not committed. A failed enqueue is not the caller's: the row is safe and the
        enqueue is retried. Raises StorageFull, RateLimited, Unavailable, and Taken if
        another request used the idempotency key meanwhile.
        """
        session_id = self._new_id()
        files = await describe(
            inputs, Direction.INPUT, lambda file, index: input_key(session_id, file.role, index, file.extension)
        )
        new = NewSession(
            id=session_id,
            owner=owner,
            processor=self._processor,
            params=params,
            seed=self._seed() if seed is None else seed,
            seed_chosen=seed_chosen,
            files=files,
            request_id=request_id,
            trace=tracing.current(),
            deadline_seconds=self._deadline_seconds,
            retention_seconds=self._retention_seconds,
            address_hash=self._hash(address),
            metered=self._metered,
            quota=quota,
            allowance=self._allowance,
            expires_at=original.expires_at if original else None,
            copy_of=original.id if original else None,
            webhook=webhook if webhook is not None else self._webhook,
            idempotency_key=idempotency.key_hash if idempotency else None,
            idempotency_fingerprint=idempotency.fingerprint if idempotency else None,
        )
        return await self._create([file.data for file in inputs], new)

    async def replay(self, owner: str, idempotency: Idempotency) -> Session | None:
        """Return the session that this Idempotency-Key made, or None.

        Raises Unprocessable if it was made from another request.
        """
        found = await self._reader.by_idempotency_key(owner, idempotency.key_hash)
        if found is None:
            return None
        session, fingerprint = found
        if fingerprint != idempotency.fingerprint:
            raise errors.Unprocessable("idempotency_mismatch")
        return session

    async def was_used(self, owner: str, key: str) -> bool:
        """Return whether this Idempotency-Key made a session that lives."""
        return await self._reader.by_idempotency_key(owner, _key_hash(key)) is not None

    async def inputs_of(
        self, session_id: str, owner: str | None, *, judge: Callable[[Session], Sequence[StoredFile]]
    ) -> tuple[Session, list[NewFile]]:
        """Return a session of this owner, and its photos as inputs of another one.

        ``judge``: returns those that are copied; what it raises goes on to the caller.
        Raises NotFound, also when the session is erased meanwhile; Unavailable.
        """
        original = await owned_session(self._reader, session_id, owner)
        try:
            copies = [
                NewFile(await self._files.get(file.key), file.type, file.width, file.height, file.role)
                for file in judge(original)
            ]
        except MissingFile:
            raise NotFound from None
        return original, copies

    async def retry(
        self,
        session_id: str,
        owner: str | None,
        *,
        request_id: str | None,
        address: str | None = None,
        judge: Callable[[Session, int | None], tuple[Params, int | None]] | None = None,
        quota: Quota | None = None,
    ) -> tuple[Session, bool]:
        """Run a failed or cancelled session again, over its own copy of the inputs.

        ``judge``: is given the original, and the seed that the client chose for it; it
        returns the params and the seed of the new session, and raises Unprocessable if
        the processor does not take the original any more. A seed of None is drawn
        anew, or a failure of chance would come again. Return the new session, and
        whether an earlier call made it. Raises NotFound, also when the original is
        erased meanwhile; Conflict in any other state; StorageFull, RateLimited,
        Unavailable.
        """
        original = await owned_session(self._reader, session_id, owner)
        if original.status not in (Status.FAILED, Status.CANCELLED):
            raise errors.Conflict("not_finished")
        if (successor := await self._reader.retry_of(original.id)) is not None:
            return successor, True
        chosen = original.seed if await self._seed_was_chosen(original.id) else None
        params, seed = (original.params, chosen) if judge is None else judge(original, chosen)
        new_id = self._new_id()
        files, contents = await self._copied(original, new_id)
        new = NewSession(
            id=new_id,
            owner=original.owner,
            processor=self._processor,
            params=params,
            seed=self._seed() if seed is None else seed,
            seed_chosen=chosen is not None,
            files=files,
            request_id=request_id,
            trace=tracing.current(),
            deadline_seconds=self._deadline_seconds,
            retention_seconds=self._retention_seconds,
            address_hash=self._hash(address),
            metered=self._metered,
            quota=quota,
            allowance=self._allowance,
            expires_at=original.expires_at,
            retry_of=original.id,
        )
        try:
            return await self._create(contents, new), False
        except Taken:
            successor = await self._reader.retry_of(original.id)
            if successor is None:  # it was erased in between, with the original
                raise NotFound from None
            return successor, True

    async def _copied(self, original: Session, new_id: str) -> tuple[tuple[StoredFile, ...], list[bytes]]:
        """Return the photos of a retry, and their contents. Raises NotFound."""
        files = tuple(
            msgspec.structs.replace(file, key=input_key(new_id, file.role, file.index, EXTENSIONS[file.type]))
            for file in original.inputs
        )
        try:
            return files, [await self._files.get(file.key) for file in original.inputs]
        except MissingFile:
            raise NotFound from None

    async def _seed_was_chosen(self, session_id: str) -> bool:
        """Return whether the client chose a session's seed, as its trail says."""
        found = await self._reader.with_events(session_id, 0)
        return found is not None and any(event.data.get("seed_chosen") for event in found.events)

    def _new_id(self) -> str:
        return session_id_of(self._clock.wall(), self._randomness.bytes(10))

    def _seed(self) -> int:
        return self._randomness.randint(0, MAX_SEED)

    def _hash(self, address: str | None) -> str | None:
        return None if address is None else self._signer.address_hash(address)

    async def _create(self, contents: Sequence[bytes], new: NewSession) -> Session:
        """Store the files, then the row with its first event, then enqueue.

        ``contents``: those of ``new.files``.
        """
        keys = [file.key for file in new.files]
        inserting = False
        try:
            for key, data in zip(keys, contents, strict=True):
                await self._files.put(key, data)
            inserting = True
            session = await self._writer.insert(new)
        except BaseException as error:
            # Also when the client has disconnected: an upload that has no row may leave
            # no file.
            self._undecided[new.id] = _Undecided(keys)
            if not inserting or isinstance(error, REFUSALS):
                await asyncio.shield(self._discard(new.id))
            raise
        for key in keys:
            log.info("Saved input file: %s", key)
        log.info("Created session %s for user %s", session.id, session.owner[:8])
        metrics.transitions.labels(Event.CREATED).inc()
        if position := await self._queueing.enqueue(session):
            self._queue_places.join(session.id, position)
        await self._bus.announce(session.owner, session.id)
        return session

    async def _discard(self, session_id: str) -> None:
        """Delete the files of an upload that certainly has no row.

        While the storage is unavailable, the files are remembered: a photo without a
        session must not stay for hours.
        """
        with contextlib.suppress(errors.Unavailable):
            await self._files.delete(self._undecided[session_id].keys)
            self._undecided.pop(session_id, None)

    async def clean_up_failed_uploads(self) -> None:
        """Delete the files of failed uploads whose commit did not go through.

        An upload is decided when every transaction of its time has ended; until then
        its row may still appear. Raises Unavailable.
        """
        if not self._undecided:
            return
        if undated := [each for each in self._undecided.values() if each.mark is None]:
            mark = await self._commits.mark()
            for upload in undated:
                upload.mark = mark
        marks = {each.mark for each in self._undecided.values() if each.mark is not None}
        ended = {mark for mark in marks if await self._commits.ended_below(mark)}
        decided = [session_id for session_id, each in self._undecided.items() if each.mark in ended]
        committed = await self._reader.ids_among(decided)
        for session_id in decided:
            if session_id in committed:
                self._undecided.pop(session_id, None)
            elif session_id in self._undecided:
                await self._discard(session_id)
