"""static/tryon.js in a real Chromium: down the ladder, up again, through cuts, restarts
and sleep, every event once.

The test plays the worker, so that a story goes on exactly when the network is as bad as
the test wants it. Between the browser and the server stands a gate
(:mod:`tests.browser.gate`).
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from playwright.async_api import BrowserContext, Page, Request, Route, WebSocketRoute

from server.config.settings import Config
from server.domain.session import Session
from server.domain.tokens import new_token, token_hash
from server.services import Services, open_services
from server.sessions.claims import Claim
from server.sessions.reads import Credential
from server.web.transports.connection_limits import ConnectionLimits
from testkit.plugin import missing
from testkit.processes import ROOT, free_port
from testkit.running import PHOTO, Web, running_web, until
from testkit.stack import Stack
from tests.browser.gate import Gate, open_gate
from tryon.protocol.errors import RateLimited
from tryon.protocol.frames import ByeFrame

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = pytest.mark.xdist_group("chromium")

SESSIONS: Final = "/api/tryon/sessions"
TRANSPORTS: Final = ("ws", "sse", "long-poll", "poll")
CONNECTION_OF: Final = {"ws": "live", "sse": "live", "long-poll": "polling", "poll": "polling"}

#: Follows a session as a page would and notes what it is told; also every socket that
#: is made, and every bye.
FOLLOW: Final = """
async ({ base, id, token, options }) => {
  const { TryOn } = await import(`${base}/static/tryon.js`);
  const story = (window.story = { events: [], sessions: [], connections: [], gone: null, end: null });
  window.tryon = new TryOn({ base, token });
  window.following = window.tryon.follow(id, {
    ...options,
    onEvent: ({ seq, event, from, status, at }) => story.events.push({ seq, event, from, status, at }),
    onSession: ({ seq, status, progress }) => story.sessions.push({ seq, status, progress }),
    onConnection: (connection, transport) => story.connections.push({ connection, transport }),
    onGone: (code) => (story.gone = code),
  });
  window.following.done.then((session) => (story.end = session), (error) => (story.end = error.name));
}
"""

#: Before anything else on the page: notes when sockets are made and when the server
#: says bye; can hide the page. Jitter is a twentieth of its bound, so that nobody waits
#: for it.
SPY: Final = """
Math.random = () => 0.05;
window.spied = { sockets: [], byes: [] };
window.WebSocket = class extends WebSocket {
  constructor(...args) {
    super(...args);
    spied.sockets.push(performance.now());
    this.addEventListener("message", ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.type === "bye") spied.byes.push({ ...frame, at: performance.now() });
    });
  }
};
window.look = (visibility) => {
  Object.defineProperty(document, "visibilityState", { value: visibility, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
};
"""


@dataclass
class Play:
    """A session, followed in the browser, and the worker that moves it."""

    page: Page
    gate: Gate
    services: Services
    session: Session
    token: str
    claim: Claim | None = None
    requests: list[Request] = field(default_factory=list)
    said: list[dict[str, Any]] = field(default_factory=list)  #: what the page sent over sockets

    # -- the worker --------------------------------------------------------------------

    async def begin(self) -> None:
        self.claim = await self.services.sessions.claims.begin(self.session.id, worker="test")
        assert self.claim is not None

    async def requeue(self) -> None:
        assert self.claim is not None
        assert await self.services.sessions.claims.requeue(self.claim, burnt=False, reason="draining")

    async def complete(self) -> None:
        assert self.claim is not None
        assert await self.services.sessions.claims.complete(self.claim, b"\xff\xd8\xff\xe0 result", "jpg")

    async def delete(self) -> None:
        await self.services.sessions.erasure.delete(self.session.id, self.session.owner)

    # -- the page ----------------------------------------------------------------------

    async def follow(self, **options: Any) -> None:
        given = {"base": "", "id": self.session.id, "token": self.token, "options": options}
        await self.page.evaluate(FOLLOW, given)

    async def story(self) -> Any:
        return await self.page.evaluate("story")

    async def until(self, expression: str, *, seconds: float = 20) -> None:
        try:
            await self.page.wait_for_function(expression, timeout=seconds * 1000, polling=20)
        except Exception as error:
            raise AssertionError(f"{expression}: {await self.story()}, {self.gate.heads}") from error

    async def on(self, transport: str) -> None:
        """Wait until this is how the page follows."""
        await self.until(f"following.transport === {json.dumps(transport)}")

    async def knows(self, seq: int) -> None:
        await self.until(f"following.cursor >= {seq}")

    async def ends_whole(self, status: str = "completed") -> None:
        """The page came to the end and was told of every event once, in order: what the
        audit trail says.
        """
        await self.until("story.end !== null")
        story = await self.story()
        assert story["end"]["status"] == status
        assert story["connections"][-1]["connection"] == "finished"
        history = (await self.services.sessions.reads.history(self.session.id, Credential.of_token(self.token))).events
        assert [(event["seq"], event["event"], event["status"]) for event in story["events"]] == [
            (event.seq, event.event.value, event.status.value) for event in history
        ]
        seqs = [session["seq"] for session in story["sessions"]]
        assert seqs == sorted(seqs), "no step back"

    async def gone(self) -> Any:
        await self.until("story.end !== null")
        return (await self.story())["gone"]

    def asked(self, part: str) -> int:
        return sum(part in request.url for request in self.requests)

    async def refuse(self, *transports: str) -> None:
        """Make these unavailable from now on, as middleboxes do."""

        async def stop(route: Route) -> None:
            await route.abort()

        if "ws" in transports:
            await self.page.route_web_socket(re.compile("/ws"), _close_at_once)
        if "sse" in transports:
            await self.page.route(re.compile(r"/events\?"), stop)
        if "long-poll" in transports:
            await self.page.route(re.compile(r"[?&]wait="), stop)


async def _close_at_once(socket: WebSocketRoute) -> None:
    await socket.close(code=4053)


Follower = Any
Start = Callable[..., Awaitable[Play]]


@pytest.fixture
async def context(chromium: Browser) -> AsyncIterator[BrowserContext]:
    # The pages here are made up, so Chromium takes them for public ones, which may not
    # simply ask a local server.
    made = await chromium.new_context(permissions=["local-network-access"])
    await made.add_init_script(SPY)
    yield made
    await made.close()


async def _open_page(context: BrowserContext, url: str, play: dict[str, Any]) -> Page:
    page = await context.new_page()

    def note(request: Request) -> None:  # Playwright takes no built-in method
        play["requests"].append(request)

    page.on("request", note)
    page.on(
        "websocket",
        lambda socket: socket.on("framesent", lambda frame: play["said"].append(json.loads(frame))),
    )
    html = "<!doctype html><link rel=icon href=data:,><title>A shop</title>"
    await page.route("**/blank", lambda route: route.fulfill(body=html, content_type="text/html"))
    await page.goto(f"{url}/blank")
    return page


@pytest.fixture
def ping_seconds() -> float:
    return 25


@pytest.fixture
async def web(config: Callable[..., Config], ping_seconds: float) -> AsyncIterator[Web]:
    async with running_web(config(ping_seconds=ping_seconds, lease_seconds=60)) as running:
        yield running


@pytest.fixture
async def start(context: BrowserContext, web: Web) -> AsyncIterator[Start]:
    """A page behind a gate and a new session."""
    async with open_gate(web.port) as gate:

        async def begin() -> Play:
            session, token = await web.submit()
            noted: dict[str, Any] = {"requests": [], "said": []}
            page = await _open_page(context, gate.url, noted)
            return Play(page, gate, web.services, session, token, **noted)

        yield begin


def followers(web: Web) -> list[Follower]:
    return web.hub.registry.all()


# -- the ladder ------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_rung_tells_the_whole_story_where_the_better_ones_are_refused(start: Start, transport: str) -> None:
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
    assert CONNECTION_OF[transport] in [told["connection"] for told in (await play.story())["connections"]]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cut_in_the_middle_loses_nothing_and_doubles_nothing(start: Start, transport: str) -> None:
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


async def test_sockets_that_stop_working_give_way_and_are_taken_up_again_later(start: Start) -> None:
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


async def test_a_server_that_is_down_is_not_asked_in_four_ways(start: Start) -> None:
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
async def test_a_server_started_again_on_its_port_goes_on_where_it_was(
    context: BrowserContext, config: Callable[..., Config], tmp_path: Path, number: signal.Signals
) -> None:
    settings = config(lease_seconds=60)
    port = free_port()
    env = {
        "TRYON_PORT": str(port),
        "TRYON_DATA_DIR": str(settings.data_dir),
        "TRYON_REDIS_URL": str(settings.redis_url),
        "TRYON_DATABASE_URL": str(settings.database_url),
        "TRYON_LEASE_SECONDS": "60",
        "TRYON_SECRET_KEY": settings.secret_keys[0],
    }
    servers: list[Stack] = []

    async def serve() -> Stack:
        servers.append(await Stack.open(tmp_path / "serve", "serve", env=env))
        await servers[-1].line("Application startup complete|Listening on")
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.get(f"http://127.0.0.1:{port}/api/health/live")
                    return servers[-1]

    try:
        async with open_services(settings) as services, open_gate(port) as gate:
            server = await serve()
            token = new_token()
            session = await services.sessions.submissions.submit(
                owner=token_hash(token), image=PHOTO, garment=None, params={}, request_id=None
            )
            noted: dict[str, Any] = {"requests": [], "said": []}
            page = await _open_page(context, gate.url, noted)
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


async def test_a_draining_server_is_left_alone_for_as_long_as_it_says(start: Start, web: Web) -> None:
    play = await start()
    await play.follow()
    await play.on("ws")
    (follower,) = followers(web)
    follower.drain(700)
    await play.page.evaluate("look('visible')")  # whoever comes back to the page must not break the promise either
    await play.until("spied.sockets.length === 2")
    bye, sockets = await play.page.evaluate("[spied.byes[0], spied.sockets]")
    assert bye["retry_after_ms"] == 700
    assert 695 <= sockets[1] - bye["at"] < 1500
    await play.begin()
    await play.complete()
    await play.ends_whole()


async def test_a_stream_that_drains_is_left_alone_as_long(start: Start, web: Web) -> None:
    play = await start()
    await play.follow(transports=["sse"])
    await play.on("sse")
    (follower,) = followers(web)
    follower.drain(600)
    await play.until("story.connections.at(-1).connection === 'reconnecting'")
    before = await play.page.evaluate("performance.now()")
    await play.on("sse")
    assert await play.page.evaluate("performance.now()") - before > 500
    await play.begin()
    await play.complete()
    await play.ends_whole()


async def test_retry_after_of_a_refused_look_is_obeyed(start: Start) -> None:
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
async def test_a_code_from_4000_to_4499_means_come_back(start: Start, web: Web, code: int) -> None:
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
async def test_a_code_from_4500_to_4999_means_stop(start: Start, web: Web, code: int, reason: str) -> None:
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
async def test_a_broken_socket_is_not_opened_again_but_the_end_is_still_seen(start: Start, web: Web, code: int) -> None:
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
async def test_a_session_deleted_while_watched_is_said_to_be_gone(start: Start, transport: str) -> None:
    play = await start()
    await play.follow(transports=[transport])
    await play.on(transport)
    await play.delete()
    assert await play.gone() == ("deleted" if transport in ("ws", "sse") else "erased")


async def test_somebody_elses_session_is_not_found(start: Start) -> None:
    play = await start()
    play.token = new_token()
    await play.follow()
    assert await play.gone() == "not_found"


async def test_a_full_house_is_tried_as_it_says_then_polled(start: Start, web: Web, monkeypatch: Any) -> None:
    play = await start()
    full = RateLimited(detail="Too many open connections from this address.", retry_after=0.05)
    monkeypatch.setattr(ConnectionLimits, "refusal", lambda limits, address: full)
    await play.follow(transports=["ws", "poll"])
    await play.on("poll")
    assert await play.page.evaluate("spied.byes.map(({ code }) => code)") == [4029, 4029, 4029]
    await play.begin()
    await play.complete()
    await play.ends_whole()


# -- sleep and silence -----------------------------------------------------------------


@pytest.mark.parametrize("ping_seconds", [0.2])
async def test_a_connection_that_falls_silent_is_given_up(start: Start) -> None:
    play = await start()
    await play.follow()
    await play.on("ws")
    play.gate.swallow()
    await play.begin()
    await play.knows(2)  # over another connection, after 2.2 pings and an unanswered sync
    assert {"type": "sync", "since": 1} in play.said
    await play.complete()
    await play.ends_whole()


@pytest.mark.parametrize("event", ["online", "visible", "pageshow", "resume"])
async def test_whatever_wakes_the_page_makes_the_socket_prove_itself(start: Start, event: str) -> None:
    play = await start()
    await play.follow()
    await play.on("ws")
    wake = {
        "online": "dispatchEvent(new Event('online'))",
        "visible": "look('visible')",
        "pageshow": "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))",
        "resume": "document.dispatchEvent(new Event('resume'))",
    }[event]
    await play.page.evaluate(wake)
    await until(lambda: play.said == [{"type": "sync", "since": 1}])
    await play.begin()
    await play.complete()
    await play.ends_whole()
    assert await play.page.evaluate("spied.sockets.length") == 1


@pytest.mark.parametrize("cut", [False, True])
async def test_a_frozen_tab_catches_up_when_it_thaws(start: Start, cut: bool) -> None:
    play = await start()
    await play.follow()
    await play.on("ws")
    devtools = await play.page.context.new_cdp_session(play.page)
    await devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
    await play.begin()
    await play.requeue()
    if cut:
        play.gate.cut()
    await devtools.send("Page.setWebLifecycleState", {"state": "active"})
    await play.knows(3)
    await play.begin()
    await play.complete()
    await play.ends_whole()


async def test_offline_is_said_and_online_comes_back_at_once(start: Start) -> None:
    play = await start()
    await play.page.clock.install()
    await play.follow()
    await play.on("ws")
    await play.page.context.set_offline(True)
    play.gate.cut()
    await play.until("story.connections.at(-1).connection === 'offline'")
    await play.begin()
    await play.page.clock.pause_at(await play.page.evaluate("Date.now() + 1000"))  # no timer helps it from here on
    await play.page.evaluate("() => { window.back = new Promise((tell) => addEventListener('online', tell)); }")
    await play.page.context.set_offline(False)
    await play.page.evaluate("back.then(() => 0)")
    await play.page.clock.run_for(1)
    await play.knows(2)
    await play.page.clock.resume()
    await play.complete()
    await play.ends_whole()


async def test_a_hidden_page_retries_nothing_until_it_is_seen(start: Start) -> None:
    play = await start()
    await play.page.clock.install()
    await play.follow()
    await play.on("ws")
    await play.page.evaluate("look('hidden')")
    play.gate.cut()
    await play.until("story.connections.at(-1).connection === 'reconnecting'")
    await play.begin()
    tried, asked = len(play.gate.heads), len(play.requests)
    await play.page.clock.fast_forward(3_600_000)
    assert (len(play.gate.heads), len(play.requests)) == (tried, asked)
    await play.page.evaluate("look('visible')")
    await play.knows(2)
    await play.complete()
    await play.ends_whole()


async def test_a_hidden_page_that_is_connected_stays_so(start: Start) -> None:
    play = await start()
    await play.follow()
    await play.on("ws")
    await play.page.evaluate("look('hidden')")
    await play.begin()
    await play.complete()
    await play.ends_whole()
    assert await play.page.evaluate("spied.sockets.length") == 1


# -- the rest of the client ------------------------------------------------------------


async def test_a_following_from_seq_2_is_told_what_comes_after_it(start: Start) -> None:
    play = await start()
    await play.begin()
    await play.follow(since=2)
    await play.on("ws")
    await play.complete()
    await play.until("story.end !== null")
    assert [event["seq"] for event in (await play.story())["events"]] == [3]


async def test_a_session_that_has_ended_is_told_whole_and_without_waiting(start: Start) -> None:
    play = await start()
    await play.begin()
    await play.complete()
    await play.follow()
    await play.ends_whole()


async def test_a_callback_that_throws_stops_nothing(start: Start) -> None:
    play = await start()
    thrown: list[Any] = []

    def note(error: Any) -> None:
        thrown.append(error)

    play.page.on("pageerror", note)
    given = {"base": "", "id": play.session.id, "token": play.token, "options": {}}
    await play.page.evaluate(FOLLOW.replace("story.sessions.push", "window.noSuchFunction"), given)
    await play.begin()
    await play.complete()
    await play.until("story.end !== null")
    assert len((await play.story())["events"]) == 3
    assert thrown


async def test_a_closed_following_is_silent(start: Start, web: Web) -> None:
    play = await start()
    await play.follow()
    await play.on("ws")
    await play.page.evaluate("following.close()")
    await until(lambda: not followers(web))
    await play.begin()
    await play.complete()
    story = await play.story()
    assert len(story["events"]) == 1
    assert story["end"] == "AbortError"


async def test_a_shop_on_another_origin_can_do_everything(
    context: BrowserContext, config: Callable[..., Config]
) -> None:
    async with running_web(config()) as web:
        noted: dict[str, Any] = {"requests": [], "said": []}
        page = await _open_page(context, f"http://localhost:{free_port()}", noted)
        made = await page.evaluate(
            """
            async (base) => {
              const { Problem, TryOn } = await import(`${base}/static/tryon.js`);
              const tryon = new TryOn({ base });
              const canvas = Object.assign(document.createElement("canvas"), { width: 200, height: 300 });
              canvas.getContext("2d").fillRect(20, 20, 90, 90);
              const photo = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg"));
              const parts = [];
              const options = { params: { a: 1 }, idempotencyKey: "once", onProgress: (part) => parts.push(part) };
              const session = await tryon.upload(photo, options);
              const again = await tryon.upload(photo, options);
              const aborted = new AbortController();
              const stopped = tryon.upload(photo, { signal: aborted.signal });
              aborted.abort();
              const abort = await stopped.catch((error) => error.name);
              const transports = [];
              for (const transport of ["ws", "sse", "long-poll", "poll"]) {
                const following = tryon.follow(session.session_id, { transports: [transport] });
                await new Promise((resolve) => {
                  const timer = setInterval(() => following.transport && resolve(clearInterval(timer)), 10);
                });
                transports.push(following.transport);
                following.close();
              }
              const photoOf = await fetch(session.links.input).then((answer) => answer.status);
              const following = tryon.follow(session);
              const early = await tryon.retry(session.session_id).catch((problem) => problem);
              const cancelled = await tryon.cancel(session.session_id);
              const end = await following.done;
              const next = await tryon.retry(session.session_id);
              const page = await tryon.list({ limit: 1 });
              const receipt = await tryon.remove(next.session_id);
              const gone = await tryon.read(session.session_id).catch((problem) => problem);
              return {
                session, again: again.session_id, progress: parts.at(-1), abort, transports, photoOf,
                early: [early instanceof Problem, early.status, early.code], cancelled: cancelled.status, end: end.status,
                retryOf: next.retry_of, listed: page.sessions.map(({ session_id }) => session_id), more: page.next_cursor,
                next: next.session_id, files: receipt.files.length, signature: receipt.signature.length,
                gone: [gone.status, gone.code], token: tryon.token,
              };
            }
            """,
            f"http://127.0.0.1:{web.port}",
        )
        await page.close()
    session = made["session"]
    assert made["again"] == session["session_id"], "the same idempotency key, the same session"
    assert session["links"]["input"].startswith(f"http://127.0.0.1:{web.port}/api/tryon/files/")
    assert made["progress"] == 1
    assert made["abort"] == "AbortError"
    assert made["transports"] == list(TRANSPORTS)
    assert made["photoOf"] == 200
    assert made["early"] == [True, 409, "not_finished"]
    assert (made["cancelled"], made["end"]) == ("cancelled", "cancelled")
    assert made["retryOf"] == session["session_id"]
    assert made["listed"] == [made["next"]]
    assert made["more"]
    assert made["files"] == 2, "the photo and its copy"
    assert made["signature"] == 86
    assert made["gone"] == [404, "not_found"]


# -- the guide -------------------------------------------------------------------------

GUIDE: Final = (ROOT / "docs" / "browser-client.md").read_text()


async def test_the_example_of_the_guide_works(
    context: BrowserContext, config: Callable[..., Config], photos: Path
) -> None:
    example = re.search(r"```js\n(.*?)```", GUIDE, re.DOTALL)
    assert example is not None
    code = re.sub(r'import (\{.*?\}) from (".*?");', r"const \1 = await import(\2);", example[1])
    async with running_web(config()) as web:
        code = code.replace("https://tryon.example", f"http://127.0.0.1:{web.port}")
        page = await _open_page(context, f"http://localhost:{free_port()}", {"requests": [], "said": []})
        await page.set_content("<input type=file>")
        await page.set_input_files("input", photos / "photo.jpg")
        await page.evaluate("() => { window.shown = []; window.show = (...news) => shown.push(news); }")
        await page.evaluate(
            f"() => {{ const file = document.querySelector('input').files[0];"
            f"window.example = (async () => {{ {code} return {{ status, links }}; }})(); }}"
        )
        await page.wait_for_function("shown.length > 0")
        (waiting,) = (await web.services.sessions.queue_places.current()).keys()
        claim = await web.services.sessions.claims.begin(waiting, worker="test")
        assert claim is not None
        await web.complete(claim)
        end = await page.evaluate("example")
        await page.close()
    assert end["status"] == "completed"
    assert end["links"]["output"].startswith(f"http://127.0.0.1:{web.port}/")


def test_the_guide_names_every_option_and_call() -> None:
    types = (ROOT / "static" / "tryon.d.ts").read_text()
    for name in ("UploadOptions", "FollowOptions", "Following", "Problem extends Error", "TryOn"):
        block = re.search(rf"(?:interface|class) {name} {{\n(.*?)^}}", types, re.DOTALL | re.MULTILINE)
        assert block is not None
        for member in re.findall(r"^  (?:readonly )?(\w+)\??[:(]", block[1], re.MULTILINE):
            if member not in ("constructor", "clockOffset", "base"):
                assert re.search(rf"[`(., ]{member}\b", GUIDE), (name, member)


# -- the types -------------------------------------------------------------------------

USE: Final = """
import { TryOn, Problem, randomText, type Session, type SessionEvent } from "./tryon.js";
import * as declared from "./tryon.js";
import * as made from "./implementation.js";

const same: Pick<typeof declared, "randomText"> = made;
const problem: declared.Problem = new made.Problem({ code: "network" }) as unknown as declared.Problem;
const names: Record<keyof declared.TryOn, unknown> = new made.TryOn({ base: "https://tryon.example" });
const following: Record<Exclude<keyof declared.Following, "x">, unknown> = new made.TryOn().follow("id");

export async function use(file: File): Promise<string | null> {
  const tryon = new TryOn({ base: "https://tryon.example" });
  const session: Session = await tryon.upload(file, { params: { size: "M" }, onProgress: (part) => part.toFixed(2) });
  const seen: SessionEvent[] = [];
  const following = tryon.follow(session, { onEvent: (event) => seen.push(event), onGone: (code) => code.length });
  // @ts-expect-error no such transport
  tryon.follow(session, { transports: ["pigeon"] });
  // @ts-expect-error a status is one of five
  if (session.status === "done") return null;
  return (await following.done).links.output;
}
void [same, problem, names, following, Problem, randomText];
"""


def test_the_types_fit_the_code(tmp_path: Path) -> None:
    tsc = shutil.which("tsc")
    if tsc is None:
        missing("TypeScript (npm install --global typescript)")
    shutil.copy(ROOT / "static" / "tryon.js", tmp_path / "implementation.js")
    for name in ("tryon.js", "tryon.d.ts"):
        shutil.copy(ROOT / "static" / name, tmp_path)
    (tmp_path / "use.ts").write_text(USE)
    options = {
        "strict": True, "noEmit": True, "allowJs": True, "checkJs": False, "target": "es2022", "module": "es2022",
        "moduleResolution": "bundler", "lib": ["es2022", "dom", "dom.iterable"], "types": [],
    }  # fmt: skip
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": ["use.ts"]}))
    done = subprocess.run([tsc, "-p", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_client_needs_nothing_and_stays_small() -> None:
    code = (ROOT / "static" / "tryon.js").read_text()
    assert not re.search(r"^\s*import\b", code, re.MULTILINE)
    assert len(code) < 25_000
