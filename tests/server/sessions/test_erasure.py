"""Erasure of sessions, also against workers that are about to complete them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from server.domain.stored_files import NewFile
from server.services import Services, open_services
from testkit.running import GARMENT, PHOTO, new_session, stored, until
from testkit.values import new_session_id
from tests.server.sessions.conftest import MINE, MakeConfig, begin, files, submit
from tryon.protocol.errors import NotFound, Unavailable
from tryon.protocol.states import GoneReason


async def test_erasure_leaves_no_file_row_or_key(services: Services) -> None:
    """Erase a completed session with both its photos and its progress."""
    session = await submit(services, inputs=[PHOTO, GARMENT])
    claim = await begin(services, session)
    await services.sessions.claims.report(claim, 0.5, "rendering")
    await until(lambda: claim.reports.timer is None)
    await services.sessions.claims.complete(claim, [NewFile(b"result")])
    row = await services.database.reader.get(session.id)
    assert row is not None
    await services.sessions.erasure.remove(row, GoneReason.DELETED)
    assert files(services) == []
    assert await services.database.reader.ids_among([session.id]) == set()
    keys = [key.decode() for key in await services.redis.keys("*")]
    assert not any(session.id in key for key in keys)
    with pytest.raises(NotFound):
        await services.sessions.reads.read(session.id, MINE)


async def test_erasure_finds_results_of_dead_attempts(services: Services) -> None:
    """Delete a result that no row names.

    Its worker was killed after it had stored the file and before its commit.
    """
    session = await submit(services)
    claim = await begin(services, session)
    await services.files.put(f"outputs/{session.id}-1.jpg", b"named by no row")
    assert await services.sessions.claims.requeue(claim, burnt=True, reason="lease_lost")
    await services.sessions.claims.complete(await begin(services, session), [NewFile(b"result", "image/png")])
    row = await services.database.reader.get(session.id)
    assert row is not None
    await services.sessions.erasure.remove(row, GoneReason.DELETED)
    assert files(services) == []


async def test_erasure_during_completion_leaves_nothing(services: Services) -> None:
    """Erase and complete at the same moment, fifteen times."""
    for _ in range(15):
        session = await submit(services)
        claim = await begin(services, session)
        row = await services.database.reader.get(session.id)
        assert row is not None
        completing, _ = await asyncio.gather(
            services.sessions.claims.complete(claim, [NewFile(b"result")]),
            services.sessions.erasure.remove(row, GoneReason.DELETED),
            return_exceptions=True,
        )
        if isinstance(completing, Unavailable):  # its unfinished file was deleted; a worker tries again
            assert not await services.sessions.claims.complete(claim, [NewFile(b"result")])
        assert files(services) == []
        assert await services.database.reader.ids_among([session.id]) == set()


async def test_receipt_is_complete_when_reconciler_is_faster(
    services: Services, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process removes the whole chain as soon as it is marked as deleted."""
    first = await submit(services, inputs=[PHOTO, GARMENT])
    assert await services.sessions.claims.fail(await begin(services, first), "mock_failure")
    second, _ = await services.sessions.submissions.retry(first.id, first.owner, request_id=None)
    assert await services.sessions.claims.complete(await begin(services, second), [NewFile(b"result")])
    publish = services.bus.publish_to_each
    async with open_services(config()) as other:

        async def slow(*message: Any) -> bool:
            await other.reconciling.reconciler.maintain()
            assert files(services) == []
            return await publish(*message)

        monkeypatch.setattr(services.bus, "publish_to_each", slow)
        receipt = await services.sessions.erasure.delete(first.id, first.owner)
        await other.reconciling.reconciler.stop()
    assert {(file.session_id, file.role) for file in receipt.files} == {
        (first.id, "person"), (first.id, "garment"), (second.id, "person"), (second.id, "garment"), (second.id, "result"),
    }  # fmt: skip
    assert {file.sha256 for file in receipt.files} == {
        hashlib.sha256(data).hexdigest() for data in (PHOTO.data, GARMENT.data, b"result")
    }


