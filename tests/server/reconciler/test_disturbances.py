"""Lapsed leases that prove nothing: outages, stalls, and clocks that are set."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import exc, text, update

from server.adapters.database import tables
from server.adapters.database.tables import database_time
from server.config.settings import Config
from server.domain.session import Session
from server.services import Services, open_services
from testkit.running import new_session, until
from tests.server.reconciler.conftest import submitted
from tests.server.sessions.conftest import row
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import Status

MakeConfig = Callable[..., Config]


async def lapsed(services: Services) -> Session:
    """Return a running session whose worker could not renew its lease in time."""
    session = await submitted(services)
    claim = await services.sessions.claims.begin(session.id, worker="lives")
    assert claim is not None
    assert await services.database.writer.renew(session.id, attempt=1, lease_seconds=-0.1) is False
    return claim.session


async def fail_once(services: Services) -> None:
    """Run one pass during which the database is unavailable."""
    with pytest.MonkeyPatch.context() as patch:

        async def unavailable(**_: Any) -> Any:
            raise Unavailable

        patch.setattr(services.database.due, "due", unavailable)
        with pytest.raises(Unavailable):
            await services.reconciling.reconciler.maintain()


async def lose_connection(services: Services, use: str = "read") -> None:
    """Let PostgreSQL cut a connection that another part of the process uses."""
    with pytest.raises(Unavailable):
        async with getattr(services.database.connections, use)() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


class Times:
    """The clocks by which disturbances are noticed; they move only by hand.

    A slow machine must not look like a disturbance.
    """

    def __init__(self, at: float) -> None:
        self._at = self._database_at = at

    def pass_by(self, *, seconds: float, clock_seconds: float) -> None:
        """Let time pass, and by how much the database's clock says it did."""
        self._at += seconds
        self._database_at += clock_seconds

    def monotonic(self) -> float:
        """Return the time of this process."""
        return self._at

    def now(self) -> float:
        """Return the time of the database."""
        return self._database_at


def times_of(services: Services) -> Times:
    """Take the time of this process's disturbances into the test's hands."""
    times = Times(services.database.clock.now())
    disturbances: Any = services.reconciling.disturbances
    disturbances._clock = disturbances._database_clock = times
    return times


def pending(services: Services) -> bool:
    """Return whether leases are still to be extended."""
    return services.reconciling.disturbances.pending


@pytest.mark.parametrize("disturbance", ["outage", "late", "clock ahead", "clock back"])
async def test_disturbance_extends_every_lease_once(config: MakeConfig, database_url: str, disturbance: str) -> None:
    """Extend a lapsed lease once after a disturbance, then take the session back."""
    async with open_services(config(lease_seconds=20)) as services:
        times = times_of(services)
        await services.reconciling.reconciler.maintain()
        session = await lapsed(services)
        match disturbance:
            case "outage":
                await fail_once(services)
            case "late":
                times.pass_by(seconds=60, clock_seconds=60)
            case "clock ahead":
                times.pass_by(seconds=0, clock_seconds=25 * 3600)
            case "clock back":
                times.pass_by(seconds=0, clock_seconds=-25 * 3600)
        await services.reconciling.reconciler.maintain()
        granted = await row(services, session)
        assert (granted.status, granted.seq) == (Status.PROCESSING, 2), "its worker had no chance"
        await services.reconciling.reconciler.maintain()
        assert await row(services, session) == granted, "once, not again and again"
        async with services.database.connections.write() as connection:
            mine = update(tables.sessions).where(tables.sessions.c.id == session.id)
            await connection.execute(mine.values(lease_expires_at=database_time(0.3)))
        ends = (await row(services, session)).lease_expires_at
        async with asyncio.timeout(8):
            while (again := await row(services, session)).status is Status.PROCESSING:
                await services.reconciling.reconciler.maintain()
                await asyncio.sleep(0.02)
        assert (again.status, again.seq, again.burnt) == (Status.CREATED, 3, 1), "its worker was dead after all"
        assert ends is not None
        assert again.updated_at >= ends


@pytest.mark.parametrize("use", ["read", "write"])
async def test_outage_met_by_another_part_extends_every_lease(config: MakeConfig, postgres_url: str, use: str) -> None:
    """An outage may be over before the next pass, and too long for a worker."""
    async with open_services(config(lease_seconds=20, database_url=postgres_url)) as services:
        times_of(services)
        await services.reconciling.reconciler.maintain()
        session = await lapsed(services)
        await lose_connection(services, use)
        await services.reconciling.reconciler.maintain()
        assert (await row(services, session)).status is Status.PROCESSING


