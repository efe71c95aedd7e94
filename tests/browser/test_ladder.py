"""static/tryon.js in a real Chromium: down the ladder and up again, every event once.

The test plays the worker, so that a story goes on exactly when the network is as bad as
the test wants it. Between the browser and the server stands a gate
(:mod:`tests.browser.gate`).
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.async_api import BrowserContext, Route, WebSocketRoute

from server.config.settings import Config
from server.domain.tokens import new_token, token_hash
from server.services import open_services
from server.web.transports.connection_limits import ConnectionLimits
from testkit.running import PHOTO, Web
from testkit.stack import Stack
from tests.browser.gate import open_gate
from tryon.protocol.errors import RateLimited
from tryon.protocol.frames import ByeFrame

if TYPE_CHECKING:
    pass


from tests.browser.play import CONNECTION_OF, SESSIONS, TRANSPORTS, Play, Start, followers, open_page

pytestmark = pytest.mark.xdist_group("chromium")


# -- the ladder ------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_transport_delivers_every_event(start: Start, transport: str) -> None:
    """Where the better transports are refused."""
    play = await start()
    await play.refuse(*TRANSPORTS[: TRANSPORTS.index(transport)])
    await play.follow()
    await play.knows(1)
    await play.begin()
    await play.knows(2)
    await play.on(transport)
    await play.requeue()
    await play.begin()
    await play.complete()
    await play.ends_whole()
    assert CONNECTION_OF[transport] in [each["connection"] for each in (await play.story())["connections"]]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_cut_loses_and_repeats_nothing(start: Start, transport: str) -> None:
    """Every event once, in order."""
    play = await start()
    await play.refuse(*TRANSPORTS[: TRANSPORTS.index(transport)])
    await play.begin()
    await play.follow()
    await play.on(transport)
    play.gate.refuses = True
    play.gate.cut()
    await play.requeue()
    await play.begin()
    await play.until("story.connections.at(-1).connection === 'reconnecting'")
    play.gate.refuses = False
    await play.knows(4)
    play.gate.cut()
    await play.complete()
    await play.ends_whole()


async def test_modules_that_come_late_cost_nothing(start: Start, photos: Path) -> None:
    """Without the lower rungs it tries again; without progress the upload goes."""
    play = await start()
    await play.refuse("ws")
    asked: list[str] = []

    async def late(route: Route) -> None:
        asked.append(route.request.url.rpartition("/")[2])
        await (route.abort() if asked.count(asked[-1]) == 1 else route.continue_())

    await play.page.route(re.compile("tryon-(lower|progress)"), late)
    await play.follow()
    await play.on("sse")
    await play.begin()
    await play.complete()
    await play.ends_whole()
    await play.page.set_content("<input type=file>")
    await play.page.set_input_files("input", photos / "photo.jpg")
    upload = "tryon.upload(document.querySelector('input').files[0], { onProgress: () => {} })"
    assert await play.page.evaluate(f"{upload}.then(({{ status }}) => status)") == "created"
    assert asked == ["tryon-lower.js", "tryon-lower.js", "tryon-progress.js"]


async def test_failing_sockets_are_tried_again_later(start: Start) -> None:
    """Meanwhile another transport is used."""
    play = await start()
    await play.page.clock.install()
    await play.follow()
    await play.on("ws")
    works = False

    async def perhaps(socket: WebSocketRoute) -> None:
        if works:
            socket.connect_to_server()
        else:
            await socket.close(code=4001)

    await play.page.route_web_socket(re.compile("/ws"), perhaps)
    play.gate.cut()
    await play.begin()
    await play.on("sse")
    await play.knows(2)
    await play.page.clock.fast_forward(20_000)
    await play.on("sse")
    works = True
    await play.requeue()
    await play.knows(3)
    await play.page.clock.fast_forward(30_000)
    await play.on("ws")
    await play.begin()
    await play.complete()
    await play.ends_whole()


async def test_server_down_is_not_tried_four_times(start: Start) -> None:
    """A dead server is no reason to change the transport."""
    play = await start()
    await play.follow()
    await play.on("ws")
    asked = len(play.requests)
    play.gate.refuses = True
    play.gate.cut()
    await play.begin()
    await play.until("spied.sockets.length >= 5")
    paths = {request.url.partition("?")[0].rpartition("/")[2] for request in play.requests[asked:]}
    assert "events" not in paths
    assert not any("wait=" in request.url for request in play.requests)
    play.gate.refuses = False
    await play.on("ws")
    await play.complete()
    await play.ends_whole()


# -- restarts --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_restarted_server_resumes_at_cursor(
    context: BrowserContext, config: Callable[..., Config], tmp_path: Path, number: signal.Signals
) -> None:
    """At the same address, after SIGKILL and after SIGTERM."""
    settings = config(lease_seconds=60)
    env = {
        "TRYON_PORT": "0",  # the gate keeps its own
        "TRYON_DATA_DIR": str(settings.data_dir),
        "TRYON_REDIS_URL": str(settings.redis_url),
        "TRYON_DATABASE_URL": str(settings.database_url),
        "TRYON_LEASE_SECONDS": "60",
        "TRYON_SECRET_KEY": settings.secret_keys[0],
    }
    servers: list[Stack] = []

    async def serve() -> Stack:
        servers.append(await Stack.open(tmp_path / "serve", "serve", env=env))
        gate.target = int((await servers[-1].line(r"Listening on http://\S+:(\d+)"))[1])
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.get(f"http://127.0.0.1:{gate.target}/api/health/live")
                    return servers[-1]

    try:
        async with open_services(settings) as services, open_gate(0) as gate:
            server = await serve()
            token = new_token()
            session = await services.sessions.submissions.submit(
                owner=token_hash(token), inputs=[PHOTO], params={}, request_id=None
            )
            noted: dict[str, Any] = {"requests": [], "said": []}
            page = await open_page(context, gate.url, noted)
            play = Play(page, gate, services, session, token, **noted)
            await play.follow()
            await play.on("ws")
            await play.begin()
            await play.knows(2)
            await server.stop(number)
            await play.requeue()
            await play.begin()
            await serve()
            await play.knows(4)
            await play.complete()
            await play.ends_whole()
            if number is signal.SIGTERM:
                bye = (await page.evaluate("spied.byes"))[0]
                assert (bye["code"], bye["reason"]) == (4000, "draining")
            await page.close()
    finally:
        for server in servers:
            await server.close()
            print(f"--- output of {server!r}\n{server.output}")


async def test_client_waits_for_draining_server(start: Start, web: Web) -> None:
    """For the announced time."""
    play = await start()
    await play.follow()
    await play.on("ws")
    (follower,) = followers(web)
    follower.drain(700)
    await play.page.evaluate(
        "look('visible')"
    )  # a person that comes back to the page must not break the promise either
    await play.until("spied.sockets.length === 2")
    bye, sockets = await play.page.evaluate("[spied.byes[0], spied.sockets]")
    assert bye["retry_after_ms"] == 700
    assert 695 <= sockets[1] - bye["at"] < 7000  # 710 on an idle machine
    await play.begin()
    await play.complete()
    await play.ends_whole()


async def test_client_waits_for_draining_stream(start: Start, web: Web) -> None:
    """The same over Server-Sent Events."""
    play = await start()
    await play.follow(transports=["sse"])
    await play.on("sse")
    (follower,) = followers(web)
    before = await play.page.evaluate("performance.now()")
    follower.drain(2000)
    await play.until("story.connections.at(-1).connection === 'reconnecting'")
    await play.on("sse")
    assert await play.page.evaluate("performance.now()") - before > 1900
    await play.begin()
    await play.complete()
    await play.ends_whole()


async def test_retry_after_of_refused_poll_is_obeyed(start: Start) -> None:
    """No request comes before."""
    play = await start()
    times: list[float] = []

    async def busy_once(route: Route) -> None:
        times.append(await play.page.evaluate("performance.now()"))
        if len(times) == 1:
            problem = {"code": "unavailable", "retryable": True}
            await route.fulfill(status=503, body=json.dumps(problem), headers={"Retry-After": "1"})
        else:
            await route.continue_()

    await play.page.route(re.compile(f"{SESSIONS}/{play.session.id}"), busy_once)
    await play.follow(transports=["poll"])
    await play.knows(1)
    assert times[1] - times[0] >= 1000
    await play.begin()
    await play.complete()
    await play.ends_whole()


# -- close codes -----------------------------------------------------------------------


@pytest.mark.parametrize("code", [4001, 4005, 4053, 4321])
async def test_close_code_4000_to_4499_reconnects(start: Start, web: Web, code: int) -> None:
    """Also an unknown one."""
    play = await start()
    await play.follow()
    await play.on("ws")
    followers(web)[0].close(ByeFrame(code, "test", reconnect=True, retry_after_ms=50))
    await play.until("spied.sockets.length === 2")
    await play.on("ws")
    await play.begin()
    await play.complete()
    await play.ends_whole()


@pytest.mark.parametrize(("code", "reason"), [(4500, "misuse"), (4700, "a_reason_of_tomorrow")])
async def test_close_code_4500_to_4999_stops(start: Start, web: Web, code: int, reason: str) -> None:
    """Also an unknown one."""
    play = await start()
    await play.page.clock.install()
    await play.follow()
    await play.on("ws")
    followers(web)[0].close(ByeFrame(code, reason, reconnect=False))
    assert await play.gone() == reason
    asked = len(play.requests)
    await play.page.clock.fast_forward(600_000)
    assert await play.page.evaluate("spied.sockets.length") == 1
    assert len(play.requests) == asked
    assert (await play.story())["end"] == "Problem"


@pytest.mark.parametrize("code", [1000, 1002, 1007, 1009])
async def test_protocol_error_falls_to_next_transport(start: Start, web: Web, code: int) -> None:
    """The socket is not opened again, and the end is seen."""
    play = await start()
    await play.follow()
    await play.on("ws")
    followers(web)[0].close(ByeFrame(code, "test", reconnect=False))
    await play.on("sse")
    await play.begin()
    await play.complete()
    await play.ends_whole()
    assert await play.page.evaluate("spied.sockets.length") == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_deleted_session_is_gone_over_transport(start: Start, transport: str) -> None:
    """Over each transport."""
    play = await start()
    await play.follow(transports=[transport])
    await play.on(transport)
    await play.delete()
    assert await play.gone() == ("deleted" if transport in ("ws", "sse") else "erased")


async def test_foreign_session_is_not_found(start: Start) -> None:
    """It looks like one that does not exist."""
    play = await start()
    play.token = new_token()
    await play.follow()
    assert await play.gone() == "not_found"


async def test_full_server_is_retried_then_polled(start: Start, web: Web, monkeypatch: Any) -> None:
    """It waits as announced, and polls in the end."""
    play = await start()
    full = RateLimited(detail="Too many open connections from this address.", retry_after=0.05)
    monkeypatch.setattr(ConnectionLimits, "refusal", lambda limits, address: full)
    await play.follow(transports=["ws", "poll"])
    await play.on("poll")
    assert await play.page.evaluate("spied.byes.map(({ code }) => code)") == [4029, 4029, 4029]
    await play.begin()
    await play.complete()
    await play.ends_whole()
