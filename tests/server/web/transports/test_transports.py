"""All transports show the same event log: no gap, no repeat, from any point on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import pytest

from server.domain.session import Session
from testkit.following import GONE, NOT_FOUND, TRANSPORTS, Step, end, follow
from testkit.running import StartWeb, Web, until


class Play:
    """A session, and the worker and the client that move it.

    Each act is one transition, or none.
    """

    def __init__(self, web: Web, session: Session, token: str) -> None:
        self.web = web
        self.id = session.id
        self.session = session
        self.token = token
        self.sessions = web.services.sessions

    async def begin(self) -> None:
        self.claim = await self.web.begin(self.session)

    async def report(self) -> None:
        await self.sessions.claims.report(self.claim, 0.5, "rendering")

    async def complete(self) -> None:
        await self.web.complete(self.claim)

    async def fail(self) -> None:
        assert await self.sessions.claims.fail(self.claim, "mock_failure")

    async def requeue(self) -> None:
        assert await self.sessions.claims.requeue(self.claim, burnt=True, reason="lease_lost")

    async def cancel(self) -> None:
        await self.sessions.cancelling.cancel(self.id, self.session.owner)

    async def hand_back(self) -> None:
        assert await self.sessions.claims.renew(self.claim) == "cancelled"
        assert await self.sessions.claims.requeue(self.claim, burnt=False, reason="cancelled")

    async def delete(self) -> None:
        await self.sessions.erasure.delete(self.id, self.session.owner)

    def follow(self, transport: str, since: int = 0) -> Reader:
        return Reader(self.web, transport, self.id, self.token, since)


Act = Callable[[Play], Awaitable[None]]


@dataclass(frozen=True)
class Story:
    """Acts, each with the steps that follow from it.

    The first step is there before all acts.
    """

    acts: tuple[tuple[Act, tuple[Step, ...]], ...]

    @property
    def steps(self) -> list[Step]:
        return [CREATED, *(step for _, steps in self.acts for step in steps)]


CREATED: Final = Step(1, "created", "created")
BEGUN: Final = Step(2, "processing", "processing")

STORIES: Final = {
    "completed": Story(
        (
            (Play.begin, (BEGUN,)),
            (Play.report, ()),
            (Play.complete, (Step(3, "completed", "completed"), end("completed"))),
        )
    ),
    "failed": Story(((Play.begin, (BEGUN,)), (Play.fail, (Step(3, "failed", "failed"), end("failed"))))),
    "cancelled while queued": Story(((Play.cancel, (Step(2, "cancelled", "cancelled"), end("cancelled"))),)),
    "cancelled while running": Story(
        (
            (Play.begin, (BEGUN,)),
            (Play.cancel, ()),
            (Play.hand_back, (Step(3, "cancelled", "cancelled"), end("cancelled"))),
        )
    ),
    "deleted while queued": Story(((Play.delete, (GONE,)),)),
    "deleted while running": Story(((Play.begin, (BEGUN,)), (Play.delete, (GONE,)))),
    "requeued": Story(
        (
            (Play.begin, (BEGUN,)),
            (Play.requeue, (Step(3, "requeued", "created"),)),
            (Play.begin, (Step(4, "processing", "processing"),)),
            (Play.complete, (Step(5, "completed", "completed"), end("completed"))),
        )
    ),
    "lost three times": Story(
        (
            (Play.begin, (BEGUN,)),
            (Play.requeue, (Step(3, "requeued", "created"),)),
            (Play.begin, (Step(4, "processing", "processing"),)),
            (Play.requeue, (Step(5, "requeued", "created"),)),
            (Play.begin, (Step(6, "processing", "processing"),)),
            (Play.requeue, (Step(7, "failed", "failed"), end("failed"))),
        )
    ),
}
WITH_AN_END: Final = {name: story for name, story in STORIES.items() if GONE not in story.steps}


class Reader:
    """A client that reads as fast as it can, until the end or until it is cut."""

    def __init__(self, web: Web, transport: str, session_id: str, token: str, since: int) -> None:
        self.transport = transport
        self.steps: list[Step] = []
        self._follow = follow(transport, f"http://127.0.0.1:{web.port}", session_id, token, since)
        self._task = asyncio.create_task(self._read(), name=f"reader {transport}")

    async def _read(self) -> None:
        async with contextlib.aclosing(self._follow) as steps:
            async for step in steps:
                self.steps.append(step)

    async def has(self, count: int) -> None:
        """Wait for this many steps, or for the end of the stream."""
        await until(lambda: len(self.steps) >= count or self._task.done())
        if self._task.done():
            self._task.result()

    async def rest(self) -> list[Step]:
        """Read to the end; return all steps."""
        async with asyncio.timeout(15):
            await self._task
        return self.steps

    async def cut(self) -> int:
        """Drop the connection without a close; return the cursor."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        return max((step.seq for step in self.steps), default=0)


@pytest.fixture
async def play(web: Web) -> Play:
    return Play(web, *await web.submit())


@pytest.mark.parametrize("name", STORIES)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_transport_delivers_every_step(play: Play, transport: str, name: str) -> None:
    """Each step arrives before the next act."""
    reader = play.follow(transport)
    told = 1
    await reader.has(told)
    for act, steps in STORIES[name].acts:
        await act(play)
        told += len(steps)
        await reader.has(told)
    assert await reader.rest() == STORIES[name].steps


