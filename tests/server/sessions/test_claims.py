"""Workers over real adapters: one commit, one publish; a lost race changes nothing."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update

from server.adapters.database import tables
from server.domain.session import Session
from server.domain.stored_files import NewFile
from server.services import Services, open_services
from testkit.fixtures import StartValkey
from testkit.running import until
from testkit.values import new_session_id
from tests.server.sessions.conftest import (
    MINE,
    MakeConfig,
    Unanswered,
    begin,
    files,
    published_about,
    row,
    status,
    submit,
)
from tryon.protocol.errors import StorageFull, Unavailable
from tryon.protocol.states import GoneReason, Status


async def test_each_transition_is_published_once(services: Services) -> None:
    """Publish claim and completion once each, after the commit."""
    session = await submit(services)
    async with published_about(services, session.id) as published:
        claim = await begin(services, session)
        assert await services.sessions.claims.complete(claim, [NewFile(b"result")])
        await until(lambda: len(published.seqs) == 2)
        assert published.seqs == [2, 3]
    assert await status(services, session) == (Status.COMPLETED, 3)
    assert f"outputs/{session.id}-1-result-0.jpg" in files(services)


async def test_only_one_worker_claims_a_session(services: Services) -> None:
    """Publish one claim when five workers try at the same moment."""
    session = await submit(services)
    async with published_about(services, session.id) as published:
        claims = await asyncio.gather(*(services.sessions.claims.begin(session.id, worker=f"w{n}") for n in range(5)))
        assert sum(claim is not None for claim in claims) == 1
        await services.bus.publish(session.id, b"p0000000099000001 " + b'{"progress":1}')
        await until(lambda: published.progress)
        assert published.seqs == [2]


async def test_unanswered_claim_belongs_to_its_run(services: Services) -> None:
    """Return a claim whose answer was lost to the run that made it, and to no other."""
    session, claiming = await submit(services), Unanswered()
    claims = services.sessions.claims
    async with published_about(services, session.id) as published:
        with claiming.losing(services, "transition_each"), pytest.raises(Unavailable):
            await claims.begin(session.id, worker="w1", run=1)
        trying = asyncio.gather(*(claims.begin(session.id, worker="w1", run=run) for run in (2, 1)))
        for _ in range(20):
            await asyncio.sleep(0)
        await claiming.commit()
        other, own = await trying
        assert other is None
        assert own is not None
        assert (own.attempt, own.actor) == (1, "worker:w1")
        assert await claims.renew(own) == "held"
        assert await claims.complete(own, [NewFile(b"result")])
        await until(lambda: len(published.seqs) == 2)
        assert published.seqs == [2, 3]
    assert await claims.begin(session.id, worker="w1", run=1) is None
    story = await services.database.reader.with_events(session.id, since=1)
    assert story is not None
    assert [event.actor for event in story.events] == ["worker:w1", "worker:w1"]


async def test_claim_leaves_a_session_to_the_workers_of_its_processor(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker of another setting leaves what mock has judged, and says so once."""
    session = await submit(services)
    for _ in range(3):  # the reconciler enqueues it again and again
        assert await services.sessions.claims.begin(session.id, worker="w1", processors=["overlay", "cog"]) is None
    assert caplog.text.count(f"Session {session.id} waits for a worker with the processor mock") == 1
    assert await status(services, session) == (Status.CREATED, 1)
    claim = await services.sessions.claims.begin(session.id, worker="w2", processors=["overlay", "mock"])
    assert claim is not None and claim.processor == "mock"


async def test_claim_is_repeated_when_its_commit_failed(services: Services) -> None:
    """Claim a session again whose first claim was rolled back."""
    session, claiming = await submit(services), Unanswered()
    with claiming.losing(services, "transition_each"), pytest.raises(Unavailable):
        await services.sessions.claims.begin(session.id, worker="w1", run=1)
    await claiming.roll_back()
    claim = await services.sessions.claims.begin(session.id, worker="w1", run=1)
    assert claim is not None
    assert claim.attempt == 1


