"""A run uploads once, and shows its session to the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from server.config.settings import Config
from testkit.fixtures import StartStack
from testkit.photos import small
from testkit.running import Web, running_web, until
from tryon.client.api import AsyncTryOn
from tryon.client.problems import NotCompleted, Problem
from tryon.client.sync import TryOn
from tryon.protocol.codes import ErrorCode

MakeConfig = Callable[..., Config]


@pytest.fixture
async def web(config: MakeConfig) -> AsyncIterator[Web]:
    async with running_web(config()) as running:
        yield running


@pytest.fixture
async def tryon(web: Web) -> AsyncIterator[AsyncTryOn]:
    async with AsyncTryOn(f"http://127.0.0.1:{web.port}", trust_env=False) as client:
        yield client


async def test_run_uploads_when_it_is_used(tryon: AsyncTryOn) -> None:
    """A run that is only made has sent nothing."""
    run = tryon.run(small())
    assert run.session is None
    assert repr(run) == "<Run not uploaded>"
    assert not (await tryon.list()).sessions


async def test_run_is_awaited_and_iterated_at_once(tryon: AsyncTryOn) -> None:
    """Both uses see one session; a later use sees its transitions again."""
    run = tryon.run(small(), garment=small(), params={"style": "ü"})
    waiting = asyncio.ensure_future(run.wait())
    async with aclosing(run.sessions()) as sessions:
        first = await anext(sessions)
        assert (first.status, first.params["style"], len(first.inputs)) == ("created", "ü", 2)
        await tryon.cancel(first)
        statuses = [session.status async for session in sessions]
    assert statuses[-1] == "cancelled"
    assert (await waiting).session_id == first.session_id
    assert (await run).status == "cancelled"
    assert run.session is not None
    assert run.session.terminal
    assert len((await tryon.list()).sessions) == 1
    with pytest.raises(NotCompleted) as ended:
        await run.result()
    assert ended.value.code == ErrorCode.CANCELLED


async def test_run_raises_what_the_upload_is_refused_with(tryon: AsyncTryOn) -> None:
    """However it is used, and again when it is used again."""
    run = tryon.run(b"no picture")
    for _ in range(2):
        with pytest.raises(Problem) as refused:
            await run
        assert refused.value.code == ErrorCode.UNSUPPORTED_IMAGE
    with pytest.raises(Problem):
        async for _ in run:
            pass


async def test_run_raises_when_its_session_is_deleted(tryon: AsyncTryOn) -> None:
    """The session goes while the run waits for its end."""
    run = tryon.run(small())
    waiting = asyncio.ensure_future(run.wait())
    await until(lambda: run.session)
    assert run.session
    await tryon.remove(run.session)
    with pytest.raises(Problem) as gone:
        await waiting
    assert gone.value.code in (ErrorCode.DELETED, ErrorCode.ERASED)


async def test_run_left_early_leaves_its_session(web: Web, tryon: AsyncTryOn) -> None:
    """A cancelled task closes the connection and cancels no session."""
    run = tryon.run(small())
    waiting = asyncio.ensure_future(run.wait())
    await until(lambda: run.session and web.hub.followers_of(run.session.session_id))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert run.session
    await until(lambda: not web.hub.followers_of(run.session.session_id))  # type: ignore[union-attr]  # it stays
    assert (await tryon.get(run.session)).status == "created"


async def test_run_without_await_shows_the_same(stack: StartStack) -> None:
    """Iterate, wait and take the picture, all of one session."""
    url = (await stack()).url

    def use() -> None:
        with TryOn(url, trust_env=False) as tryon:
            run = tryon.run(small())
            assert repr(run) == "<SyncRun not uploaded>"
            statuses = [session.status for session in run]
            assert (statuses[0], statuses[-1]) == ("created", "completed")
            assert run.wait() == run.session
            assert run.result()[:2] == b"\xff\xd8"
            assert repr(run) == f"<SyncRun {run.wait().session_id} completed>"
            assert len(tryon.list().sessions) == 1

    await asyncio.to_thread(use)
