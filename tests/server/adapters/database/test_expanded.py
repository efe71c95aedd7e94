"""The contract of the database, on a schema that the next release has expanded already.

A rolling update migrates first, while this release still runs.
"""

from __future__ import annotations

import importlib
import inspect

import pytest

from testkit.expansion import expand

PARTS = ("chore_leases", "clock", "due", "engine", "feed", "reading", "tombstones", "transitions", "upkeep", "writing")
MODULES = [importlib.import_module(f"tests.server.adapters.database.test_{part}") for part in PARTS]

TESTS = {
    name: test
    for module in MODULES
    for name, test in vars(module).items()
    if name.startswith("test_") and {"database", "racers"} & set(inspect.signature(test).parameters) == {"database"}
}
"""Every test of one open database; the races make the same calls."""

assert len(TESTS) > 25
globals().update(TESTS)


@pytest.fixture
async def database_url(database_url: str) -> str:
    """Migrate the database to the schema of the next release."""
    await expand(database_url)
    return database_url