async def test_fenced_worker_changes_nothing(services: Services) -> None:
    """Refuse every call of a worker whose attempt was lost, and delete its result."""
    session = await submit(services)
    lost = await begin(services, session)
    assert await services.sessions.claims.requeue(lost, burnt=True, reason="lease_lost")
    held = await begin(services, session, "w2")
    async with published_about(services, session.id) as published:
        assert not await services.sessions.claims.complete(lost, [NewFile(b"late")])
        assert not await services.sessions.claims.fail(lost, "mock_failure")
        assert not await services.sessions.claims.requeue(lost, burnt=True, reason="late")
        assert await services.sessions.claims.renew(lost) == "lost"
        assert await services.sessions.claims.renew(held) == "held"
        assert f"outputs/{session.id}-1-result-0.jpg" not in files(services)
        assert await services.sessions.claims.complete(held, [NewFile(b"result")])
        await until(lambda: published.seqs)
        assert published.seqs == [5]
    assert f"outputs/{session.id}-2-result-0.jpg" in files(services)


async def test_second_completion_keeps_first_result(services: Services) -> None:
    """Refuse the second of two results of one claim."""
    session = await submit(services)
    claim = await begin(services, session)
    assert await services.sessions.claims.complete(claim, [NewFile(b"first")])
    assert not await services.sessions.claims.complete(claim, [NewFile(b"again", "image/png")])
    assert f"outputs/{session.id}-1-result-0.png" not in files(services)
    assert await status(services, session) == (Status.COMPLETED, 3)


async def test_result_stays_while_its_commit_may_go_through(services: Services) -> None:
    """Keep a result that is named only after its worker has given up."""
    session = await submit(services)
    claim, complete = await begin(services, session), Unanswered()
    with complete.losing(services, "transition_each"), pytest.raises(Unavailable):
        await services.sessions.claims.complete(claim, [NewFile(b"result")])
    await complete.commit()
    assert (await row(services, session)).outputs[0].key == f"outputs/{session.id}-1-result-0.jpg"
    assert f"outputs/{session.id}-1-result-0.jpg" in files(services)
    assert not await services.sessions.claims.complete(claim, [NewFile(b"result")])
    assert f"outputs/{session.id}-1-result-0.jpg" in files(services)


async def test_refused_retry_waits_for_the_unconfirmed_commit(services: Services) -> None:
    """Keep a result that the first try names after the second one was refused."""
    session = await submit(services)
    claim, complete = await begin(services, session), Unanswered()
    with complete.losing(services, "transition_each"), pytest.raises(Unavailable):
        await services.sessions.claims.complete(claim, [NewFile(b"result")])
    discarding = asyncio.create_task(
        services.sessions.claims._discard(session.id, [f"outputs/{session.id}-1-result-0.jpg"])
    )
    for _ in range(20):
        await asyncio.sleep(0)
    await complete.commit()
    await discarding
    assert f"outputs/{session.id}-1-result-0.jpg" in files(services)


async def test_refused_retry_deletes_an_unconfirmed_result(services: Services) -> None:
    """Leave no result of a session that was cancelled between two tries."""
    session = await submit(services)
    claim, complete = await begin(services, session), Unanswered()
    with complete.losing(services, "transition_each"), pytest.raises(Unavailable):
        await services.sessions.claims.complete(claim, [NewFile(b"result")])
    await complete.roll_back()
    assert await services.database.writer.request_cancel(session.id, seq=claim.session.seq)
    assert not await services.sessions.claims.complete(claim, [NewFile(b"result")])
    assert not any(key.startswith("outputs/") for key in files(services))


async def test_unconfirmed_result_goes_with_its_session(services: Services) -> None:
    """Erase a result that no row names, because its commit was not made."""
    session = await submit(services)
    claim, complete = await begin(services, session), Unanswered()
    with complete.losing(services, "transition_each"), pytest.raises(Unavailable):
        await services.sessions.claims.complete(claim, [NewFile(b"result")])
    await complete.roll_back()
    assert await services.sessions.claims.fail(claim, "timeout")
    await services.sessions.erasure.remove(await row(services, session), GoneReason.EXPIRED)
    assert files(services) == []


async def test_concurrent_complete_and_fail_end_once(services: Services) -> None:
    """Let one of two ends win, and keep the file only if it was the completion."""
    for _ in range(10):
        session = await submit(services)
        claim = await begin(services, session)
        done, failed = await asyncio.gather(
            services.sessions.claims.complete(claim, [NewFile(b"result")]),
            services.sessions.claims.fail(claim, "mock_failure"),
        )
        assert done + failed == 1
        assert (f"outputs/{session.id}-1-result-0.jpg" in files(services)) is done
        assert (await status(services, session))[1] == 3


