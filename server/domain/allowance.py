"""How much one owner and one address may have: stored bytes, and places in the queue.

Client tokens are free, so the share of an owner alone limits no attacker. The usage is
counted by the database, in the transaction that inserts a session
(:mod:`server.adapters.database.usage`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tryon.protocol.errors import RateLimited

STORED_SECONDS: Final = 600
"""``Retry-After`` where photos take too much room: some may have expired then."""
WAITING_SECONDS: Final = 10
"""``Retry-After`` where too many sessions wait, as for a full queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The usage of an owner and of an address now."""

    owner_bytes: int
    owner_waiting: int
    address_bytes: int
    address_waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """The most that one owner and one address may have; None: no limit."""

    owner_bytes: int | None = None
    owner_waiting: int | None = None
    address_bytes: int | None = None
    address_waiting: int | None = None

    @property
    def unlimited(self) -> bool:
        """Whether nothing is limited, so that nothing need be counted."""
        return self == _UNLIMITED

    def judge(self, usage: Usage, new_bytes: int) -> None:
        """Refuse one more session, with photos of ``new_bytes``, beyond a limit.

        Raises RateLimited.
        """
        rows = (
            ("queue_share_per_owner", self.owner_waiting, usage.owner_waiting + 1, WAITING_SECONDS),
            ("queue_share_per_address", self.address_waiting, usage.address_waiting + 1, WAITING_SECONDS),
            ("stored_bytes_per_owner", self.owner_bytes, usage.owner_bytes + new_bytes, STORED_SECONDS),
            ("stored_bytes_per_address", self.address_bytes, usage.address_bytes + new_bytes, STORED_SECONDS),
        )
        for limit, most, wanted, seconds in rows:
            if most is not None and wanted > most:
                raise RateLimited(limit=limit, retry_after=seconds)


_UNLIMITED: Final = Allowance()
