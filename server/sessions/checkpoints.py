"""Checkpoints of running sessions: what an upstream's work is found again by.

They are encrypted in the database: a checkpoint names a person's photo elsewhere.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from server.adapters.database.attempts import AttemptWriter
from server.adapters.database.changes import Usage
from server.domain.sealing import NONCE_BYTES, Sealer
from server.domain.upstream import MAX_CHECKPOINT_BYTES, UpstreamWork
from server.system.randomness import Randomness

log = logging.getLogger("tryon.sessions")

_decode: Final = msgspec.json.Decoder(UpstreamWork).decode


class Checkpoints:
    """Saves and loads checkpoints; stateless."""

    def __init__(self, *, attempts: AttemptWriter, sealer: Sealer, randomness: Randomness) -> None:
        self._attempts = attempts
        self._sealer = sealer
        self._randomness = randomness

    async def save(self, session_id: str, attempt: int, work: UpstreamWork) -> bool:
        """Commit a checkpoint of a running attempt, in place of the one before.

        Return False if the session is not this attempt's any more. Raises Unavailable,
        StorageFull, and ValueError for a checkpoint that is too large.
        """
        if len(msgspec.json.encode(work.checkpoint)) > MAX_CHECKPOINT_BYTES:
            raise ValueError(f"a checkpoint has at most {MAX_CHECKPOINT_BYTES} bytes")
        sealed = self._sealer.seal(msgspec.json.encode(work), nonce=self._randomness.bytes(NONCE_BYTES))
        return await self._attempts.save_checkpoint(session_id, attempt=attempt, checkpoint=sealed)

    async def load(self, session_id: str) -> UpstreamWork | None:
        """Return the work that an earlier attempt has begun; None without any.

        Raises Unavailable.
        """
        sealed = await self._attempts.checkpoint(session_id)
        return None if sealed is None else self.opened(sealed)

    def usage(self, sealed: str, attempt: int) -> Usage | None:
        """Return what an attempt had used when it saved this encrypted checkpoint.

        None: it is another attempt's, or cannot be read. That must not keep a session
        from its end, and others that end in the same transaction.
        """
        try:
            work = self.opened(sealed)
        except msgspec.DecodeError as error:  # another version's
            log.error("The usage of a checkpoint cannot be read: %s", error)
            return None
        return work.usage if work is not None and work.attempt == attempt else None

    def opened(self, sealed: str) -> UpstreamWork | None:
        """Return the work of an encrypted checkpoint; None if its key is gone."""
        plain = self._sealer.unseal(sealed)
        if plain is None:
            log.error("A checkpoint cannot be decrypted: was its key taken out of TRYON_SECRET_KEY?")
            return None
        return _decode(plain)
