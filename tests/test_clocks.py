"""Wrong clocks: machines two days apart, and a machine whose clock is set.

Real web and worker processes, each with a clock of its own (libfaketime).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from websockets.asyncio.client import connect

from server.config.settings import Config
from server.domain.tokens import new_token
from server.services import open_services
from testkit import clocks
from testkit.plugin import missing
from testkit.running import Client, new_session, until
from testkit.stack import Stack
from testkit.values import new_session_id

MakeConfig = Callable[..., Config]

SESSIONS: Final = "/api/tryon/sessions"
HOURS: Final = 25


@pytest.fixture(scope="module")
def own_clock() -> dict[str, str]:
    """Return the environment of a process with a clock of its own.

    ``FAKETIME`` or a file says what that clock shows.
    """
    try:
        return clocks.own_clock()
    except ImportError:
        missing("libfaketime (Debian: apt-get install libfaketime)")


@contextlib.asynccontextmanager
async def machine(config: Config, command: str, clock: dict[str, str]) -> AsyncIterator[Stack]:
    """Run one process of an installation, with its own clock."""
    settings = {
        "TRYON_PORT": "0",
        "TRYON_DATA_DIR": str(config.data_dir),
        "TRYON_DATABASE_URL": config.database,
        "TRYON_REDIS_URL": config.redis,
        "TRYON_SECRET_KEY": ",".join(config.secret_keys),
        "TRYON_MOCK_SECONDS": str(config.mock_seconds),
        "TRYON_MOCK_FAILURE_RATE": "0",
        "TRYON_LEASE_SECONDS": str(config.lease_seconds),
        "TRYON_DEADLINE_SECONDS": str(config.deadline_seconds),
        "TRYON_RETENTION_SECONDS": str(config.retention_seconds),
        "TRYON_CLEANUP_SECONDS": str(config.cleanup_seconds),
        "TRYON_UPLOAD_RATE": "off",
        "TRYON_LOG_FORMAT": "text",
    }
    stack = await Stack.open(config.data_dir.parent, command, env=settings | clock)
    try:
        yield stack
    finally:
        await stack.close()
        print(f"--- output of {command}\n{stack.output}")


async def client_of(web: Stack, stack: contextlib.AsyncExitStack) -> httpx.AsyncClient:
    """Return a client of a web process, closed with ``stack``."""
    url = (await web.line(r"Listening on (http://\S+)"))[1]
    return await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False, timeout=15))


async def upload(client: httpx.AsyncClient, photos: Path) -> dict[str, Any]:
    """Upload a photo and return its session."""
    photo = {"image": (photos / "photo.webp").read_bytes()}
    answer = await client.post(SESSIONS, files=photo, headers={"X-Client-Token": new_token()})
    assert answer.status_code == 201, answer.text
    session: dict[str, Any] = answer.json()
    return session


def follow(client: httpx.AsyncClient, session: dict[str, Any]) -> connect:
    """Follow a session by WebSocket, in a context."""
    return connect(f"ws://{client.base_url.netloc.decode()}{session['links']['ws']}", proxy=None, ping_interval=None)


def by_ticket(session: dict[str, Any]) -> str:
    """Return the path at which the session's ticket reads it."""
    return str(session["links"]["ws"]).replace("/ws?", "?")


@pytest.mark.slow
@pytest.mark.parametrize("ahead", ["web", "worker"])
async def test_machines_two_days_apart_agree(
    config: MakeConfig, postgres_url: str, photos: Path, own_clock: dict[str, str], ahead: str
) -> None:
    """Delete nothing early and refuse no valid link, whichever machine is ahead."""
    settings = config(database_url=postgres_url, mock_seconds=2.0, cleanup_seconds=1.0)
    web_clock, worker_clock = [
        own_clock | {"FAKETIME": f"{'+' if each == ahead else '-'}{HOURS}h"} for each in ("web", "worker")
    ]
    async with contextlib.AsyncExitStack() as stack:
        web = await stack.enter_async_context(machine(settings, "serve", web_clock))
        here = await client_of(web, stack)
        await stack.enter_async_context(machine(settings, "worker", worker_clock))
        session = await upload(here, photos)
        created_at = datetime.fromisoformat(session["created_at"]).timestamp()
        assert abs(created_at - time.time()) < 60, "the database's time"
        async with follow(here, session) as connection:
            follower = Client(connection)
            assert await follower.rest(30) == 1000
        assert follower.story()[-1] == 3
        done = (await here.get(by_ticket(session))).json()
        assert (done["status"], done["attempt"]) == ("completed", 1)

        # The cleanup takes its turn.
        services = await stack.enter_async_context(open_services(settings))
        expired = await services.database.writer.insert(new_session(retention_seconds=-1))
        orphan = services.config.uploads_dir / f"inputs/{new_session_id()}-image.jpg"
        orphan.write_bytes(b"without a row")
        os.utime(orphan, (0, 0))
        await until(lambda: not orphan.exists())
        async with asyncio.timeout(10):
            while await services.database.reader.ids_among([expired.id]):
                await asyncio.sleep(0.02)

        # A machine that starts later, on the other side of the database's clock,
        # accepts the links that this one has signed.
        late = await stack.enter_async_context(machine(settings, "serve", worker_clock))
        for client in (here, await client_of(late, stack)):
            for link in (by_ticket(session), done["links"]["input"], done["links"]["output"]):
                assert (await client.get(link)).status_code == 200, link
        left = sorted(path.name for path in settings.uploads_dir.rglob("*") if path.is_file())
        assert [name[:36] for name in left] == [session["session_id"]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["+", "-"])
async def test_set_clock_takes_no_session_from_its_worker(
    config: MakeConfig, sqlite_url: str, photos: Path, own_clock: dict[str, str], tmp_path: Path, sign: str
) -> None:
    """Complete a session in its first attempt while the clock jumps by a day."""
    set_to = tmp_path / "clock"
    set_to.write_text("+0\n")
    clock = own_clock | {"FAKETIME_TIMESTAMP_FILE": str(set_to)}
    days = 10 * 86400.0  # a jump of the calendar by a day ends no session that has so many left
    settings = config(mock_seconds=5.0, lease_seconds=9.0, deadline_seconds=days, retention_seconds=days)
    async with contextlib.AsyncExitStack() as stack:
        web = await stack.enter_async_context(machine(settings, "serve", clock))
        here = await client_of(web, stack)
        worker = await stack.enter_async_context(machine(settings, "worker", clock))
        session = await upload(here, photos)
        async with follow(here, session) as connection:
            follower = Client(connection)
            await worker.line(f"Processing session {session['session_id']}")
            written = set_to.with_suffix(".new")
            written.write_text(f"{sign}{HOURS}h\n")
            written.replace(set_to)
            assert await follower.rest(40) == 1000
        ends = [(frame["event"], frame["seq"]) for frame in follower.frames if frame["type"] == "event"]
        assert ends[-1] == ("completed", 3), "no attempt was burnt"
        again = await upload(here, photos)
        async with follow(here, again) as connection:
            assert await Client(connection).rest(30) == 1000
