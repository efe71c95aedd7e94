"""Tombstones, and the two commits of an erasure: mark_deleted, then erase."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import asyncpg
import pytest

from server.adapters.database.changes import Change, Complete, Deleted
from server.adapters.database.database import Database
from server.domain.session import Session
from testkit.running import new_session, result
from tests.server.adapters.database.steps import brought_to, opened
from tryon.protocol.errors import NotFound
from tryon.protocol.states import GoneReason, Status


async def test_erase_leaves_only_a_tombstone(database: Database, database_url: str) -> None:
    kept = await database.writer.insert(new_session())
    session = await brought_to(database, Status.COMPLETED)
    start = await database.feed.cursor()
    await database.writer.leave_tombstones(["the hash"], GoneReason.DELETED)
    erased = await database.writer.erase([session.id])
    assert [row.id for row in erased] == [session.id]
    assert await database.reader.get(session.id) is None
    assert await database.reader.with_events(session.id, 0) is None
    page = await database.feed.page(start)
    assert (page.events, page.tombstones) == ([], [("the hash", GoneReason.DELETED)])
    dump = await dump_of(database_url)
    assert session.id not in dump and session.id.replace("-", "") not in dump and session.owner not in dump
    assert kept.id in dump.replace("-", "") or kept.id.replace("-", "") in dump.replace("-", "")
    assert await database.writer.erase([session.id]) == []


async def dump_of(database_url: str) -> str:
    """Return all rows of all tables as text."""
    names = ("tryon_sessions", "tryon_files", "tryon_events", "tryon_cleanups", "tryon_gone", "tryon_leases")
    if database_url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(database_url.partition(":///")[2], timeout=60)) as connection:
            return repr([connection.execute(f"SELECT * FROM {table}").fetchall() for table in names])
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        return repr([[tuple(row) for row in await connection.fetch(f"SELECT * FROM {table}")] for table in names])
    finally:
        await connection.close()


async def test_mark_deleted_takes_all_retries_along(database: Database) -> None:
    """A session and all retries of its photo expire as one, each with a tombstone."""
    start = await database.feed.cursor()
    first = await database.writer.insert(new_session())
    second = await database.writer.insert(new_session(retry_of=first.id))
    third = await database.writer.insert(new_session(retry_of=second.id))
    unrelated = await database.writer.insert(new_session())
    deleted = await database.writer.mark_deleted(second.id, id_hash=lambda session_id: f"h-{session_id}")
    assert {each.id for each in deleted.sessions} == {first.id, second.id, third.id}
    assert set((await database.feed.page(start)).tombstones) == {
        (f"h-{each.id}", GoneReason.DELETED) for each in deleted.sessions
    }
    assert await database.writer.mark_deleted(first.id, id_hash=str) == Deleted([], {})
    assert await database.reader.get(unrelated.id) == unrelated


async def test_deletion_names_files_of_last_moment(database_url: str) -> None:
    """A result that is committed beside the commits of an erasure is named by one."""
    async with opened(database_url) as one, opened(database_url) as other:
        for _ in range(20):
            session = await brought_to(one, Status.PROCESSING)
            completing = Change(
                session_id=session.id, outcome=Complete((result(),)), from_status=Status.PROCESSING, actor="test"
            )
            moved, deleted, erased = await asyncio.gather(
                one.writer.transition(completing),
                other.writer.mark_deleted(session.id, id_hash=str),
                other.writer.erase([session.id]),
            )
            known = {key for each in (*deleted.sessions, *erased) for key in each.file_keys}
            assert (result().key in known) == (moved is not None)
            assert session.inputs[0].key in known


async def test_retry_fails_when_original_is_deleted(database: Database) -> None:
    session = await database.writer.insert(new_session())
    await database.writer.mark_deleted(session.id, id_hash=str)
    with pytest.raises(NotFound):
        await database.writer.insert(new_session(retry_of=session.id))


async def test_concurrent_retry_is_deleted_or_refused(database_url: str) -> None:
    """A retry inserted during the deletion is deleted too, or finds no original."""
    async with opened(database_url) as one, opened(database_url) as other:
        for _ in range(20):
            session = await one.writer.insert(new_session())
            again = new_session(retry_of=session.id)
            retried, deleted = await asyncio.gather(
                one.writer.insert(again), other.writer.mark_deleted(session.id, id_hash=str), return_exceptions=True
            )
            assert isinstance(retried, Session | NotFound)
            assert isinstance(deleted, Deleted)
            assert session.id in {each.id for each in deleted.sessions}
            assert await one.reader.get(again.id) is None
