"""An open database of each kind, and two processes to race with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from server.adapters.database.database import Database
from tests.server.adapters.database.racers import Racer, Racers
from tests.server.adapters.database.steps import opened


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


@pytest.fixture(scope="module")
def processes() -> Iterator[list[Racer]]:
    racers = [Racer(), Racer()]
    yield racers
    for racer in racers:
        racer.close()


@pytest.fixture
async def racers(processes: list[Racer], database_url: str) -> AsyncIterator[Racers]:
    racers = Racers(processes, database_url)
    await racers.open()
    yield racers
    await racers.close()
