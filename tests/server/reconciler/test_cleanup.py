"""The hourly cleanup of files, events and keys without a session."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, literal

from server.adapters.database import tables
from server.adapters.database.tables import database_time
from server.adapters.files.port import FOLDERS, Page
from server.reconciler import timing
from server.reconciler.cleanup import Cleanup
from server.services import Services, open_services
from testkit.running import PHOTO
from testkit.values import new_session_id
from tests.server.reconciler.conftest import MakeConfig, submitted
from tests.server.sessions.conftest import files
from tryon.protocol.errors import Unavailable


async def test_cleanup_deletes_events_and_keys_without_session(config: MakeConfig, database_url: str) -> None:
    """Delete events, jobs and progress of a lost session, and no other key."""
    async with open_services(config(key_prefix="a[b]*:")) as services:
        admin: Any = services.redis
        living = await submitted(services)
        lost = new_session_id()
        for each in (living.id, lost):
            await services.queue.enqueue(each, 1, 2, score_ms=1)
            await admin.hset(services.bus._names.progress(each), "at", "1")
        elsewhere = {f"arq:job:{new_session_id()}:0:1": "of another installation", "a-b-:progress:x": "hers"}
        await services.redis.mset(elsewhere)
        async with services.database.connections.write() as connection:
            event = {
                "seq": 1, "event": "created", "status": "created", "attempt": 0, "actor": "x", "data": "{}",
            }  # fmt: skip
            await connection.execute(
                insert(tables.events).values(session_id=lost, at=database_time(), from_status=literal(None), **event)
            )
        await services.reconciling.cleanup.clean_up()
        keys = " ".join(key.decode() for key in await services.redis.keys("*"))
        assert lost not in keys and all(key in keys for key in elsewhere)
        assert keys.count(living.id) == 3, "two jobs and its progress"
        assert lost not in await services.queue.order(10) and living.id in await services.queue.order(10)
        found = await services.database.reader.with_events(living.id, 0)
        assert found is not None and len(found.events) == 1
        assert await services.database.upkeep.delete_stray_events() == 0


async def test_cleanup_deletes_orphaned_files_only(
    config: MakeConfig, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Delete orphans and old unfinished files, and keep uploads in flight."""
    caplog.set_level(logging.INFO, "tryon")
    async with open_services(config()) as services:
        session = await services.sessions.submissions.submit(owner="o" * 64, inputs=[PHOTO], params={}, request_id=None)
        orphan, fresh = f"inputs/{new_session_id()}-person-0.jpg", f"inputs/{new_session_id()}-garment-1.jpg"
        draft = f"outputs/{session.id}-1.jpg.{'0' * 16}.part"
        written = f"outputs/{new_session_id()}-1.jpg.{'0' * 16}.part"
        result, erased = f"outputs/{session.id}-1-mask_a-0.jpg", f"outputs/{new_session_id()}-1-result-0.jpg"
        preview, old = f"previews/{new_session_id()}-1-3.jpg", f"outputs/{new_session_id()}-1.jpg"
        await services.files.put(preview, b"of a worker that was killed, too")
        await services.files.put(old, b"named as before there were roles")
        await services.files.put(result, b"of a worker that has yet to say so")
        await services.files.put(erased, b"of a worker that was killed while its session was erased")
        (services.config.uploads_dir / written).write_bytes(b"being written")
        await services.files.put(orphan, b"old")
        await services.files.put(fresh, b"an upload in flight")
        (services.config.uploads_dir / draft).write_bytes(b"half a result")
        for key in (orphan, session.inputs[0].key, draft):
            past = time.time() - 2 * timing.ORPHAN_SECONDS
            os.utime(services.config.uploads_dir / key, (past, past))
        await services.reconciling.cleanup.clean_up()
        assert files(services) == sorted([fresh, session.inputs[0].key, result, written])
        assert f"Deleted orphaned file: {orphan}" in caplog.messages
        for key in (erased, preview, old):
            assert f"Deleted orphaned file: {key}" in caplog.messages


