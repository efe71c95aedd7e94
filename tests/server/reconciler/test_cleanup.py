"""The hourly sweep of files, events and keys without a session."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import pytest
from sqlalchemy import insert, literal

from server.adapters.database import tables
from server.adapters.database.tables import database_time
from server.reconciler import timing
from server.services import open_services
from testkit.running import PHOTO
from testkit.values import new_session_id
from tests.server.reconciler.conftest import MakeConfig, submitted
from tests.server.sessions.conftest import files


async def test_sweep_deletes_events_and_keys_without_session(config: MakeConfig, database_url: str) -> None:
    """Delete events, jobs and progress of a lost session, and no other key."""
    async with open_services(config(key_prefix="a[b]*:")) as services:
        admin: Any = services.redis
        living = await submitted(services)
        lost = new_session_id()
        for each in (living.id, lost):
            await services.queue.enqueue(each, 1, 2, score_ms=1)
            await admin.hset(services.bus._progress_key(each), "at", "1")
        elsewhere = {f"arq:job:{new_session_id()}:0:1": "of another installation", "a-b-:progress:x": "hers"}
        await services.redis.mset(elsewhere)
        async with services.database.connections.write() as connection:
            event = {
                "seq": 1, "event": "created", "status": "created", "attempt": 0, "actor": "x", "data": "{}",
            }  # fmt: skip
            await connection.execute(
                insert(tables.events).values(session_id=lost, at=database_time(), from_status=literal(None), **event)
            )
        await services.reconciling.cleanup.sweep()
        keys = " ".join(key.decode() for key in await services.redis.keys("*"))
        assert lost not in keys and all(key in keys for key in elsewhere)
        assert keys.count(living.id) == 3, "two jobs and its progress"
        assert lost not in await services.queue.order(10) and living.id in await services.queue.order(10)
        story = await services.database.reading.with_events(living.id, 0)
        assert story is not None and len(story.events) == 1
        assert await services.database.upkeep.delete_stray_events() == 0


async def test_sweep_deletes_orphaned_files_only(
    config: MakeConfig, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Delete orphans and old unfinished files, and keep uploads in flight."""
    caplog.set_level(logging.INFO, "tryon")
    async with open_services(config()) as services:
        session = await services.sessions.submissions.submit(
            owner="o" * 64, image=PHOTO, garment=None, params={}, request_id=None
        )
        orphan, fresh = f"inputs/{new_session_id()}-image.jpg", f"inputs/{new_session_id()}-image.jpg"
        draft = f"outputs/{session.id}-1.jpg.{'0' * 16}.part"
        written = f"outputs/{new_session_id()}-1.jpg.{'0' * 16}.part"
        result, erased = f"outputs/{session.id}-1.jpg", f"outputs/{new_session_id()}-1.jpg"
        await services.files.put(result, b"of a worker that has yet to say so")
        await services.files.put(erased, b"of a worker that was killed while its session was erased")
        (services.config.uploads_dir / written).write_bytes(b"being written")
        await services.files.put(orphan, b"old")
        await services.files.put(fresh, b"an upload in flight")
        (services.config.uploads_dir / draft).write_bytes(b"half a result")
        for key in (orphan, session.input_key, draft):
            past = time.time() - 2 * timing.ORPHAN_SECONDS
            os.utime(services.config.uploads_dir / key, (past, past))
        await services.reconciling.cleanup.sweep()
        assert files(services) == sorted([fresh, session.input_key, result, written])
        assert f"Deleted orphaned file: {orphan}" in caplog.messages
        assert f"Deleted orphaned file: {erased}" in caplog.messages
