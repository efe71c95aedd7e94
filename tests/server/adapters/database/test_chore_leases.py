"""Named leases: one owner at a time."""

from __future__ import annotations

from server.adapters.database.database import Database
from tests.server.adapters.database.racers import Racers

LEASES = 8


async def test_named_lease_has_one_owner(database: Database, racers: Racers) -> None:
    """Two processes take the same leases; only the owner may take one again."""
    calls = [{"call": "take_lease", "lease": f"chore-{n}"} for n in range(LEASES)]
    first, second = await racers.race(calls, calls)
    assert [one + other for one, other in zip(first, second, strict=True)] == [1] * LEASES
    again, _ = await racers.race(calls, [])
    assert again == first, "only the owner may take it again"


async def test_dropped_lease_is_free(database: Database) -> None:
    """Another owner gets a lease only after its owner has dropped it."""
    assert await database.chore_leases.take("chore", owner="a", seconds=60)
    assert not await database.chore_leases.take("chore", owner="b", seconds=60)
    await database.chore_leases.drop("chore", owner="b")
    assert not await database.chore_leases.take("chore", owner="b", seconds=60)
    await database.chore_leases.drop("chore", owner="a")
    assert await database.chore_leases.take("chore", owner="b", seconds=60)


async def test_lapsed_lease_is_free(database: Database) -> None:
    assert await database.chore_leases.take("chore", owner="a", seconds=-1)
    assert await database.chore_leases.take("chore", owner="b", seconds=60)


async def test_lease_from_the_future_is_free(database: Database) -> None:
    """A lease left behind when the clock was set back must not block a chore."""
    assert await database.chore_leases.take("chore", owner="a", seconds=500)
    assert await database.chore_leases.take("chore", owner="b", seconds=60)
