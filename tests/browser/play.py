"""A session that is followed in the browser, with the test as its worker."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from playwright.async_api import BrowserContext, Page, Request, Route, WebSocketRoute

from server.domain.session import Session
from server.domain.stored_files import NewFile
from server.services import Services
from server.sessions.claims import Claim
from server.sessions.reads import Credential
from testkit.running import Web
from tests.browser.gate import Gate

SESSIONS: Final = "/api/tryon/sessions"
TRANSPORTS: Final = ("ws", "sse", "long-poll", "poll")
CONNECTION_OF: Final = {"ws": "live", "sse": "live", "long-poll": "polling", "poll": "polling"}

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
"""Follows a session as a page would, and notes every callback."""

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
"""Runs before anything else on the page: notes the times of sockets and byes.

It can hide the page. Jitter is a twentieth of its bound, to save time.
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
        assert await self.services.sessions.claims.complete(self.claim, [NewFile(b"\xff\xd8\xff\xe0 result")])

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
            await self.page.wait_for_function(f"() => {expression}", timeout=seconds * 1000, polling=20)
        except Exception as error:
            raise AssertionError(f"{expression}: {await self.story()}, {self.gate.heads}") from error

    async def on(self, transport: str) -> None:
        """Wait until the page follows over this transport."""
        await self.until(f"following.transport === {json.dumps(transport)}")

    async def knows(self, seq: int) -> None:
        await self.until(f"following.cursor >= {seq}")

    async def ends_whole(self, status: str = "completed") -> None:
        """Expect that the page came to the end, with every event once and in order.

        The events are those of the audit trail.
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
        """Make these transports unavailable, as middleboxes do."""

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


async def open_page(context: BrowserContext, url: str, play: dict[str, Any]) -> Page:
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


def followers(web: Web) -> list[Follower]:
    return web.hub.registry.all()
