"""Requests with the same Idempotency-Key in this process, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from tryon.protocol.errors import Conflict

IN_FLIGHT_SECONDS: Final = 5.0
"""Seconds that a request waits for another one with the same Idempotency-Key."""


class _Turn:
    """The lock of one key; ``users`` hold it or wait for it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class KeysInFlight:
    """The keys of the requests that are being answered.

    Between processes the database's unique key decides; this only saves the work of
    cleaning the same photo twice.
    """

    def __init__(self) -> None:
        self._turns: dict[tuple[str, str], _Turn] = {}

    def __repr__(self) -> str:
        return f"<KeysInFlight {len(self._turns)}>"

    def __len__(self) -> int:
        return len(self._turns)

    @contextlib.asynccontextmanager
    async def serialized(self, owner: str, key_hash: str) -> AsyncIterator[None]:
        """Enter when no other request with this key is inside.

        Raises Conflict after :data:`IN_FLIGHT_SECONDS`.
        """
        turn = self._turns.setdefault((owner, key_hash), _Turn())
        turn.users += 1
        try:
            try:
                async with asyncio.timeout(IN_FLIGHT_SECONDS):
                    await turn.lock.acquire()
            except TimeoutError:
                raise Conflict("idempotency_in_flight", retry_after=1) from None
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            turn.users -= 1  # counted because the lock is free between a release and the next turn
            if not turn.users:
                del self._turns[owner, key_hash]