async def test_dirty_storage_stops_no_cleanup(
    config: MakeConfig, database_url: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Leave what the product cannot have written, and delete the orphan behind it."""
    async with open_services(config()) as services:
        session = await submitted(services)
        uploads = services.config.uploads_dir
        orphan = f"outputs/{new_session_id()}-1.jpg"
        await services.files.put(orphan, b"of a worker that was killed")
        foreign = [
            b"outputs/Thumbs.db",
            b"outputs/desktop.ini",
            b"outputs/0.jpg",
            f"outputs/{session.id}-image.jpg".encode(),
            f"inputs/{new_session_id()}-1.jpg".encode(),
            f"outputs/{new_session_id().upper()}-1.jpg".encode(),
            f"outputs/{new_session_id()}-1.jpg.bak".encode(),
            b"inputs/\xff\xfe.jpg",
            b"inputs/" + b"x" * 251 + b".jpg",
        ]
        for name in foreign:
            path = os.fsencode(uploads) + b"/" + name
            Path(os.fsdecode(path)).write_bytes(b"")
            os.utime(path, (0, 0))
        (uploads / f"outputs/{new_session_id()}-1.jpg").mkdir()
        (uploads / f"outputs/{new_session_id()}-1.jpg").symlink_to(tmp_path / "nowhere")
        for _ in range(2):
            await services.reconciling.cleanup.clean_up()
        left = {os.fsencode(path.relative_to(uploads)) for folder in FOLDERS for path in (uploads / folder).iterdir()}
        assert {*foreign, session.inputs[0].key.encode()} <= left and orphan.encode() not in left
        assert len(left) == len(foreign) + 3
        line = "Cleanup left 11 foreign entries in the storage, and 0 orphaned files that it could not delete"
        assert [each for each in caplog.messages if "Cleanup" in each] == [line] * 2, "one line a pass"


async def test_undeletable_orphan_stops_no_cleanup(
    config: MakeConfig, database_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delete the other orphans, and the keys in Redis, beside one that stays."""
    async with open_services(config()) as services:
        orphans = sorted(f"outputs/{new_session_id()}-1.jpg" for _ in range(3))
        for each in orphans:
            await services.files.put(each, b"orphan")
        lost = new_session_id()
        await services.queue.enqueue(lost, 1, 2, score_ms=1)
        unlink = Path.unlink

        def refuse(path: Path, missing_ok: bool = False) -> None:
            if path.name == Path(orphans[0]).name:
                raise PermissionError(errno.EPERM, "the file is immutable")
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", refuse)
        await services.reconciling.cleanup.clean_up()
        assert files(services) == orphans[:1]
        assert lost not in await services.queue.order(10)
        line = "Cleanup left 0 foreign entries in the storage, and 1 orphaned files that it could not delete"
        assert line in caplog.messages


async def test_unlistable_storage_stops_no_other_cleanup(config: MakeConfig, database_url: str) -> None:
    """Delete the keys in Redis all the same, then report the storage."""
    async with open_services(config()) as services:
        lost = new_session_id()
        await services.queue.enqueue(lost, 1, 2, score_ms=1)
        (services.config.uploads_dir / "outputs").rmdir()
        with pytest.raises(Unavailable):
            await services.reconciling.cleanup.clean_up()
        assert lost not in await services.queue.order(10)


def in_pages(services: Services, page_keys: int) -> Cleanup:
    """Return a cleanup that looks at this many files at a time."""
    return Cleanup(
        reader=services.database.reader,
        upkeep=services.database.upkeep,
        quotas=services.database.quotas,
        operator_actions=services.database.operator_actions,
        files=services.files,
        bus=services.bus,
        queue=services.queue,
        erasure=services.sessions.erasure,
        erased_bytes=services.sessions.erased_bytes,
        page_keys=page_keys,
    )


async def test_cleanup_goes_through_every_page(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip no orphan because the files of the page before were deleted."""
    async with open_services(config()) as services:
        living = [await submitted(services) for _ in range(3)]
        for _ in range(5):
            await services.files.put(f"outputs/{new_session_id()}-1.jpg", b"orphan")
        pages: list[Page] = []
        list_page = services.files.list_page

        async def noted(**what: Any) -> Page:
            pages.append(await list_page(**what))
            return pages[-1]

        monkeypatch.setattr(services.files, "list_page", noted)
        await in_pages(services, 2).clean_up()
        assert [len(page.entries) for page in pages] == [2, 2, 2, 2]
        assert files(services) == sorted(session.inputs[0].key for session in living)


async def test_cancelled_scrub_stays_to_be_done(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty the log at the end of a process that stops in the middle of a scrub."""
    monkeypatch.setattr(timing, "SCRUB_SECONDS", 0.0)
    async with open_services(config()) as services:
        begun, scrubs = asyncio.Event(), 0

        async def slow() -> bool:
            nonlocal scrubs
            scrubs += 1
            if scrubs == 1:
                begun.set()
                await asyncio.Event().wait()
            return True

        monkeypatch.setattr(services.database.upkeep, "scrub", slow)
        erased_bytes = services.sessions.erased_bytes
        async with services.reconciling.maintenance.running():
            erased_bytes.note()
            await begun.wait()
            assert not erased_bytes.in_log
        assert scrubs == 2
        assert not erased_bytes.in_log


async def test_failed_scrub_is_tried_again(config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the note of an erasure while a reader or an outage prevents the scrub."""
    async with open_services(config()) as services:

        async def busy() -> bool:
            return False

        async def unavailable() -> bool:
            raise Unavailable

        erased_bytes = services.sessions.erased_bytes
        for failing in (busy, unavailable):
            erased_bytes.note()
            with monkeypatch.context() as patch:
                patch.setattr(services.database.upkeep, "scrub", failing)
                await services.reconciling.cleanup.scrub()
            assert erased_bytes.in_log
            await services.reconciling.cleanup.scrub()
            assert not erased_bytes.in_log
