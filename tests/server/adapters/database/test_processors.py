"""Descriptions of processors: published under a lease, never lost."""

from __future__ import annotations

from server.adapters.database.database import Database


async def published(database: Database) -> list[tuple[str, str, bool]]:
    rows = await database.processors.all()
    return sorted((row.setting, row.description, row.living) for row in rows)


async def test_description_stays_when_its_lease_has_ended(database: Database) -> None:
    """A worker that stopped, and one that died, leave what they last said."""
    await database.processors.publish("a", setting="mock", description="one", seconds=60)
    assert await published(database) == [("mock", "one", True)]
    await database.processors.withdraw("a")
    assert await published(database) == [("mock", "one", False)]
    await database.processors.publish("b", setting="overlay", description="two", seconds=-1)
    assert await published(database) == [("mock", "one", False), ("overlay", "two", False)]


async def test_description_is_superseded_when_another_worker_publishes(database: Database) -> None:
    """Dead rows of the same setting go; living ones and other settings stay."""
    await database.processors.publish("a", setting="mock", description="old", seconds=-1)
    await database.processors.publish("b", setting="mock", description="living", seconds=60)
    await database.processors.publish("c", setting="overlay", description="other", seconds=-1)
    await database.processors.publish("d", setting="mock", description="new", seconds=60)
    assert await published(database) == [
        ("mock", "living", True),
        ("mock", "new", True),
        ("overlay", "other", False),
    ]


async def test_description_keeps_its_first_time_when_it_is_renewed(database: Database) -> None:
    """The newest worker judges, not the one that renewed its lease last."""
    await database.processors.publish("a", setting="mock", description="one", seconds=60)
    [first] = await database.processors.all()
    await database.processors.publish("a", setting="mock", description="one", seconds=90)
    [renewed] = await database.processors.all()
    assert renewed.published_at == first.published_at
    assert renewed.expires_at > first.expires_at