@pytest.mark.parametrize("name", STORIES)
async def test_transports_agree_at_full_speed(play: Play, name: str) -> None:
    """Two readers of each transport follow without waiting for each other."""
    readers = [play.follow(transport) for transport in (*TRANSPORTS, *TRANSPORTS)]
    for reader in readers:
        await reader.has(1)
    for act, _ in STORIES[name].acts:
        await act(play)
    expected = STORIES[name].steps
    for reader in readers:
        steps = await reader.rest()
        if expected[-1] == GONE:  # who only polls may find nothing any more where others were told what came before
            assert steps == [*expected[: len(steps) - 1], GONE], reader.transport
        else:
            assert steps == expected, reader.transport


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_joining_at_any_moment_misses_nothing(play: Play, transport: str) -> None:
    """Clients join before, during and after each act."""
    story = STORIES["requeued"]
    readers = [play.follow(transport)]
    for act, _ in story.acts:
        readers.append(play.follow(transport))  # joins while the act is under way
        await act(play)
    readers.append(play.follow(transport))
    for reader in readers:
        assert await reader.rest() == story.steps


@pytest.mark.parametrize("name", WITH_AN_END)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_joining_after_the_end_gets_everything(play: Play, transport: str, name: str) -> None:
    """The whole history is in the first answer."""
    for act, _ in STORIES[name].acts:
        await act(play)
    assert await play.follow(transport).rest() == STORIES[name].steps


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_client_resumes_from_any_seq(play: Play, transport: str) -> None:
    """The client gets exactly the steps after its cursor."""
    story = STORIES["lost three times"]
    for act, _ in story.acts:
        await act(play)
    for since in range(8):
        assert await play.follow(transport, since).rest() == story.steps[since:]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_client_cut_after_every_step_is_whole(play: Play, transport: str) -> None:
    """It reconnects with its cursor each time."""
    story = STORIES["lost three times"]
    seen: list[Step] = []
    cursor = 0
    for act, steps in story.acts:
        reader = play.follow(transport, cursor)
        await act(play)
        await reader.has(1)
        cursor = await reader.cut()
        seen += reader.steps
        assert seen[-1].seq == cursor or steps[-1].seq == 0
    seen += await play.follow(transport, cursor).rest() if end("failed") not in seen else []
    assert seen == story.steps


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_disconnected_client_catches_up(play: Play, transport: str) -> None:
    """Everything that happened meanwhile is delivered after the reconnect."""
    reader = play.follow(transport)
    await reader.has(1)
    cursor = await reader.cut()
    for act, _ in STORIES["requeued"].acts:
        await act(play)
    assert await play.follow(transport, cursor).rest() == STORIES["requeued"].steps[1:]


async def test_client_resumes_over_another_transport(play: Play) -> None:
    """The cursor is the same for all transports."""
    story = STORIES["lost three times"]
    seen: list[Step] = []
    for n, (act, _) in enumerate(story.acts):
        reader = play.follow(TRANSPORTS[n % len(TRANSPORTS)], len(seen))
        await reader.has(1)
        seen += reader.steps[:1]
        await reader.cut()
        await act(play)
    seen += await play.follow("ws", len(seen)).rest()
    assert seen == story.steps


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_cursor_beyond_the_end_still_gets_it(play: Play, transport: str) -> None:
    """A cursor that is too large does not hide the terminal event."""
    await play.begin()
    reader = play.follow(transport, 2**40)
    if transport in ("ws", "sse"):
        await until(lambda: play.web.hub.followers_of(play.id))
    await play.complete()
    assert (await reader.rest())[-1] == end("completed")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_deleted_session_is_not_found(play: Play, transport: str) -> None:
    """After the deletion every transport answers not found."""
    await play.delete()
    assert await play.follow(transport).rest() == [NOT_FOUND]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_foreign_session_is_not_found(play: Play, transport: str) -> None:
    """A stranger's token gets the same answer as an unknown id."""
    _, other = await play.web.submit()
    reader = Reader(play.web, transport, play.id, other, 0)
    assert await reader.rest() == [NOT_FOUND]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_second_process_delivers_the_same(play: Play, start_web: StartWeb, transport: str) -> None:
    """The acts happen in one process, the client follows in another."""
    reader = Reader(await start_web(), transport, play.id, play.token, 0)
    await reader.has(1)
    for act, _ in STORIES["requeued"].acts:
        await act(play)
    assert await reader.rest() == STORIES["requeued"].steps


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_follower_is_removed_after_the_end(play: Play, transport: str) -> None:
    """The hub forgets a client whose session has ended."""
    reader = play.follow(transport)
    await reader.has(1)
    for act, _ in STORIES["completed"].acts:
        await act(play)
    await reader.rest()
    await until(lambda: play.web.hub.followers == 0)


@pytest.mark.parametrize("transport", ["ws", "sse", "long-poll"])
async def test_follower_is_removed_when_cut(play: Play, transport: str) -> None:
    """The hub forgets a client whose connection is lost."""
    reader = play.follow(transport, 0)
    await reader.has(1)
    await until(lambda: play.web.hub.followers_of(play.id) == 1)
    await reader.cut()
    await until(lambda: play.web.hub.followers == 0)
