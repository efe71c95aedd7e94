"""A copy of a session and the deletion of its original, in one moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.adapters.database.cleanups import add_cleanups
from server.adapters.database.database import Database
from server.adapters.database.rows import add_files
from testkit.running import new_session
from tryon.protocol.errors import NotFound

WAITS_SECONDS = 0.1
"""Time in which a call that need not wait for a lock would end."""


async def test_copy_that_is_being_inserted_is_deleted_too(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deletion waits for the insert, and then finds its row."""
    original = await database.writer.insert(new_session())
    deleting: list[asyncio.Task[Any]] = []

    async def overtaken(*args: Any) -> None:
        await add_files(*args)
        deleting.append(asyncio.create_task(database.writer.mark_deleted(original.id, id_hash=str)))
        done, _ = await asyncio.wait(deleting, timeout=WAITS_SECONDS)
        assert not done

    monkeypatch.setattr("server.adapters.database.writing.add_files", overtaken)
    copy = await database.writer.insert(new_session(copy_of=original.id))
    deleted = await deleting[0]
    assert {each.id for each in deleted.sessions} == {original.id, copy.id}
    assert await database.reader.get(copy.id) is None


async def test_copy_of_session_that_is_being_deleted_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The insert waits for the deletion, and then finds no original, nor of a copy."""
    original = await database.writer.insert(new_session())
    copy = await database.writer.insert(new_session(copy_of=original.id))
    inserting: list[asyncio.Task[Any]] = []

    async def overtaken(*args: Any) -> Any:
        for model in (original, copy):
            inserting.append(asyncio.create_task(database.writer.insert(new_session(copy_of=model.id))))
        done, _ = await asyncio.wait(inserting, timeout=WAITS_SECONDS)
        assert not done
        return await add_cleanups(*args)

    monkeypatch.setattr("server.adapters.database.writing.add_cleanups", overtaken)
    await database.writer.mark_deleted(original.id, id_hash=str)
    assert [type(each) for each in await asyncio.gather(*inserting, return_exceptions=True)] == [NotFound, NotFound]