async def test_outage_just_after_an_extension_needs_no_other(config: MakeConfig, postgres_url: str) -> None:
    """Leases last for a while; the sessions of a dead worker must not wait for ever."""
    async with open_services(config(lease_seconds=21, database_url=postgres_url)) as services:
        times = times_of(services)
        await services.reconciling.reconciler.maintain()
        await lose_connection(services)
        await services.reconciling.reconciler.maintain()
        dead = await lapsed(services)
        times.pass_by(seconds=6, clock_seconds=6)
        await lose_connection(services)
        await services.reconciling.reconciler.maintain()
        assert (await row(services, dead)).status is Status.CREATED
        later = await lapsed(services)
        times.pass_by(seconds=3, clock_seconds=3)
        await lose_connection(services)
        await services.reconciling.reconciler.maintain()
        assert (await row(services, later)).status is Status.PROCESSING


async def test_met_bound_is_no_outage(config: MakeConfig, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool is used up, or a row or all of SQLite is locked: others are served."""
    async with open_services(config()) as services:
        connections = services.database.connections
        with pytest.raises(Unavailable):
            async with connections.write():
                raise exc.TimeoutError
        locked = tables.sessions.c.id == (await submitted(services)).id
        change = update(tables.sessions).where(locked).values(burnt=0)
        monkeypatch.setattr("server.adapters.database.engine.BUSY_SECONDS", 0.05)

        async def meet_lock() -> None:
            async with connections.write() as connection:
                await connection.execute(text("SET LOCAL lock_timeout = '50ms'"))
                await connection.execute(change)

        async with connections.write() as holder:
            await holder.execute(change)
            with pytest.raises(Unavailable):
                await meet_lock()
        assert connections.outages == 0


async def test_unused_extension_is_not_repeated(config: MakeConfig, database_url: str) -> None:
    """Take back the session of a dead worker however often the database goes down."""
    async with open_services(config(lease_seconds=0.6)) as services:
        times_of(services)
        await services.reconciling.reconciler.maintain()
        dead, alive = await lapsed(services), await lapsed(services)
        await fail_once(services)
        await services.reconciling.reconciler.maintain()
        assert await services.database.writer.renew(alive.id, attempt=1, lease_seconds=60) is False
        ends = (await row(services, dead)).lease_expires_at
        assert ends is not None
        await until(lambda: time.time() > ends.timestamp() + 0.05)
        await fail_once(services)
        await services.reconciling.reconciler.maintain()
        await services.reconciling.reconciler.maintain()
        assert (await row(services, dead)).status is Status.CREATED
        assert (await row(services, alive)).status is Status.PROCESSING


async def test_lapsed_lease_is_not_extended_without_disturbance(config: MakeConfig, database_url: str) -> None:
    """Take back a session at once when nothing has kept its worker from renewing."""
    async with open_services(config()) as services:
        times_of(services)
        for _ in range(3):
            await services.reconciling.reconciler.maintain()
        session = await lapsed(services)
        await services.reconciling.reconciler.maintain()
        assert (await row(services, session)).status is Status.CREATED


async def test_disturbance_within_a_pass_ends_it(
    config: MakeConfig, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Take nothing back after a page of sessions was read during a disturbance."""
    async with open_services(config()) as services:
        times = times_of(services)
        await services.reconciling.reconciler.maintain()
        session = await lapsed(services)
        due = services.database.due.due

        async def slow(**what: Any) -> list[Session]:
            page = await due(**what)
            times.pass_by(seconds=60, clock_seconds=60)
            return page

        with monkeypatch.context() as patch:
            patch.setattr(services.database.due, "due", slow)
            await services.reconciling.reconciler.maintain()
        assert (await row(services, session)).status is Status.PROCESSING


async def test_clock_set_back_extends_again(config: MakeConfig, database_url: str) -> None:
    """Forget earlier extensions, whose times are those of another clock."""
    async with open_services(config(lease_seconds=0.6)) as services:
        times = times_of(services)
        await services.reconciling.reconciler.maintain()
        session = await lapsed(services)
        times.pass_by(seconds=60, clock_seconds=60)
        await services.reconciling.reconciler.maintain()
        ends = (await row(services, session)).lease_expires_at
        assert ends is not None
        await until(lambda: time.time() > ends.timestamp())
        times.pass_by(seconds=0, clock_seconds=-25 * 3600)
        await services.reconciling.reconciler.maintain()
        assert (await row(services, session)).status is Status.PROCESSING


async def test_slow_write_counts_as_disturbance(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extend leases after a write that took too long for a short lease."""
    async with open_services(config(lease_seconds=0.3)) as services:
        times = times_of(services)
        assert await services.reconciling.chores.hold("reconcile", seconds=60)
        await services.reconciling.reconciler.maintain()
        session = await lapsed(services)
        take_lease = services.database.chore_leases.take

        async def late(*what: Any, **more: Any) -> bool:
            times.pass_by(seconds=0.15, clock_seconds=0.15)  # half of the lease
            return await take_lease(*what, **more)

        monkeypatch.setattr(services.database.chore_leases, "take", late)
        assert await services.reconciling.chores.hold("reconcile", seconds=60)
        await services.reconciling.reconciler.maintain()
        assert (await row(services, session)).status is Status.PROCESSING


@pytest.mark.sqlite
@pytest.mark.parametrize("busy_seconds", [60.0, 0.05])
async def test_take_back_that_waits_takes_nothing(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch, busy_seconds: float
) -> None:
    """Its living worker had to wait as long, also where the reconciler gave up."""
    async with open_services(config(lease_seconds=0.6)) as services:
        await services.reconciling.reconciler.maintain()
        session = await lapsed(services)
        monkeypatch.setattr("server.adapters.database.engine.BUSY_SECONDS", busy_seconds)
        transition_each, waits = services.database.writer.transition_each, [True]

        async def late(*what: Any, **more: Any) -> Any:
            if not waits:
                return await transition_each(*what, **more)
            waits.clear()
            async with services.database.connections.writers_turn():
                writing = asyncio.create_task(transition_each(*what, **more))
                await asyncio.sleep(0.25)  # longer than a third of the lease
            return await writing

        monkeypatch.setattr(services.database.writer, "transition_each", late)
        with contextlib.suppress(Unavailable):
            await services.reconciling.reconciler.maintain()
        assert not waits and (await row(services, session)).status is Status.PROCESSING
        await services.reconciling.reconciler.maintain()
        extended = await row(services, session)
        assert extended.lease_expires_at is not None
        assert extended.lease_expires_at.timestamp() > session.updated_at.timestamp() + 0.5, "one period more"


async def test_successor_extends_leases_after_an_outage(config: MakeConfig, database_url: str) -> None:
    """Extend leases in the process that takes over after the outage."""
    async with open_services(config()) as services:
        times = times_of(services)
        chores = services.reconciling.chores
        await services.database.chore_leases.take("reconcile", owner="another", seconds=60)
        assert not await chores.hold("reconcile", seconds=60)
        session = await lapsed(services)
        times.pass_by(seconds=60, clock_seconds=60)
        for _ in range(2):  # the other one still has the lease, but is dead
            assert not await chores.hold("reconcile", seconds=60)
        await services.database.chore_leases.drop("reconcile", owner="another")
        assert await chores.hold("reconcile", seconds=60)
        await services.reconciling.reconciler.maintain()
        assert (await row(services, session)).status is Status.PROCESSING


async def test_clock_set_back_bounds_every_end(config: MakeConfig, database_url: str) -> None:
    """Bound deadlines, expiries and leases from before the clock was set back."""
    async with open_services(config(deadline_seconds=600, retention_seconds=86400)) as services:
        times = times_of(services)
        await services.reconciling.reconciler.maintain()
        ahead = 25 * 3600
        waiting = await services.database.writer.insert(
            new_session(deadline_seconds=600 + ahead, retention_seconds=86400 + ahead)
        )
        assert await services.database.chore_leases.take("cleanup", owner="dead", seconds=60 + ahead)
        times.pass_by(seconds=0, clock_seconds=-ahead)
        now = services.database.clock.now()
        await services.reconciling.reconciler.maintain()
        bounded = await row(services, waiting)
        assert bounded.deadline_at.timestamp() == pytest.approx(now + 600, abs=30)
        assert bounded.expires_at.timestamp() == pytest.approx(now + 86400, abs=30)
        assert await services.database.chore_leases.take("cleanup", owner="alive", seconds=60)


async def test_disturbance_during_the_extension_stays_pending(
    config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Extend once more after a disturbance that was noticed during the writes."""
    async with open_services(config()) as services:
        times, disturbances = times_of(services), services.reconciling.disturbances
        renew_all, extensions = services.database.writer.renew_all, 0

        async def disturbed(**what: Any) -> Any:
            nonlocal extensions
            extensions += 1
            answer = await renew_all(**what)
            if extensions == 1:
                times.pass_by(seconds=60, clock_seconds=60)
                disturbances.note_use()  # of another chore of this process
            return answer

        monkeypatch.setattr(services.database.writer, "renew_all", disturbed)
        disturbances.note_use()
        times.pass_by(seconds=60, clock_seconds=60)
        disturbances.note_use()
        await disturbances.grant_leases()
        assert pending(services)
        await disturbances.grant_leases()
        assert not pending(services)
        assert extensions == 2


async def test_disturbance_ends_after_a_whole_lease(config: MakeConfig) -> None:
    """Extend nothing after a lease in which every living worker has renewed."""
    async with open_services(config(lease_seconds=3.0)) as services:
        times, disturbances = times_of(services), services.reconciling.disturbances
        disturbances.note_use()
        times.pass_by(seconds=60, clock_seconds=60)
        disturbances.note_use()
        for seconds in (0.9, 0.9, 0.9):
            times.pass_by(seconds=seconds, clock_seconds=seconds)
            disturbances.note_use()
            assert pending(services)
        times.pass_by(seconds=0.4, clock_seconds=0.4)
        disturbances.note_use()
        assert not pending(services)
