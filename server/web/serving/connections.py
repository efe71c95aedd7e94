"""How many connections a process and an address may have; no I/O.

A connection above the limits is not just cut: :data:`RESERVED_CONNECTIONS` more are
asked, for :data:`RESERVED_SECONDS`, whether they want the health of the service, and
else refused in words. Above those, connections are cut. A WebSocket counts for its
address until its handshake is over, then with the sockets
(:mod:`server.web.transports.connection_limits`); for the process it goes on to count.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import resource
from collections import Counter
from typing import Final, NamedTuple

from server.config.settings import Config
from server.web.common.credentials import counted
from tryon.protocol.errors import RateLimited, TryOnError, Unavailable

log = logging.getLogger("tryon.web")

RESERVED_FILES: Final = 512
"""Descriptors that connections leave to databases, photos and the reserve."""

RESERVED_CONNECTIONS: Final = 64
"""Maximum connections above the limits."""

RESERVED_PER_ADDRESS: Final = 8
"""Maximum connections of one address above the limits."""

RESERVED_SECONDS: Final = 2.0
"""Seconds that such a connection may wait for its request, or send it."""

LOG_SECONDS: Final = 10.0
"""Minimum seconds between two log lines about refused connections."""


class Place(NamedTuple):
    """The place of one connection."""

    address: str
    """The address that it counts for; empty: for none."""
    error: TryOnError | None = None
    """Why nothing but the health of the service is answered: the place is reserved."""

    @property
    def proxied(self) -> bool:
        """Whether a trusted proxy is connected."""
        return not self.address


class Connections:
    """The connections of one process, counted by the address of the peer.

    The addresses of trusted proxies have no limit: the requests and sockets that come
    through them are counted by the forwarded address.
    """

    def __init__(self, config: Config) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = max(1, soft - RESERVED_FILES) if soft != resource.RLIM_INFINITY else 2**20
        self._per_process = min(config.connections_per_process or files, files)
        self._per_address = config.connections_per_address
        self._open: Counter[str] = Counter()
        self._reserved: Counter[str] = Counter()
        self._reserved_total = 0
        self._refused = 0
        self._logged_at = float("-inf")
        self._key = functools.lru_cache(4096)(functools.partial(_key, config))

    def __repr__(self) -> str:
        return f"<Connections addresses={len(self._open)} reserved={self._reserved_total}>"

    def admit(self, peer: str, total: int, now: float) -> Place | None:
        """Return a place for a connection, or None: it is cut.

        ``total``: connections of the process, this one included. ``now``: monotonic
        seconds.
        """
        address = self._key(peer)
        if total - self._reserved_total > self._per_process:
            error: TryOnError = Unavailable(retry_after=2)
            reason = f"this process has {self._per_process} (TRYON_CONNECTIONS_PER_PROCESS)"
        elif address and self._open[address] >= self._per_address:
            error = RateLimited(limit="connections_per_address", retry_after=5)
            reason = f"{address} has {self._per_address} (TRYON_CONNECTIONS_PER_ADDRESS)"
        else:
            if address:
                self._open[address] += 1
            return Place(address)
        self._log(now, reason)
        asking = address or peer
        if self._reserved_total >= RESERVED_CONNECTIONS or self._reserved[asking] >= RESERVED_PER_ADDRESS:
            return None
        self._reserved[asking] += 1
        self._reserved_total += 1
        return Place(asking, error)

    def leave(self, place: Place) -> None:
        """Give a place back."""
        counts = self._open if place.error is None else self._reserved
        self._reserved_total -= place.error is not None
        counts[place.address] -= 1
        if counts[place.address] <= 0:
            del counts[place.address]

    def _log(self, now: float, reason: str) -> None:
        self._refused += 1
        if now - self._logged_at >= LOG_SECONDS:
            log.warning("Too many connections: %s; %d refused since the last such line", reason, self._refused)
            self._logged_at, self._refused = now, 0


def _key(config: Config, peer: str) -> str:
    """Return the address that connections of this peer count for; empty for none."""
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:  # a Unix socket: only a local proxy can connect there
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if any(address in network for network in config.trusted_proxies):
        return ""
    return counted(str(address))
