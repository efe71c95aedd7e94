"""The usage of an owner and an address, as both databases count it."""

from __future__ import annotations

import pytest

from server.adapters.database.changes import Change, Complete
from server.adapters.database.database import Database
from server.adapters.database.usage import usage_of
from server.domain.allowance import Allowance, Usage
from testkit.running import new_session, result, stored
from tryon.protocol.errors import RateLimited
from tryon.protocol.states import Status


async def usage(database: Database, owner: str = "a", address: str | None = "x") -> Usage:
    async with database.connections.read() as connection:
        return await usage_of(connection, owner=owner, address_hash=address)


def counted(owner_bytes: int, owner_waiting: int, address_bytes: int, address_waiting: int) -> Usage:
    return Usage(
        owner_bytes=owner_bytes,
        owner_waiting=owner_waiting,
        address_bytes=address_bytes,
        address_waiting=address_waiting,
    )


async def test_usage_counts_owner_and_address_apart(database: Database) -> None:
    """Each over all rows of its own; an unknown address has nothing."""
    for owner, address, size in (("a", "x", 10), ("a", "y", 20), ("b", "x", 40), ("a", None, 80)):
        await database.writer.insert(
            new_session(owner=owner, address_hash=address, files=(stored("inputs/x.jpg", bytes=size),))
        )
    assert await usage(database) == counted(110, 3, 50, 2)
    assert await usage(database, "a", None) == counted(110, 3, 0, 0)
    assert await usage(database, "c", "z") == counted(0, 0, 0, 0)


async def test_usage_follows_a_session_to_its_end(database: Database) -> None:
    """Running it waits no more, its result counts, and erased it counts nothing."""
    session = await database.writer.insert(
        new_session(owner="a", address_hash="x", files=(stored("inputs/x.jpg", bytes=10),))
    )
    moved = await database.writer.claim(session.id, worker="w", lease_seconds=60, actor="w")
    assert moved is not None
    assert await usage(database) == counted(10, 0, 10, 0)
    done = Change(session_id=session.id, outcome=Complete((result(bytes=5),)), from_status=Status.PROCESSING, actor="w")
    assert await database.writer.transition(done)
    assert await usage(database) == counted(15, 0, 15, 0)
    await database.writer.mark_deleted(session.id, id_hash=str)
    assert await usage(database) == counted(15, 0, 15, 0)  # its files may still be there
    await database.writer.erase([session.id])
    assert await usage(database) == counted(0, 0, 0, 0)


async def test_insert_beyond_allowance_changes_nothing(database: Database) -> None:
    """The refused session has no row; another owner of that address has room."""
    allowance = Allowance(owner_waiting=1)
    await database.writer.insert(new_session(owner="a", address_hash="x", allowance=allowance))
    refused = new_session(owner="a", address_hash="x", allowance=allowance)
    with pytest.raises(RateLimited):
        await database.writer.insert(refused)
    assert await database.reader.ids_among([refused.id]) == set()
    await database.writer.insert(new_session(owner="b", address_hash="x", allowance=allowance))
