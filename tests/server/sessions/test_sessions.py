"""The use cases, over real adapters: one commit, then one publish; and who loses
changes and tells nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from server.adapters.redis.subscriber import RedisSubscriber
from server.config.settings import Config
from server.domain.bus_message import GONE, PROGRESS, parse_prefix
from server.domain.session import Session
from server.domain.tokens import new_token, token_hash
from server.services import Services, open_services
from server.sessions.claims import Claim
from server.sessions.reads import Credential
from server.system.randomness import SystemRandomness
from testkit.fixtures import StartValkey
from testkit.running import PHOTO, until
from testkit.values import new_session_id
from tryon.protocol.errors import NotFound, Unauthorized, Unavailable
from tryon.protocol.states import GoneReason, Status

MakeConfig = Callable[..., Config]
TOKEN = new_token()
MINE = Credential.of_token(TOKEN)


@pytest.fixture
async def services(config: MakeConfig, database_url: str) -> AsyncIterator[Services]:
    async with open_services(config()) as services:
        yield services


async def submit(services: Services, **more: Any) -> Session:
    settings: dict[str, Any] = {"owner": token_hash(TOKEN), "image": PHOTO, "garment": None, "params": {}}
    return await services.sessions.submissions.submit(**settings | {"request_id": "the-upload"} | more)


async def begin(services: Services, session: Session, worker: str = "w1") -> Claim:
    claim = await services.sessions.claims.begin(session.id, worker=worker)
    assert claim is not None
    return claim


async def status(services: Services, session: Session) -> tuple[Status, int]:
    row = await services.database.reading.get(session.id)
    assert row is not None
    return row.status, row.seq


def files(services: Services) -> list[str]:
    root = services.config.uploads_dir
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


class News:
    """What was published about one session."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    @property
    def seqs(self) -> list[int]:
        kinds = [parse_prefix(message) for message in self.messages]
        return [seq for kind, seq in kinds if kind not in (PROGRESS, GONE)]

    @property
    def progress(self) -> list[float]:
        return [json.loads(m[18:])["progress"] for m in self.messages if parse_prefix(m)[0] == PROGRESS]


@contextlib.asynccontextmanager
async def news_of(services: Services, session_id: str) -> AsyncIterator[News]:
    news = News()
    subscriber = RedisSubscriber(
        services.config.redis,
        on_message=lambda _, message: news.messages.append(message),
        on_restored=lambda: None,
        randomness=SystemRandomness(),
    )
    async with subscriber:
        await subscriber.subscribe(services.bus.channel(session_id).encode())
        yield news


# -- from the upload to the end --------------------------------------------------------


async def test_a_submitted_session_has_its_row_its_file_and_its_job(services: Services) -> None:
    session = await submit(services, garment=PHOTO, params={"style": "wide"})
    assert files(services) == [f"inputs/{session.id}-garment.jpg", f"inputs/{session.id}-image.jpg"]
    assert await services.queue.contains(session.id, 0, 1)
    (created,) = (await services.sessions.reads.history(session.id, MINE)).events
    assert (created.seq, created.event, created.from_) == (1, "created", None)
    assert created.data["input"].startswith(f"/api/tryon/files/inputs/{session.id}-image.jpg?")


async def test_each_transition_is_published_once_after_its_commit(services: Services) -> None:
    session = await submit(services)
    async with news_of(services, session.id) as news:
        claim = await begin(services, session)
        assert await services.sessions.claims.complete(claim, b"result", "jpg")
        await until(lambda: len(news.seqs) == 2)
        assert news.seqs == [2, 3]
    assert await status(services, session) == (Status.COMPLETED, 3)
    assert f"outputs/{session.id}-1.jpg" in files(services)


