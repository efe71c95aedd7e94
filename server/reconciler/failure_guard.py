"""Logs and skips a session whose work fails, so that it delays no other."""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from server.adapters.database.reading import SessionReader
from server.domain.session import Session
from server.reconciler.disturbances import Disturbances
from tryon.protocol.errors import TryOnError

log = logging.getLogger("tryon.reconciler")


class FailureGuard:
    """Runs the work for one session, and keeps its failure to it; stateless."""

    def __init__(self, *, reader: SessionReader, disturbances: Disturbances) -> None:
        self._reader = reader
        self._disturbances = disturbances

    async def run(self, session: Session, work: Awaitable[None]) -> bool:
        """Await one session's work; return whether it succeeded.

        A failure is logged and stays with this session. Raises Unavailable if the
        database is: then the work of every session would fail.
        """
        try:
            await work
        except Exception as error:
            known = isinstance(error, TryOnError)
            log.warning("Session %s is left to a later pass: %s", session.id, error, exc_info=None if known else error)
            await self._reader.check()
            return False
        self.note_success()
        return True

    def note_success(self) -> None:
        """Note that the database is used: long work must not look like an outage."""
        self._disturbances.note_use()
