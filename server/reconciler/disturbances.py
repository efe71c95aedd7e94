"""Notices outages and clock jumps, after which every lease is extended once.

An outage of the database, or of all machines, must not look like the death of all
workers: after one, every lease is extended by one period.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from server.adapters.database.clock import DatabaseClock
from server.adapters.database.engine import Connections
from server.adapters.database.writing import SessionWriter
from server.domain.disturbances import Disturbance, Use, disturbance
from server.reconciler import timing
from server.system.clock import Clock
from server.telemetry import metrics
from tryon.protocol.errors import Unavailable

log = logging.getLogger("tryon.reconciler")

REASONS: Final[dict[Disturbance, str]] = {
    "outage": "the database was unavailable",
    "late": "the database or this process stood still",
    "clock": "the database's clock was set",
}
"""The cause that the log names for each kind of disturbance."""


class Disturbances:
    """Notices disturbances, and extends the leases after one.

    A failure, a gap or a jump of the clock between two uses of the database is a
    disturbance. State: the last use, and the disturbance that is pending.
    """

    def __init__(
        self,
        *,
        connections: Connections,
        writer: SessionWriter,
        database_clock: DatabaseClock,
        clock: Clock,
        lease_seconds: float,
        deadline_seconds: float,
        retention_seconds: float,
    ) -> None:
        self._lease_seconds = lease_seconds
        self.patience_seconds = lease_seconds / 3
        """Longest wait of a write after which a lapsed lease means a dead worker."""
        self._deadline_seconds = deadline_seconds
        self._retention_seconds = retention_seconds
        self._connections = connections
        self._writer = writer
        self._database_clock = database_clock
        self._clock = clock
        self._last_use: Use | None = None
        self._failed = False
        self._outages = 0
        """Value of ``Connections.outages`` at the last use."""
        self._granted_at = float("-inf")
        """When this process last extended the leases."""
        self._pending: tuple[Disturbance, float] | None = None
        """The last disturbance and when this process noticed it; until it has extended
        the leases, or a whole lease has passed.
        """
        self._granted: deque[tuple[datetime, datetime]] = deque(maxlen=16)
        """First and last end of the leases that were extended, for each of the last 16
        extensions.
        """

    def __repr__(self) -> str:
        return f"<Disturbances pending={None if self._pending is None else self._pending[0]}>"

    @property
    def pending(self) -> bool:
        """Whether a lapsed lease proves nothing until :meth:`grant_leases` ran."""
        return self._pending is not None

    @contextlib.contextmanager
    def using_database(self) -> Iterator[None]:
        """Note when the database is unavailable in this block, and pass that on."""
        try:
            yield
        except Unavailable:
            self._failed = True
            raise

    @contextlib.contextmanager
    def timing_write(self) -> Iterator[None]:
        """Note a write that took so long that a heartbeat would have come too late."""
        began = self._clock.monotonic()
        try:
            yield
        finally:
            # A heartbeat had to wait as long: with short leases, longer than one lasts.
            self._failed |= self._clock.monotonic() - began > self.patience_seconds

    def note_use(self) -> None:
        """Note a successful use of the database; judge the time since the last one.

        An outage that any other use in this process has met counts, too: it may be over
        before the next pass, and yet longer than a worker could wait. Unless the leases
        were extended a moment ago: then they last, and the sessions of a dead worker
        must not wait once more.
        """
        now = Use(self._clock.monotonic(), self._database_clock.now())
        outages = self._connections.outages
        met = outages != self._outages and now.at - self._granted_at > self._lease_seconds / 3
        found = disturbance(
            self._last_use,
            now,
            failed=self._failed or met,
            calm_seconds=max(self._lease_seconds / 3, 2 * timing.RECONCILE_SECONDS),  # a heartbeat may be this late
        )
        self._last_use, self._failed, self._outages = now, False, outages
        if found is not None:
            self._pending = (found, now.at)
        elif self._pending is not None and now.at - self._pending[1] > self._lease_seconds:
            self._pending = None  # every living worker has renewed its leases since

    async def grant_leases(self) -> None:
        """Extend every lease by one period, if a disturbance is pending.

        Except those that were extended before and not renewed since: otherwise one
        disturbance after the next would keep the sessions of a dead worker for ever. A
        living worker tries to renew every second. Raises Unavailable.
        """
        pending = self._pending
        if pending is None:
            return
        why, _ = pending
        if why == "clock":
            self._granted.clear()  # times of another clock
            await self._writer.bound_ends(
                deadline_seconds=self._deadline_seconds, retention_seconds=self._retention_seconds
            )
        self._granted_at = self._clock.monotonic()
        granted, ends = await self._writer.renew_all(lease_seconds=self._lease_seconds, but=self._granted)
        if self._pending is pending:  # else a newer one was noticed during the writes, which need not cover it
            self._pending = None
        if ends is not None:
            self._granted.append(ends)
        metrics.reconciled.labels("lease_granted").inc(granted)
        if granted:
            log.warning("Granted %d sessions one more period of their leases: %s", granted, REASONS[why])