async def test_receipt_lists_result_of_last_moment(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session completes after it was read, and before it is marked as deleted."""
    session = await submit(services)
    claim = await begin(services, session)
    mark = services.database.writer.mark_deleted

    async def completing(session_id: str, **options: Any) -> Any:
        assert await services.sessions.claims.complete(claim, [NewFile(b"result")])
        return await mark(session_id, **options)

    monkeypatch.setattr(services.database.writer, "mark_deleted", completing)
    receipt = await services.sessions.erasure.delete(session.id, session.owner)
    assert [file.role for file in receipt.files] == ["person", "result"]
    assert files(services) == []


async def test_receipt_needs_no_read_of_the_storage(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads hang: the receipt has the sizes and hashes that the rows remember."""
    session = await submit(services)

    async def silent(key: str) -> bytes:
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr(services.files, "get", silent)
    receipt = await services.sessions.erasure.delete(session.id, session.owner)
    assert [(file.role, file.bytes, file.sha256) for file in receipt.files] == [
        ("person", len(PHOTO.data), hashlib.sha256(PHOTO.data).hexdigest())
    ]
    assert files(services) == []


async def test_long_chain_is_deleted_in_few_steps(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred retries and their copies cost a step of each kind, and little CPU."""
    first = session = await submit(services)
    others = [await submit(services)]
    chain = [first]
    for _ in range(100):
        file = stored(f"inputs/{(id := new_session_id())}-person-0.jpg", sha256=first.files[0].sha256)
        new = new_session(id=id, files=(file,), owner=first.owner, retry_of=session.id, expires_at=first.expires_at)
        await services.files.put(new.files[0].key, PHOTO.data)
        session = await services.database.writer.insert(new)
        await services.queue.enqueue(session.id, 0, 0, score_ms=0)
        chain.append(session)
    steps: Counter[str] = Counter()

    def count(owner: object, name: str) -> None:
        function = getattr(owner, name)

        async def counted(*arguments: Any, **options: Any) -> Any:
            steps[name] += 1
            return await function(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    count(services.files, "delete")
    count(services.database.writer, "erase")
    count(services.queue, "forget_all")
    count(services.queue, "ring_cancel")
    begin = time.process_time()
    receipt = await services.sessions.erasure.delete(first.id, first.owner)
    used = time.process_time() - begin
    assert {file.session_id for file in receipt.files} == {each.id for each in chain}
    assert {file.sha256 for file in receipt.files} == {hashlib.sha256(PHOTO.data).hexdigest()}
    assert steps["ring_cancel"] == 1
    assert max(steps.values()) <= 4, steps  # a few for each hundred sessions
    assert used < 1.5, f"{used:.3f} s of CPU"  # 0.1 on an idle machine
    assert files(services) == [others[0].inputs[0].key]
    left = [each.decode() for each in await services.redis.zrange(services.config.queue_name, 0, -1)]
    assert [each.partition(":")[0] for each in left] == [others[0].id]


async def test_rest_of_chain_is_erased_after_interruption(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage fails in the middle: all is unreadable, the next pass removes it."""
    monkeypatch.setattr("server.sessions.erasure.REMOVED_AT_ONCE", 2)
    first = session = await submit(services)
    chain = [first]
    for _ in range(4):
        new = new_session(owner=first.owner, retry_of=session.id, expires_at=first.expires_at)
        await services.files.put(new.files[0].key, PHOTO.data)
        session = await services.database.writer.insert(new)
        await services.queue.enqueue(session.id, 0, 0, score_ms=0)
        chain.append(session)
    delete, calls = services.files.delete, 0

    async def failing(keys: Iterable[str]) -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 3:  # each two sessions need two calls
            raise Unavailable
        return await delete(keys)

    monkeypatch.setattr(services.files, "delete", failing)
    with pytest.raises(Unavailable):
        await services.sessions.erasure.delete(first.id, first.owner)
    assert len(files(services)) == 3
    for each in chain:
        with pytest.raises(NotFound):
            await services.sessions.erasure.delete(each.id, each.owner)
    await services.reconciling.reconciler.maintain()
    assert files(services) == []
    assert await services.database.reader.ids_among([each.id for each in chain]) == set()
    assert await services.redis.zcard(services.config.queue_name) == 0


async def test_deletion_waits_briefly_for_a_listing(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage is silent while a session runs: its client is answered in time."""
    session = await submit(services)
    await begin(services, session)
    with monkeypatch.context() as silent:
        silent.setattr("server.sessions.erasure.LISTING_SECONDS", 0.01)
        silent.setattr(services.files, "outputs_of", lambda session_ids: asyncio.Event().wait())
        with pytest.raises(Unavailable) as refused:
            await services.sessions.erasure.delete(session.id, session.owner)
    assert refused.value.retry_after
    with pytest.raises(NotFound):
        await services.sessions.erasure.delete(session.id, session.owner)
    await services.reconciling.reconciler.maintain()
    assert files(services) == []
