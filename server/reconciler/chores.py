"""Runs recurring work in one process at a time, by named leases in the database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from server.adapters.database.chore_leases import ChoreLeases
from server.adapters.database.clock import DatabaseClock
from server.reconciler import timing
from server.reconciler.disturbances import Disturbances
from tryon.protocol.errors import Unavailable

log = logging.getLogger("tryon.reconciler")


@dataclass(frozen=True, slots=True)
class Chore:
    """Work that is done again and again."""

    name: str
    work: Callable[[], Awaitable[None]]
    every_seconds: float
    until_next: Callable[[], Awaitable[float]] | None = None
    """Seconds from the end of a turn until the next one; at most ``every_seconds``."""
    shared: bool = True
    """Whether one process does it for all; False: each does it for itself."""


class Chores:
    """Runs chores, each as soon as this process gets its lease.

    State: the leases that this process may hold.
    """

    def __init__(
        self, *, leases: ChoreLeases, database_clock: DatabaseClock, disturbances: Disturbances, process_name: str
    ) -> None:
        self._leases = leases
        self._database_clock = database_clock
        self._disturbances = disturbances
        self._held: set[str] = set()
        """Chores whose lease this process may hold."""
        self.process_name = process_name
        """The owner of those leases; unique among all processes."""

    def __repr__(self) -> str:
        return f"<Chores of {self.process_name} holding {sorted(self._held)}>"

    async def run(self, chore: Chore) -> None:
        """Do a chore again and again, until cancelled; a failure is logged and retried.

        The holder of a shared chore's lease renews it more often than it works, if that
        is seldom. The other processes look twice as often as that, so that one of them
        takes over soon when the holder is killed.
        """
        now = asyncio.get_running_loop().time
        turn_seconds = min(chore.every_seconds, timing.CHORE_SECONDS)
        lease_seconds = turn_seconds * 2
        work_at = now()
        while True:
            wait = turn_seconds / 2
            try:
                if not chore.shared or await self.hold(chore.name, seconds=lease_seconds):
                    if now() >= work_at:
                        work_at = now() + chore.every_seconds
                        keep = self._kept(chore.name, lease_seconds) if chore.shared else contextlib.nullcontext()
                        async with keep:
                            await chore.work()
                        if chore.until_next is not None:
                            work_at = now() + min(chore.every_seconds, await chore.until_next())
                    wait = min(turn_seconds, max(0.0, work_at - now()))
            except Unavailable as error:
                log.warning("Chore %s will be tried again: %s", chore.name, error.detail)
                work_at = now() + turn_seconds
            except Exception:
                log.exception("Chore %s failed and will be tried again", chore.name)
                work_at = now() + turn_seconds
            await asyncio.sleep(wait)

    async def hold(self, name: str, *, seconds: float) -> bool:
        """Take or renew a chore's lease; return whether this process holds it now.

        Raises Unavailable.
        """
        self._held.add(name)  # before the commit: it must be dropped whatever becomes of the answer
        with self._disturbances.using_database():
            await self._database_clock.synchronize()
            with self._disturbances.timing_write():
                held = await self._leases.take(name, owner=self.process_name, seconds=seconds)
        self._disturbances.note_use()
        if not held:
            self._held.discard(name)
        return held

    async def drop_leases(self) -> None:
        """Give up every lease, so that other processes need not wait for its end.

        Raises Unavailable.
        """
        for name in sorted(self._held):
            self._held.discard(name)
            await self._leases.drop(name, owner=self.process_name)

    @contextlib.asynccontextmanager
    async def _kept(self, name: str, seconds: float) -> AsyncIterator[None]:
        """Renew a lease during the block.

        A turn may take long, and two processes at the same work would be slower.
        """

        async def renew() -> None:
            while True:
                await asyncio.sleep(seconds / 3)
                with contextlib.suppress(Unavailable):
                    await self._leases.take(name, owner=self.process_name, seconds=seconds)

        renewing = asyncio.create_task(renew(), name=f"lease of {name}")
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})
