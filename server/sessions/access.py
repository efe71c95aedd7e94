"""The access that goes into every answer: it signs links and tickets."""

from __future__ import annotations

from server.adapters.database.clock import DatabaseClock
from server.domain.access import Access
from server.domain.tokens import Signer


class AccessIssuer:
    """The issuer of one :class:`Access` per answer.

    Links and tickets end by the database's clock.
    """

    __slots__ = ("_database_clock", "_link_seconds", "_signer", "_ticket_seconds")

    def __init__(
        self, *, signer: Signer, database_clock: DatabaseClock, link_seconds: int, ticket_seconds: int
    ) -> None:
        self._signer = signer
        self._database_clock = database_clock
        self._link_seconds = link_seconds
        self._ticket_seconds = ticket_seconds

    def __repr__(self) -> str:
        return f"<AccessIssuer link_seconds={self._link_seconds} ticket_seconds={self._ticket_seconds}>"

    def issue(self, *, until: int | None = None) -> Access:
        """Return the access for an answer that leaves now.

        ``until``: the end of the ticket that the client presented (Unix seconds), which
        no link outlives; None for the holder of a token.
        """
        return Access(self._signer, self._database_clock.now(), self._link_seconds, self._ticket_seconds, until=until)
