"""Checkpoints: committed for the attempt that holds the session, and for no other."""

from __future__ import annotations

import pytest
import sqlalchemy

from server.domain.sealing import Sealer
from server.domain.session import Session
from server.services import Services, open_services
from tests.server.sessions.conftest import MakeConfig, begin, row, submit
from tryon.protocol.states import Status

FOUND_BY = {"id": "upstream-of-the-photo", "queue": 3}


async def requeued(services: Services, claim: object, **more: object) -> None:
    """Hand a claim back as a worker that stops does."""
    assert await services.sessions.claims.requeue(claim, **{"burnt": True, "reason": "lost"} | more)  # type: ignore[arg-type]


async def usage_in_trail(services: Services, session: Session) -> list[object]:
    """Return what each event of a session says of usage."""
    found = await services.database.reader.with_events(session.id, 0)
    assert found is not None
    return [event.data.get("usage") for event in found.events]


async def test_checkpoint_is_there_for_the_next_attempt(services: Services) -> None:
    """It names the run that began the work, also when that goes on."""
    session = await submit(services)
    first = await begin(services, session)
    assert first.work is None
    assert await services.sessions.claims.checkpoint(first, {"id": "earlier"})
    assert await services.sessions.claims.checkpoint(first, FOUND_BY)
    await requeued(services, first)
    second = await begin(services, session)
    assert second.work is not None
    assert (second.work.processor, second.work.key) == ("mock", f"{session.id}-1")
    assert second.work.checkpoint == FOUND_BY
    assert await services.sessions.claims.checkpoint(second, {"id": 2})
    assert second.work is not None and second.work.key == f"{session.id}-1"
    assert await services.sessions.claims.give_up_work(second)
    assert await services.sessions.claims.checkpoint(second, {"id": 3})
    assert second.work is not None and second.work.key == f"{session.id}-2"


async def test_checkpoint_of_lost_claim_changes_nothing(services: Services) -> None:
    """The attempt is another worker's, or the session has ended."""
    session = await submit(services)
    lost = await begin(services, session, "lost")
    await requeued(services, lost)
    held = await begin(services, session, "held")
    assert await services.sessions.claims.checkpoint(held, FOUND_BY)
    assert not await services.sessions.claims.checkpoint(lost, {"id": "late"})
    assert lost.work is None
    await requeued(services, held)
    last = await begin(services, session)
    assert last.work is not None and last.work.checkpoint == FOUND_BY
    assert await services.sessions.claims.fail(last, "processor_error")
    assert not await services.sessions.claims.checkpoint(last, {"id": "after the end"})


async def test_checkpoint_is_encrypted_in_the_database(services: Services) -> None:
    """Nothing of it stands there in the clear, and no key is told."""
    session = await submit(services)
    claim = await begin(services, session)
    assert await services.sessions.claims.checkpoint(claim, FOUND_BY)
    sealed = await services.database.attempts.checkpoint(session.id)
    assert sealed is not None
    for text in ("upstream-of-the-photo", "mock", session.id, services.config.signing_keys()[0]):
        assert text not in sealed
    assert "upstream-of-the-photo" not in repr(claim.work)
    assert Sealer(services.config.signing_keys()).unseal(sealed) is not None


async def test_checkpoint_survives_rotation_of_the_secret(config: MakeConfig, database_url: str) -> None:
    """While the older key is listed; without it the job is run anew."""
    old, new = "old-" * 10, "new-" * 10
    async with open_services(config(secret_keys=(old,))) as services:
        session = await submit(services)
        claim = await begin(services, session)
        assert await services.sessions.claims.checkpoint(claim, FOUND_BY)
        await requeued(services, claim)
    for keys, found in (((new, old), True), ((new,), False)):
        async with open_services(config(secret_keys=keys)) as services:
            claim = await begin(services, session)
            assert (claim.work is not None) is found
            await requeued(services, claim, burnt=False)


async def test_large_checkpoint_is_refused(services: Services) -> None:
    """At most 16 KiB of JSON; the one before stays."""
    claim = await begin(services, await submit(services))
    assert await services.sessions.claims.checkpoint(claim, {"text": "x" * (16 * 1024 - 11)})
    with pytest.raises(ValueError, match="at most 16384 bytes"):
        await services.sessions.claims.checkpoint(claim, {"text": "x" * (16 * 1024 - 10)})
    assert claim.work is not None and len(claim.work.checkpoint["text"]) == 16 * 1024 - 11


