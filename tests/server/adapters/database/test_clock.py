"""The database's clock, seen from a machine whose own clock is off."""

from __future__ import annotations

import time

import pytest

from server.adapters.database.clock import DatabaseClock
from server.adapters.database.database import Database
from tests.server.adapters.database.steps import brought_to, opened
from tryon.protocol.states import Status


class SetBack:
    """A machine's clock that is 5000 s slow, and a steady one that moves by hand."""

    def __init__(self) -> None:
        self.steady_seconds = 100.0

    def wall(self) -> float:
        return time.time() - 5000

    def monotonic(self) -> float:
        return self.steady_seconds

    def steady(self) -> float:
        return self.steady_seconds


async def test_times_come_from_database_clock(database: Database) -> None:
    """On PostgreSQL a synchronized clock follows the database's, and time itself."""
    real, machine = time.time(), SetBack()
    clock = DatabaseClock(database.connections, clock=machine)
    assert clock.now() == pytest.approx(real - 5000, abs=5)
    session = await brought_to(database, Status.PROCESSING)
    assert session.created_at.timestamp() == pytest.approx(real, abs=5)
    if not database.connections.sqlite:
        await clock.synchronize()
        assert clock.now() == pytest.approx(real, abs=5)
        machine.steady_seconds += 1000
        assert clock.now() == pytest.approx(real + 1000, abs=5)


async def test_sqlite_clock_is_the_machines_clock(sqlite_url: str) -> None:
    """SQLite runs on this machine: there is no offset to measure."""
    machine = SetBack()
    async with opened(sqlite_url) as database:
        clock = DatabaseClock(database.connections, clock=machine)
        await clock.synchronize()
        assert clock.now() == pytest.approx(machine.wall(), abs=1)