async def test_failure_message_defaults_to_its_code(services: Services) -> None:
    """Show the code's own message unless the processor gave one."""
    session = await submit(services)
    await services.sessions.claims.fail(await begin(services, session), "timeout")
    other = await submit(services)
    await services.sessions.claims.fail(
        await begin(services, other), "too_dark", "The photo is too dark.", retryable=False
    )
    views = [(await services.sessions.reads.read(each.id, MINE)).view.error for each in (session, other)]
    assert views[0] is not None and views[0].message and views[0].retryable
    assert views[1] is not None
    assert (views[1].code, views[1].message, views[1].retryable) == ("too_dark", "The photo is too dark.", False)


async def test_claim_is_refused_after_the_deadline(config: MakeConfig, database_url: str) -> None:
    """Claim no unknown and no overdue session, and complete none that is overdue."""
    async with open_services(config()) as services:

        async def overdue(session: Session) -> None:
            async with services.database.connections.write() as connection:
                mine = update(tables.sessions).where(tables.sessions.c.id == session.id)
                await connection.execute(mine.values(deadline_at=tables.sessions.c.created_at))

        assert await services.sessions.claims.begin(new_session_id(), worker="w") is None
        session = await submit(services)
        await overdue(session)
        assert await services.sessions.claims.begin(session.id, worker="w") is None
        late = await submit(services)
        claim = await begin(services, late)
        await overdue(late)
        assert not await services.sessions.claims.complete(claim, [NewFile(b"late")])
        assert not any(key.startswith("outputs/") for key in files(services))


async def test_worker_never_waits_when_redis_is_unavailable(config: MakeConfig, start_valkey: StartValkey) -> None:
    """Report a hundred times and complete while Redis is down."""
    valkey = start_valkey()
    async with open_services(config(redis_url=valkey.url)) as services:
        valkey.kill()
        session = await submit(services)
        claim = await begin(services, session)
        async with asyncio.timeout(5):  # 0.01 on an idle machine; 30 if each report waited
            for n in range(100):
                await services.sessions.claims.report(claim, n / 100, "rendering")
        assert await services.sessions.claims.complete(claim, [NewFile(b"result")])
        assert await status(services, session) == (Status.COMPLETED, 3)


async def test_refused_output_leaves_none_of_the_others(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Store the first of two outputs of a session that was erased, and no second."""
    session = await submit(services)
    claim = await begin(services, session)
    await services.sessions.erasure.remove(await row(services, session), GoneReason.DELETED)
    put = services.sessions.claims._files.put

    async def fails(key: str, data: bytes) -> None:
        if "result-1" in key:
            raise StorageFull
        await put(key, data)

    monkeypatch.setattr(services.sessions.claims._files, "put", fails)
    with pytest.raises(StorageFull):
        await services.sessions.claims.complete(claim, [NewFile(b"first"), NewFile(b"second")])
    assert files(services) == []


async def test_refused_output_keeps_an_unconfirmed_result(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the first try has named, although its answer was lost."""
    session = await submit(services)
    claim, complete = await begin(services, session), Unanswered()
    with complete.losing(services, "transition_each"), pytest.raises(Unavailable):
        await services.sessions.claims.complete(claim, [NewFile(b"result")])
    await complete.commit()

    async def fails(key: str, data: bytes) -> None:
        raise StorageFull

    monkeypatch.setattr(services.sessions.claims._files, "put", fails)
    with pytest.raises(StorageFull):
        await services.sessions.claims.complete(claim, [NewFile(b"result")])
    assert files(services).count(f"outputs/{session.id}-1-result-0.jpg") == 1


async def test_completion_of_erased_session_leaves_nothing(services: Services) -> None:
    """Refuse the result of a session that was erased while it ran."""
    session = await submit(services)
    claim = await begin(services, session)
    row = await services.database.reader.get(session.id)
    assert row is not None
    await services.sessions.erasure.remove(row, GoneReason.DELETED)
    assert not await services.sessions.claims.complete(claim, [NewFile(b"late")])
    assert await services.sessions.claims.renew(claim) == "lost"
    assert files(services) == []