async def test_usage_stands_in_the_event_that_ends_the_attempt(services: Services) -> None:
    """Of each attempt its own; the last amounts that were said."""
    claims = services.sessions.claims
    session = await submit(services)
    first = await begin(services, session)
    claims.note_usage(first, {"credits": 1})
    claims.note_usage(first, {"credits": 2, "gpu_seconds": 1.5})
    await requeued(services, first)
    second = await begin(services, session)
    claims.note_usage(second, {"cost_usd": 0.25})
    assert await claims.fail(second, "processor_error")
    told = [None, None, {"credits": 2, "gpu_seconds": 1.5}, None, {"cost_usd": 0.25}]
    assert await usage_in_trail(services, session) == told
    assert (await row(services, session)).status is Status.FAILED


async def test_usage_of_a_lost_worker_is_what_its_checkpoint_has(services: Services) -> None:
    """It counts once: in the event that ends the attempt that used it."""
    claims = services.sessions.claims
    session = await submit(services)
    first = await begin(services, session)
    claims.note_usage(first, {"credits": 2})
    assert await claims.checkpoint(first, FOUND_BY)
    claims.note_usage(first, {"credits": 3})
    for _ in range(2):  # the second attempt resumes the work, and uses nothing more
        async with services.database.connections.write() as connection:
            await connection.execute(sqlalchemy.text("UPDATE tryon_sessions SET lease_expires_at = created_at"))
        assert await services.sessions.requeueing.take_back([await row(services, session)]) == [True]
        await begin(services, session)
    assert await usage_in_trail(services, session) == [None, None, {"credits": 2}, None, None, None]


async def test_usage_of_timed_out_attempt_is_what_its_checkpoint_has(services: Services) -> None:
    """The reconciler ends it; what was told of an earlier attempt is not told again."""
    claims = services.sessions.claims
    running, waiting, bare = [await submit(services) for _ in range(3)]
    for session in (running, waiting):
        claim = await begin(services, session)
        claims.note_usage(claim, {"credits": 2})
        assert await claims.checkpoint(claim, FOUND_BY)
        if session is waiting:
            await requeued(services, claim)
    await begin(services, bare)
    async with services.database.connections.write() as connection:
        await connection.execute(sqlalchemy.text("UPDATE tryon_sessions SET deadline_at = created_at"))
    ids = [each.id for each in (running, waiting, bare)]
    assert await services.sessions.transitions.time_out(ids) == set(ids)
    assert await usage_in_trail(services, running) == [None, None, {"credits": 2}]
    assert await usage_in_trail(services, waiting) == [None, None, {"credits": 2}, None]
    assert await usage_in_trail(services, bare) == [None, None, None]


async def test_checkpoint_of_another_form_delays_no_deadline(services: Services) -> None:
    """One that another version has saved counts no usage."""
    session = await submit(services)
    await begin(services, session)
    sealed = Sealer(services.config.signing_keys()).seal(b'{"usage": 7}', nonce=bytes(12))
    assert await services.database.attempts.save_checkpoint(session.id, attempt=1, checkpoint=sealed)
    async with services.database.connections.write() as connection:
        await connection.execute(sqlalchemy.text("UPDATE tryon_sessions SET deadline_at = created_at"))
    assert await services.sessions.transitions.time_out([session.id]) == {session.id}


async def test_processor_of_an_attempt_stands_in_the_trail(services: Services) -> None:
    """With fall-over the attempt before has decided it."""
    session = await submit(services)
    for name in ("mock", "httpjob"):
        claim = await services.sessions.claims.begin(session.id, worker="w", processors=["mock", "httpjob"])
        assert claim is not None and claim.processor == name
        if name == "mock":
            assert await services.sessions.claims.requeue(claim, burnt=True, reason="down", processor="httpjob")
    found = await services.database.reader.with_events(session.id, 0)
    assert found is not None
    assert [event.data.get("processor") for event in found.events] == [None, "mock", None, "httpjob"]
