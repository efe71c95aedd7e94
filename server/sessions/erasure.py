"""The erasure of a session, on its owner's request or by the reconciler.

Files go first, then row and events, then the keys in Redis: a row without files is
tried again, a file without a row would be an orphan.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final

from server.adapters.database.clock import DatabaseClock
from server.adapters.database.reading import SessionReader
from server.adapters.database.writing import SessionWriter
from server.adapters.files.port import Files, MissingFile
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import ArqQueue
from server.domain.access import signed_receipt
from server.domain.bus_message import gone_message
from server.domain.session import Session, timestamp
from server.domain.tokens import Signer
from server.sessions.erased_bytes import ErasedBytes
from server.sessions.file_keys import may_have_unnamed_outputs, session_of
from server.sessions.ownership import owned_session
from tryon.protocol.errors import NotFound
from tryon.protocol.states import GoneReason
from tryon.protocol.views import ErasedFile, Receipt, ReceiptBody

log = logging.getLogger("tryon.sessions")

MAX_UNFORGOTTEN: Final = 10_000
"""Maximum erased sessions remembered until Redis is available again; the hourly cleanup
finds the rest.
"""


class Erasure:
    """Erases sessions: their files, rows, events and keys in Redis.

    State: the erased sessions whose keys Redis could not delete yet.
    """

    def __init__(
        self,
        *,
        reader: SessionReader,
        writer: SessionWriter,
        database_clock: DatabaseClock,
        signer: Signer,
        files: Files,
        bus: RedisBus,
        queue: ArqQueue,
        erased_bytes: ErasedBytes,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._database_clock = database_clock
        self._signer = signer
        self._files = files
        self._bus = bus
        self._queue = queue
        self._erased_bytes = erased_bytes
        self._unforgotten: dict[str, Session] = {}

    def __repr__(self) -> str:
        return f"<Erasure unforgotten={len(self._unforgotten)}>"

    async def delete(self, session_id: str, owner: str | None) -> Receipt:
        """Erase a session and every retry of the same photo now.

        Raises NotFound; and Unavailable if the storage is: then the session is
        unreadable already, and the reconciler erases it later.
        """
        asked = await owned_session(self._reader, session_id, owner)
        family = await self._writer.mark_deleted(asked.id, id_hash=self._signer.tombstone_hash)
        if asked.id not in {session.id for session in family}:
            raise NotFound  # another request was quicker
        for session in family:  # notified first: the storage may fail or be slow
            await self._bus.publish(session.id, gone_message(GoneReason.DELETED))
            with contextlib.suppress(QueueUnavailable):
                await self._queue.ring_cancel(session.id)
        files = [file for session in family for file in await self._receipt_files(session)]
        unnamed = [session.id for session in family if may_have_unnamed_outputs(session)]
        outputs = await self._files.outputs_of(unnamed) if unnamed else []
        for session in family:
            own = [key for key in outputs if session_of(key) == session.id]
            await self.erase(session, GoneReason.DELETED, outputs=own)
        at = timestamp(datetime.fromtimestamp(self._database_clock.now(), UTC))
        return signed_receipt(ReceiptBody(asked.id, GoneReason.DELETED.value, at, files), self._signer)

    async def deleted_among(self, expired: Collection[Session]) -> set[str]:
        """Return the ids of the sessions that a client deleted.

        :meth:`delete` has made them unreadable, and then was slow or died; the other
        ones have simply expired.
        """
        ids = {hashed: each.id for each in expired for hashed in self._signer.tombstone_hashes(each.id)}
        return {ids[hashed] for hashed in await self._reader.deleted_among(ids)}

    async def erase(self, session: Session, reason: GoneReason, *, outputs: list[str] | None = None) -> None:
        """Remove everything of a session, then notify connected clients.

        ``outputs``: all its result files, if the caller listed those of many sessions
        at once; None: they are listed here. Raises Unavailable.
        """
        keys = session.file_keys
        if outputs is None and may_have_unnamed_outputs(session):
            outputs = await self._files.outputs_of([session.id])
        keys += [key for key in outputs or () if key not in keys]
        for key in await self._files.delete(keys):
            log.info("Deleted %s file: %s", "output" if key.startswith("outputs/") else "input", key)
        erased = await self._writer.erase({session.id: self._signer.tombstone_hash(session.id)}, reason)
        self._erased_bytes.note()
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

    async def retry_forgetting(self) -> bool:
        """Delete the keys that Redis could not delete before.

        Return False if Redis is still unavailable.
        """
        for session in list(self._unforgotten.values()):
            if not await self._forget(session):
                return False
            del self._unforgotten[session.id]
        return True

    async def _forget(self, erased: Session) -> bool:
        """Delete every key of a session; return False if Redis is unavailable."""
        try:
            await self._queue.forget(erased.id, erased.attempt, erased.enqueues)
        except QueueUnavailable:
            return False
        return await self._bus.forget([erased.id])

    async def _receipt_files(self, session: Session) -> list[ErasedFile]:
        """Return the stored files of a session as a receipt lists them."""
        found = []
        roles = (("image", session.input_key), ("garment", session.garment_key), ("output", session.output_key))
        for role, key in roles:
            if key is not None:
                with contextlib.suppress(MissingFile):
                    data = await self._files.get(key)
                    found.append(ErasedFile(session.id, role, len(data), await asyncio.to_thread(_sha256, data)))
        return found


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
