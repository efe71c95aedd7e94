"""What the store promises, on a database that the next release has migrated already
(expand) while this one still runs.
"""

from __future__ import annotations

import inspect

import pytest

from testkit.expansion import expand
from tests.server.adapters.database import test_store
from tests.server.adapters.database.test_store import database

__all__ = ["database"]

TESTS = {
    name: test
    for name, test in vars(test_store).items()
    if name.startswith("test_") and {"database", "racers"} & set(inspect.signature(test).parameters) == {"database"}
}
"""Every test of the store, but those that race: they make the same calls."""

assert len(TESTS) > 20
globals().update(TESTS)


@pytest.fixture
async def database_url(database_url: str) -> str:
    await expand(database_url)
    return database_url