async def test_a_submit_that_fails_leaves_no_file(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(new: Any) -> Any:
        raise Unavailable

    monkeypatch.setattr(services.database.writing, "insert", away)
    with pytest.raises(Unavailable):
        await submit(services, garment=PHOTO)
    assert files(services) == []


async def test_a_submit_whose_client_leaves_leaves_file_and_row_or_neither(
    config: MakeConfig, database_url: str, tmp_path: Path
) -> None:
    """Cancelled at every point of its way there.

    Without Redis: a cancelled connect would leak a stream of redis-py's.
    """
    async with open_services(config(redis_url=f"unix://{tmp_path}/none")) as services:
        for turns in range(0, 60, 3):
            task = asyncio.create_task(submit(services))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            ids = {key.partition("/")[2][:36] for key in files(services)}
            assert await services.database.reading.ids_among(ids) == ids


# -- two who want the same -------------------------------------------------------------


async def test_of_two_workers_one_begins_and_only_that_is_told(services: Services) -> None:
    session = await submit(services)
    async with news_of(services, session.id) as news:
        claims = await asyncio.gather(*(services.sessions.claims.begin(session.id, worker=f"w{n}") for n in range(5)))
        assert sum(claim is not None for claim in claims) == 1
        await services.bus.publish(session.id, b"p0000000099000001 " + b'{"progress":1}')
        await until(lambda: news.progress)
        assert news.seqs == [2]


async def test_who_completes_second_changes_and_tells_nothing_and_its_file_is_gone(services: Services) -> None:
    session = await submit(services)
    lost = await begin(services, session)
    assert await services.sessions.claims.requeue(lost, burnt=True, reason="lease_lost")
    held = await begin(services, session, "w2")
    async with news_of(services, session.id) as news:
        assert not await services.sessions.claims.complete(lost, b"late", "jpg")
        assert not await services.sessions.claims.fail(lost, "mock_failure")
        assert not await services.sessions.claims.requeue(lost, burnt=True, reason="late")
        assert await services.sessions.claims.renew(lost) == "lost"
        assert await services.sessions.claims.renew(held) == "held"
        assert f"outputs/{session.id}-1.jpg" not in files(services)
        assert await services.sessions.claims.complete(held, b"result", "jpg")
        await until(lambda: news.seqs)
        assert news.seqs == [5]
    assert f"outputs/{session.id}-2.jpg" in files(services)


async def test_completing_twice_keeps_the_first_result(services: Services) -> None:
    session = await submit(services)
    claim = await begin(services, session)
    assert await services.sessions.claims.complete(claim, b"first", "jpg")
    assert not await services.sessions.claims.complete(claim, b"again", "png")
    assert f"outputs/{session.id}-1.png" not in files(services)
    assert await status(services, session) == (Status.COMPLETED, 3)


async def test_completing_and_failing_at_once_ends_in_one_way(services: Services) -> None:
    for _ in range(10):
        session = await submit(services)
        claim = await begin(services, session)
        done, failed = await asyncio.gather(
            services.sessions.claims.complete(claim, b"result", "jpg"),
            services.sessions.claims.fail(claim, "mock_failure"),
        )
        assert done + failed == 1
        assert (f"outputs/{session.id}-1.jpg" in files(services)) is done
        assert (await status(services, session))[1] == 3


# -- attempts --------------------------------------------------------------------------


async def test_after_so_many_burnt_attempts_a_session_fails(services: Services) -> None:
    session = await submit(services)
    for _ in range(2):
        assert await services.sessions.claims.requeue(await begin(services, session), burnt=True, reason="crashed")
    assert await services.sessions.claims.requeue(await begin(services, session), burnt=True, reason="crashed")
    row = await services.database.reading.get(session.id)
    assert row is not None
    assert (row.status, row.error_code, row.attempt, row.burnt) == (Status.FAILED, "worker_lost", 3, 3)
    assert row.error_retryable


async def test_handing_back_burns_no_attempt(services: Services) -> None:
    session = await submit(services)
    for n in range(5):
        assert await services.sessions.claims.requeue(await begin(services, session), burnt=False, reason="drained")
        row = await services.database.reading.get(session.id)
        assert row is not None
        assert (row.status, row.attempt, row.burnt) == (Status.CREATED, n + 1, 0)
        assert await services.queue.contains(session.id, row.attempt, row.enqueues)


async def test_a_failure_without_words_has_those_of_its_code(services: Services) -> None:
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


async def test_nothing_begins_that_is_unknown_ended_or_past_its_deadline(config: MakeConfig, database_url: str) -> None:
    async with open_services(config(deadline_seconds=0.1)) as services:
        assert await services.sessions.claims.begin(new_session_id(), worker="w") is None
        session = await submit(services)
        await until(lambda: services.database.clock.now() > session.deadline_at.timestamp())
        assert await services.sessions.claims.begin(session.id, worker="w") is None
        late = await submit(services)
        claim = await begin(services, late)
        await until(lambda: services.database.clock.now() > late.deadline_at.timestamp())
        assert not await services.sessions.claims.complete(claim, b"late", "jpg")
        assert not any(key.startswith("outputs/") for key in files(services))


# -- progress --------------------------------------------------------------------------


async def test_progress_is_coalesced_and_its_last_word_kept(services: Services) -> None:
    session = await submit(services)
    claim = await begin(services, session)
    async with news_of(services, session.id) as news:
        begun = asyncio.get_running_loop().time()
        for n in range(1, 101):
            await services.sessions.claims.report(claim, n / 100, "rendering", 1.0)
            await asyncio.sleep(0.005)
        await until(lambda: news.progress[-1:] == [1.0])
        seconds = asyncio.get_running_loop().time() - begun
        assert len(news.progress) <= 5 * seconds + 2
        assert news.progress == sorted(news.progress)
    shown = (await services.sessions.reads.read(session.id, MINE)).view
    assert (shown.progress, shown.stage) == (1.0, "rendering")


@pytest.mark.parametrize(("given", "told"), [(-1.0, 0.0), (7.0, 1.0), (None, None), (0.123456, 0.1235)])
async def test_progress_is_from_nothing_to_one(services: Services, given: float | None, told: float | None) -> None:
    session = await submit(services)
    claim = await begin(services, session)
    async with news_of(services, session.id) as news:
        await services.sessions.claims.report(claim, given, "stage")
        await until(lambda: news.progress)
        assert news.progress == [told]


async def test_no_progress_is_told_after_the_end(services: Services) -> None:
    session = await submit(services)
    claim = await begin(services, session)
    async with news_of(services, session.id) as news:
        for n in range(10):
            await services.sessions.claims.report(claim, n / 10, "rendering")
        await services.sessions.claims.complete(claim, b"result", "jpg")
        await until(lambda: news.seqs == [3])
        count = len(news.messages)
        await asyncio.sleep(0.25)  # longer than a word may wait
        await services.sessions.claims.report(claim, 1.0, "late")
        assert claim.reports.timer is None
        assert len(news.messages) == count


async def test_nobody_waits_for_redis_when_it_is_away(config: MakeConfig, start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with open_services(config(redis_url=valkey.url)) as services:
        valkey.kill()
        session = await submit(services)
        claim = await begin(services, session)
        async with asyncio.timeout(0.5):
            for n in range(100):
                await services.sessions.claims.report(claim, n / 100, "rendering")
        assert await services.sessions.claims.complete(claim, b"result", "jpg")
        assert await status(services, session) == (Status.COMPLETED, 3)


# -- who may look ----------------------------------------------------------------------


async def test_a_look_belongs_to_the_owner_or_the_holder_of_a_ticket(services: Services) -> None:
    session = await submit(services)
    now = int(services.database.clock.now())
    assert (await services.sessions.reads.read(session.id, MINE)).session.id == session.id
    ticket = services.signer.ticket(session.id, expires=now + 60)
    assert (await services.sessions.reads.read(session.id, Credential(ticket=ticket))).access.until == now + 60
    for stranger in (Credential(), Credential.of_token(new_token())):
        with pytest.raises(NotFound):
            await services.sessions.reads.read(session.id, stranger)
    for bad in ("", "x", services.signer.ticket(session.id, expires=now - 1)):
        with pytest.raises(Unauthorized):
            await services.sessions.reads.read(session.id, Credential(ticket=bad))
    for id in (new_session_id(), "garbage", "", "../x", session.id.upper() + " "):
        with pytest.raises(NotFound):
            await services.sessions.reads.read(id, MINE)


async def test_a_strangers_look_asks_redis_nothing(services: Services) -> None:
    """Whether the id is unknown or foreign cannot be told from the time either."""
    session = await submit(services)
    await begin(services, session)
    await services.sessions.reads.read(session.id, MINE)
    before = await services.redis.info("commandstats")
    for _ in range(5):
        with pytest.raises(NotFound):
            await services.sessions.reads.read(session.id, Credential.of_token(new_token()))
    after = await services.redis.info("commandstats")
    assert after["cmdstat_hget"]["calls"] == before["cmdstat_hget"]["calls"]


# -- erasing ---------------------------------------------------------------------------


async def test_erasing_leaves_no_file_no_row_and_no_key(services: Services) -> None:
    session = await submit(services, garment=PHOTO)
    claim = await begin(services, session)
    await services.sessions.claims.report(claim, 0.5, "rendering")
    await until(lambda: claim.reports.timer is None)
    await services.sessions.claims.complete(claim, b"result", "jpg")
    row = await services.database.reading.get(session.id)
    assert row is not None
    await services.sessions.erasure.erase(row, GoneReason.DELETED)
    assert files(services) == []
    assert await services.database.reading.ids_among([session.id]) == set()
    keys = [key.decode() for key in await services.redis.keys("*")]
    assert not any(session.id in key for key in keys)
    with pytest.raises(NotFound):
        await services.sessions.reads.read(session.id, MINE)


async def test_the_result_of_an_attempt_that_died_is_erased_too(services: Services) -> None:
    """Its worker was killed after it had stored the file and before it could say so: no
    row names it.
    """
    session = await submit(services)
    claim = await begin(services, session)
    await services.files.put(f"outputs/{session.id}-1.jpg", b"nobody knows of me")
    assert await services.sessions.claims.requeue(claim, burnt=True, reason="lease_lost")
    await services.sessions.claims.complete(await begin(services, session), b"result", "png")
    row = await services.database.reading.get(session.id)
    assert row is not None
    await services.sessions.erasure.erase(row, GoneReason.DELETED)
    assert files(services) == []


async def test_a_worker_that_completes_what_was_erased_leaves_nothing(services: Services) -> None:
    session = await submit(services)
    claim = await begin(services, session)
    row = await services.database.reading.get(session.id)
    assert row is not None
    await services.sessions.erasure.erase(row, GoneReason.DELETED)
    assert not await services.sessions.claims.complete(claim, b"late", "jpg")
    assert await services.sessions.claims.renew(claim) == "lost"
    assert files(services) == []


async def test_erasing_while_the_worker_completes_leaves_nothing(services: Services) -> None:
    for _ in range(15):
        session = await submit(services)
        claim = await begin(services, session)
        row = await services.database.reading.get(session.id)
        assert row is not None
        completing, _ = await asyncio.gather(
            services.sessions.claims.complete(claim, b"result", "jpg"),
            services.sessions.erasure.erase(row, GoneReason.DELETED),
            return_exceptions=True,
        )
        if isinstance(completing, Unavailable):  # its half-written file was taken away; a worker tries again
            assert not await services.sessions.claims.complete(claim, b"result", "jpg")
        assert files(services) == []
        assert await services.database.reading.ids_among([session.id]) == set()


async def test_a_silent_redis_costs_an_upload_a_moment(config: MakeConfig, start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with open_services(config(redis_url=valkey.url)) as services:
        await submit(services)
        valkey.pause()
        try:
            async with asyncio.timeout(1.5):
                session = await submit(services)
                await services.sessions.reads.view_of(session)
                await services.sessions.claims.complete(await begin(services, session), b"result", "jpg")
        finally:
            valkey.resume()
        assert await status(services, session) == (Status.COMPLETED, 3)
