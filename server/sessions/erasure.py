"""The erasure of a session, on its owner's request or by the reconciler.

It has two parts, and each is committed by itself:

1. *The end*: the session becomes unreadable and its tombstone is left, then connected
   clients are notified. No file is touched, so neither a broken nor a silent storage
   delays it.
2. *The removal*: files first, then row and events, then the keys in Redis. The row
   remembers the files until the last of them is gone: the reconciler finds it and tries
   again, in whichever process lives then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Final

from server.adapters.database.clock import DatabaseClock
from server.adapters.database.engine import Connections
from server.adapters.database.reading import SessionReader
from server.adapters.database.writing import SessionWriter
from server.adapters.files.port import Files
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue
from server.domain.access import signed_receipt
from server.domain.bus_message import gone_message
from server.domain.session import Session, timestamp
from server.domain.tokens import Signer
from server.sessions.checkpoints import Checkpoints
from server.sessions.erased_bytes import ErasedBytes
from server.sessions.file_keys import may_have_unnamed_outputs, session_of
from server.sessions.ownership import owned_session
from server.sessions.upstream_cleaning import UpstreamCleaning
from server.telemetry import metrics
from tryon.protocol.errors import NotFound, Unavailable
from tryon.protocol.states import GoneReason
from tryon.protocol.views import ErasedFile, Receipt, ReceiptBody

log = logging.getLogger("tryon.sessions")

MAX_UNFORGOTTEN: Final = 10_000
"""Maximum erased sessions remembered until Redis is available again; the hourly cleanup
finds the rest.
"""

LISTING_SECONDS: Final = 5.0
"""Seconds that a request to delete waits for a listing of the storage; one of a silent
storage, or of a folder with a million names, takes far longer.
"""

REMOVED_AT_ONCE: Final = 100
"""Sessions whose removal is one statement, one call of the storage and one of Redis."""


class Erasure:
    """Erases sessions: their files, rows, events and keys in Redis.

    State: the erased sessions whose keys Redis could not delete yet.
    """

    def __init__(
        self,
        *,
        reader: SessionReader,
        writer: SessionWriter,
        connections: Connections,
        database_clock: DatabaseClock,
        signer: Signer,
        files: Files,
        bus: RedisBus,
        queue: ArqQueue,
        erased_bytes: ErasedBytes,
        cleaning: UpstreamCleaning,
        checkpoints: Checkpoints,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._connections = connections
        self._database_clock = database_clock
        self._signer = signer
        self._files = files
        self._bus = bus
        self._queue = queue
        self._erased_bytes = erased_bytes
        self._cleaning = cleaning
        self._checkpoints = checkpoints
        self._unforgotten: dict[str, Session] = {}

    def __repr__(self) -> str:
        return f"<Erasure unforgotten={len(self._unforgotten)}>"

    async def delete(self, session_id: str, owner: str | None) -> Receipt:
        """Erase a session and every retry of the same photo now.

        The receipt lists the files that the rows named when the session became
        unreadable, whichever process deletes them. Raises NotFound; and Unavailable if
        the storage is: then the session is unreadable already, its clients are
        notified, and the reconciler removes it later.
        """
        asked = await owned_session(self._reader, session_id, owner)
        deleted = await self._writer.mark_deleted(
            asked.id, id_hash=self._signer.tombstone_hash, usage=self._checkpoints.usage
        )
        family = deleted.sessions
        if asked.id not in {session.id for session in family}:
            raise NotFound  # another request was quicker, or it has expired
        await self._notify(family, GoneReason.DELETED)
        if deleted.cleanups:
            with contextlib.suppress(Unavailable):  # else the reconciler does it
                await self._cleaning.enqueue_new(deleted.cleanups)
        with contextlib.suppress(QueueUnavailable):
            await self._queue.ring_cancel(*(session.id for session in family))
        unnamed = [session.id for session in family if may_have_unnamed_outputs(session)]
        outputs = await self._listed_outputs(unnamed) if unnamed else []
        for start in range(0, len(family), REMOVED_AT_ONCE):
            await self._remove(family[start : start + REMOVED_AT_ONCE], GoneReason.DELETED, outputs)
        at = timestamp(datetime.fromtimestamp(self._database_clock.now(), UTC))
        files = [
            ErasedFile(session.id, file.role, file.bytes, file.sha256) for session in family for file in session.files
        ]
        upstream = await self._cleaning.state_of(deleted.cleanups)
        return signed_receipt(ReceiptBody(asked.id, GoneReason.DELETED.value, at, files, upstream), self._signer)

    async def _listed_outputs(self, session_ids: Collection[str]) -> list[str]:
        try:
            async with asyncio.timeout(LISTING_SECONDS):
                return await self._files.outputs_of(session_ids)
        except TimeoutError:
            raise Unavailable(retry_after=LISTING_SECONDS) from None

    async def expire(self, sessions: Collection[Session]) -> float:
        """Leave tombstones of expired sessions, then notify connected clients.

        :meth:`remove` does the rest. Return the seconds for which the database
        served no other writer. Raises Unavailable.
        """
        await self._writer.leave_tombstones(
            [self._signer.tombstone_hash(session.id) for session in sessions], GoneReason.EXPIRED
        )
        held = self._connections.turn_seconds
        await self._notify(sessions, GoneReason.EXPIRED)
        return held

    async def reasons_among(self, expired: Collection[Session]) -> dict[str, GoneReason]:
        """Return why sessions are gone, by the ids of those that have a tombstone.

        :meth:`delete` has made them unreadable, and then was slow or died, or
        :meth:`expire` was here before; the other ones have just expired.
        """
        ids = {hashed: each.id for each in expired for hashed in self._signer.tombstone_hashes(each.id)}
        return {ids[hashed]: reason for hashed, reason in (await self._reader.reasons_among(ids)).items()}

    async def remove(self, session: Session, reason: GoneReason, *, outputs: list[str] | None = None) -> None:
        """Remove everything of a session whose tombstone was left.

        ``outputs``: all its result files, if the caller listed those of many sessions
        at once; None: they are listed here. Raises Unavailable.
        """
        if outputs is None:
            outputs = await self._files.outputs_of([session.id]) if may_have_unnamed_outputs(session) else []
        await self._remove([session], reason, outputs)

    async def remove_all(self, sessions: Collection[Session], reason: GoneReason, outputs: Collection[str]) -> float:
        """Remove everything of these expired sessions, as :meth:`remove`.

        ``outputs``: all their result files. A session whose row another transaction is
        changing keeps its row. Return the seconds for which the database
        served no other writer. Raises Unavailable.
        """
        return await self._remove(sessions, reason, outputs, skip_locked=True)

    async def _remove(
        self, sessions: Collection[Session], reason: GoneReason, outputs: Collection[str], *, skip_locked: bool = False
    ) -> float:
        """Remove everything of these sessions; each step is one call for all of them.

        ``outputs``: result files, from which those of other sessions are left out.
        Return the seconds of the transaction. Raises Unavailable.
        """
        ids = {session.id for session in sessions}
        own = (key for key in outputs if session_of(key) in ids)
        keys = dict.fromkeys([*(key for session in sessions for key in session.file_keys), *own])
        for key in await self._files.delete(keys):
            log.info("Deleted %s file: %s", key.partition("s/")[0], key)
        erased = await self._writer.erase(ids, skip_locked=skip_locked, usage=self._checkpoints.usage)
        held = self._connections.turn_seconds
        self._erased_bytes.note()
        # An output that was completed between the two steps is named only by the row
        # that was just removed.
        await self._files.delete([key for row in erased for key in row.file_keys])
        if not await self._forget(erased):
            room = MAX_UNFORGOTTEN - len(self._unforgotten)
            self._unforgotten |= {row.id: row for row in erased[: max(0, room)]}
        metrics.erased.labels(reason.value).inc(len(erased))
        for row in erased:
            log.info(
                "Cleaned up expired session: %s" if reason is GoneReason.EXPIRED else "Deleted session: %s", row.id
            )
        return held

    async def retry_forgetting(self) -> bool:
        """Delete the keys that Redis could not delete before.

        Return False if Redis is still unavailable.
        """
        for session in list(self._unforgotten.values()):
            if not await self._forget([session]):
                return False
            del self._unforgotten[session.id]
        return True

    async def _forget(self, erased: Collection[Session]) -> bool:
        """Delete every key of these sessions; return False if Redis is unavailable."""
        try:
            await self._queue.forget_all((each.id, each.attempt, each.enqueues) for each in erased)
        except QueueUnavailable:
            return False
        return await self._bus.forget([each.id for each in erased])

    async def _notify(self, sessions: Iterable[Session], reason: GoneReason) -> None:
        await self._bus.publish_to_each([session.id for session in sessions], gone_message(reason))
