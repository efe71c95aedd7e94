"""Chores: one process at a time, and another one as soon as it ends."""

from __future__ import annotations

import asyncio
import time

import pytest

from server.reconciler import timing
from server.services import open_services
from testkit.running import new_session, running_web, until
from tests.server.reconciler.conftest import MakeConfig, until_status
from tests.server.sessions.conftest import files
from tryon.protocol.states import Status


async def test_another_process_takes_over_after_the_end(config: MakeConfig, database_url: str) -> None:
    """Expire a session in a second process after the first has ended."""
    async with running_web(config(retention_seconds=2.0)) as first:
        async with asyncio.timeout(20):  # it holds the lease
            while not await first.database.chore_leases.take(
                "reconcile", owner=first.services.reconciling.chores.process_name, seconds=90
            ):
                await asyncio.sleep(0.02)
        await first.submit()
    async with running_web(config()) as second:
        second.services.reconciling.chores.process_name = "another process"
        await until(lambda: not files(second.services), seconds=30)  # its lease would last for 90


async def test_ending_process_drops_its_leases(config: MakeConfig, database_url: str) -> None:
    """Let other processes take every chore as soon as its holder ends."""
    async with open_services(config(cleanup_seconds=3600.0)) as services:
        chores, leases = services.reconciling.chores, services.database.chore_leases
        async with services.reconciling.maintenance.running():
            await until(lambda: chores._held == {"reconcile", "cleanup", "webhooks", "usage"})
            await leases.take("cleanup", owner=chores.process_name, seconds=60)
            assert not await leases.take("cleanup", owner="another", seconds=60)
        for chore in ("reconcile", "cleanup", "webhooks", "usage"):
            assert await leases.take(chore, owner="another", seconds=60)


async def test_long_turn_keeps_its_lease(
    config: MakeConfig, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renew the lease of a chore while one turn takes long."""
    monkeypatch.setattr(timing, "RECONCILE_SECONDS", 1.0)
    async with open_services(config()) as services:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def long() -> None:
            begun.set()
            await go_on.wait()

        monkeypatch.setattr(services.reconciling.reconciler, "maintain", long)
        async with services.reconciling.maintenance.running():
            await begun.wait()
            ends = time.monotonic() + 1.3 * 2 * timing.RECONCILE_SECONDS
            while time.monotonic() < ends:
                assert not await services.database.chore_leases.take("reconcile", owner="another", seconds=1)
                await asyncio.sleep(0.02)
            go_on.set()


async def test_lease_of_killed_process_is_taken_over(config: MakeConfig, database_url: str) -> None:
    """Do a killed process's chore once its lease has ended."""
    async with open_services(config()) as services:
        await services.database.chore_leases.take("reconcile", owner="killed", seconds=2 * timing.RECONCILE_SECONDS)
        late = await services.database.writer.insert(new_session(deadline_seconds=-1))
        async with services.reconciling.maintenance.running():
            await until_status(services, late, Status.FAILED)
