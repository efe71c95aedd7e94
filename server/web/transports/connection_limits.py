"""How many streams and waiting polls a process, an address and a session may have."""

from __future__ import annotations

import contextlib
import resource
from collections import Counter
from collections.abc import Iterator
from typing import Final

from server.config.settings import Config
from tryon.protocol.errors import RateLimited, TryOnError, Unavailable

RESERVED_FILES: Final = 512
"""Open files that streams leave to databases, photos and plain requests."""


class ConnectionLimits:
    """The open connections of one process, counted by client address."""

    __slots__ = (
        "_limit",
        "_open",
        "_per_address",
        "_sockets_per_address",
        "_sockets_per_owner",
        "_sockets_per_session",
    )

    def __init__(self, config: Config) -> None:
        self._sockets_per_address = config.sockets_per_address
        self._sockets_per_owner = config.sockets_per_owner
        self._sockets_per_session = config.sockets_per_session
        self._per_address: Counter[str] = Counter()
        self._open = 0
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = soft - RESERVED_FILES if soft != resource.RLIM_INFINITY else config.sockets_per_process
        self._limit = max(1, min(config.sockets_per_process, files))

    def __repr__(self) -> str:
        return f"<ConnectionLimits open={self._open} of={self._limit} addresses={len(self._per_address)}>"

    @property
    def full(self) -> bool:
        """Whether the process has all the connections it may have."""
        return self._open >= self._limit

    def refusal(self, address: str) -> TryOnError | None:
        """Return why this address may not open one more connection, or None."""
        if self.full:
            return Unavailable(retry_after=2)
        if self._per_address[address] >= self._sockets_per_address:
            return RateLimited(limit="sockets_per_address", retry_after=5)
        return None

    def check_session(self, followers: int) -> None:
        """Raise RateLimited if a session with this many followers is full.

        To be called after the credential was checked: a stranger must not learn that
        the session exists.
        """
        if followers >= self._sockets_per_session:
            raise RateLimited(limit="sockets_per_session", retry_after=5)

    def check_owner(self, connections: int) -> None:
        """Raise RateLimited if an owner with this many connections may have no more."""
        if connections >= self._sockets_per_owner:
            raise RateLimited(limit="sockets_per_owner", retry_after=5)

    def take(self, address: str) -> None:
        """Count one more connection of this address."""
        self._open += 1
        self._per_address[address] += 1

    def give_back(self, address: str) -> None:
        """Count one connection of this address less."""
        self._open -= 1
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]

    @contextlib.contextmanager
    def taken(self, address: str) -> Iterator[None]:
        """Count a connection for as long as this is open."""
        self.take(address)
        try:
            yield
        finally:
            self.give_back(address)
