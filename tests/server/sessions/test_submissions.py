"""Uploads over real adapters: files, row, first event and job, or nothing at all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from server.adapters.database.errors import Taken
from server.domain.session import session_id_of
from server.domain.stored_files import NewFile
from server.services import Services, open_services
from server.system.clock import SystemClock
from server.system.randomness import SystemRandomness
from testkit.fixtures import StartValkey
from testkit.running import GARMENT, PHOTO
from tests.server.sessions.conftest import MINE, MakeConfig, Unanswered, begin, files, status, submit
from tryon.protocol.errors import NotFound, StorageFull, Unavailable
from tryon.protocol.states import Status


async def test_submission_stores_row_files_and_job(services: Services) -> None:
    """Store both photos, the first event and the job of an upload."""
    session = await submit(services, inputs=[PHOTO, GARMENT], params={"style": "wide"})
    assert files(services) == [f"inputs/{session.id}-garment-0.png", f"inputs/{session.id}-person-0.jpg"]
    assert await services.queue.contains(session.id, 0, 1)
    (created,) = (await services.sessions.reads.history(session.id, MINE)).events
    assert (created.seq, created.event, created.from_) == (1, "created", None)
    assert created.data["input"].startswith(f"/api/tryon/files/inputs/{session.id}-person-0.jpg?")


@pytest.mark.parametrize("refusal", [Taken, NotFound, StorageFull])
async def test_refused_submission_leaves_no_file(
    services: Services, monkeypatch: pytest.MonkeyPatch, refusal: type[Exception]
) -> None:
    """Delete the photos of an upload that the database refuses, at once."""

    async def refuse(new: Any) -> Any:
        raise refusal

    monkeypatch.setattr(services.database.writer, "insert", refuse)
    with pytest.raises(refusal):
        await submit(services, inputs=[PHOTO, GARMENT])
    assert files(services) == []
    assert not services.sessions.submissions._undecided


async def test_submission_without_room_leaves_no_file(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete the first photo when the storage has no room for the second."""
    put = services.files.put

    async def put_one(key: str, data: bytes) -> None:
        if "garment" in key:
            raise StorageFull
        await put(key, data)

    monkeypatch.setattr(services.files, "put", put_one)
    with pytest.raises(StorageFull):
        await submit(services, inputs=[PHOTO, GARMENT])
    assert files(services) == []


@pytest.mark.parametrize("committed", [False, True])
async def test_files_wait_while_the_commit_may_go_through(services: Services, committed: bool) -> None:
    """Keep the photos of an upload whose row appears after it was looked for."""
    submissions, insert = services.sessions.submissions, Unanswered()
    with insert.losing(services, "insert"), pytest.raises(Unavailable):
        await submit(services, inputs=[PHOTO, GARMENT])
    assert len(files(services)) == 2
    cleaning = asyncio.create_task(submissions.clean_up_failed_uploads())
    if not services.database.connections.sqlite:  # where it waits for the one writer
        await cleaning
        assert submissions._undecided
    assert len(files(services)) == 2
    await (insert.commit() if committed else insert.roll_back())
    await cleaning
    await submissions.clean_up_failed_uploads()
    assert len(files(services)) == (2 if committed else 0)
    assert not submissions._undecided
    ids = {key.partition("/")[2][:36] for key in files(services)}
    assert await services.database.reader.ids_among(ids) == ids


async def test_files_wait_while_the_database_is_unavailable(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep the photos until the database says whether the upload has a row."""

    async def unavailable(*arguments: Any) -> Any:
        raise Unavailable

    submissions = services.sessions.submissions
    with monkeypatch.context() as patch:
        patch.setattr(services.database.writer, "insert", unavailable)
        patch.setattr(services.database.reader, "ids_among", unavailable)
        with pytest.raises(Unavailable):
            await submit(services)
        with pytest.raises(Unavailable):
            await submissions.clean_up_failed_uploads()
        assert len(files(services)) == 1
    await submissions.clean_up_failed_uploads()
    assert files(services) == []


async def test_cancelled_submission_leaves_everything_or_nothing(
    config: MakeConfig, database_url: str, tmp_path: Path
) -> None:
    """Cancel an upload at every point of its way.

    Without Redis: a cancelled connect would leak a stream of redis-py's.
    """
    async with open_services(config(redis_url=f"unix://{tmp_path}/none")) as services:
        for turns in range(0, 60, 3):
            task = asyncio.create_task(submit(services))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await services.sessions.submissions.clean_up_failed_uploads()
            ids = {key.partition("/")[2][:36] for key in files(services)}
            assert await services.database.reader.ids_among(ids) == ids


async def test_submission_is_quick_when_redis_is_silent(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Upload, claim and complete while Redis is connected and answers nothing."""
    valkey = start_valkey()
    async with open_services(config(redis_url=valkey.url)) as services:
        await submit(services)
        valkey.pause()
        try:
            async with asyncio.timeout(8):  # 0.8 on an idle machine: the first call to each waits
                session = await submit(services)
                await services.sessions.reads.view_of(session)
                await services.sessions.claims.complete(await begin(services, session), [NewFile(b"result")])
        finally:
            valkey.resume()
        assert await status(services, session) == (Status.COMPLETED, 3)


async def test_session_id_comes_from_the_injected_clock(config: MakeConfig) -> None:
    """Make the same id from the same time and the same random bytes."""

    class Seeded:
        uniform = staticmethod(SystemRandomness.uniform)
        randint = staticmethod(SystemRandomness.randint)

        def bytes(self, count: int) -> bytes:
            """Return the same bytes each time."""
            return b"\x07" * count

    class Stopped(SystemClock):
        def wall(self) -> float:
            """Return the same time each time."""
            return 1_700_000_000.0

    async with open_services(config(), clock=Stopped(), randomness=Seeded()) as services:
        session = await submit(services)
    assert session.id == session_id_of(1_700_000_000.0, b"\x07" * 10)
