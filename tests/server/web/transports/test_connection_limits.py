"""Limits of open connections by process, address and session."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections.abc import Callable, Iterator

import pytest
from websockets.exceptions import InvalidStatus

from server.config.settings import Config
from server.web.transports.connection_limits import ConnectionLimits
from testkit.running import StartWeb, until
from tests.server.web.transports.kit import WRONG, refused

BOTH_PATHS = True


@pytest.fixture
def soft_limit() -> Iterator[Callable[[int], None]]:
    """Set how many files this process may have open, until the end of the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def set_limit(files: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))

    yield set_limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def opened(config: Config) -> int:
    """Return how many connections are counted until the limits are full."""
    room, taken = ConnectionLimits(config), 0
    while not room.full:
        room.take(f"address {taken}")
        taken += 1
    return taken


def test_process_opens_up_to_its_limit(config: Callable[..., Config]) -> None:
    """TRYON_SOCKETS_PER_PROCESS is the limit when there are enough files."""
    assert opened(config(sockets_per_process=7)) == 7


def test_streams_leave_512_files_free(config: Callable[..., Config], soft_limit: Callable[[int], None]) -> None:
    """The limit of open files lowers the limit of connections."""
    soft_limit(600)
    assert opened(config(sockets_per_process=20_000)) == 600 - 512
    assert opened(config(sockets_per_process=50)) == 50


async def test_address_is_limited(start_web: StartWeb) -> None:
    """The third socket of an address gets 4029; afterwards there is room again."""
    web = await start_web(sockets_per_address=2)
    session, token = await web.submit()
    async with web.follow(session.id, token) as one, web.follow(session.id, token) as two:
        await one.next("snapshot")
        await two.next("snapshot")
        client = await refused(web, session.id, token)
        assert client.connection.close_code == 4029
        assert client.frames[1]["retry_after_ms"] > 0
    await until(lambda: web.hub.followers == 0)
    async with web.follow(session.id, token) as again:
        assert (await again.next())["type"] == "snapshot"


async def test_session_is_limited(start_web: StartWeb) -> None:
    """The third socket of a session gets 4029; other sessions are not affected."""
    web = await start_web(sockets_per_session=2)
    session, token = await web.submit()
    other, others_token = await web.submit()
    async with web.follow(session.id, token) as one, web.follow(session.id, token) as two:
        await one.next("snapshot")
        await two.next("snapshot")
        client = await refused(web, session.id, token)
        assert client.connection.close_code == 4029
        async with web.follow(other.id, others_token) as unconcerned:
            assert (await unconcerned.next())["type"] == "snapshot"


async def test_session_limit_holds_under_concurrency(start_web: StartWeb) -> None:
    """Of twelve sockets that open at once three are admitted."""
    web = await start_web(sockets_per_session=3)
    session, token = await web.submit()
    async with contextlib.AsyncExitStack() as stack:
        clients = await asyncio.gather(*(stack.enter_async_context(web.follow(session.id, token)) for _ in range(12)))
        first = [(await client.next())["type"] for client in clients]
        assert first.count("snapshot") == 3
        assert first.count("error") == 9


async def test_full_session_is_not_found_for_strangers(start_web: StartWeb) -> None:
    """A stranger gets 4504, so it does not learn that the session exists."""
    web = await start_web(sockets_per_session=1)
    session, token = await web.submit()
    async with web.follow(session.id, token) as owner:
        await owner.next("snapshot")
        client = await refused(web, session.id, WRONG)
        assert client.connection.close_code == 4504


async def test_full_process_refuses_before_the_handshake(start_web: StartWeb) -> None:
    """The refusal is a 503 with Retry-After."""
    web = await start_web(sockets_per_process=1)
    session, token = await web.submit()
    async with web.follow(session.id, token) as client:
        await client.next("snapshot")
        with pytest.raises(InvalidStatus) as refusal:
            async with web.follow(session.id, token):
                pass
        answer = refusal.value.response
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert json.loads(answer.body or b"")["code"] == "unavailable"
