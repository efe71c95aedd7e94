"""A page of Chromium with the demo page's own files and a made-up server.

States, tests and the contact sheet start from a :class:`Scene`.
"""

from __future__ import annotations

import json
import mimetypes
import re
from dataclasses import dataclass, field
from typing import Final

from playwright.async_api import Page, Route, WebSocketRoute, expect

from server.web.api.static_files import PAGE_POLICY
from testkit.page_views import ID, LIMITS, ROLES, SESSIONS, Json, later, receipt, refusal
from testkit.processes import ROOT

HOME: Final = "http://localhost:9"
"""Nothing listens there: every request is answered here."""
STATIC: Final = ROOT / "static"
SOON_MS: Final = 20_000


@dataclass
class Scene:
    """A page whose server is made up."""

    page: Page
    session: Json = None
    """Answer to requests and sockets for the session; None: there is none."""
    sessions: list[Json] = field(default_factory=list)
    """The list of this browser's sessions."""
    limits: Json = field(default_factory=lambda: dict(LIMITS))
    schema: Json = None
    upload: tuple[int, Json] | None = None
    """Status and body of the answer to an upload; None: no answer comes."""
    deletion: tuple[int, Json] = field(default_factory=lambda: (200, receipt()))
    missing: frozenset[str] = frozenset()
    """Files that are not found, by their names."""
    unreachable: bool = False
    """Every request to the API is cut."""
    sockets: list[WebSocketRoute] = field(default_factory=list)

    async def open(self) -> None:
        """Answer the page's requests from here."""
        await self.page.route("**/*", self._answer)
        await self.page.route_web_socket(re.compile("/ws"), self._socket)

    async def arrive(self, where: str = "/") -> None:
        """Go to the page, and wait until it is quiet."""
        await self.page.goto(HOME + where)
        await self.settled()

    async def settled(self) -> None:
        """Wait until all pictures in sight are there."""
        await self.page.wait_for_function(
            "() => document.readyState === 'complete' && [...document.images].every((image) => !image.src || image.complete)",
            timeout=SOON_MS,
        )

    async def follow(self, found: Json, connection: str | None = None) -> None:
        """Show a session that is as ``found``, and wait for the chip's word."""
        self.session = found
        await self.arrive(f"/?s={ID}")
        await self.chip(connection or ("Finished" if found["terminal"] else "Live"))
        await self.settled()

    async def chip(self, word: str) -> None:
        """Wait until the chip says so."""
        await expect(self.page.locator("#chip-text")).to_have_text(word, timeout=SOON_MS)

    async def says(self, words: str | re.Pattern[str]) -> None:
        """Wait until the headline reads so."""
        await expect(self.page.locator("#headline")).to_have_text(words, timeout=SOON_MS)

    async def push(self, frame: Json) -> None:
        """Send a frame over every open socket."""
        for socket in self.sockets:
            socket.send(json.dumps(frame))

    async def choose(self) -> None:
        """Fill both slots with samples."""
        for role in ("person", "garment"):
            await self.page.locator(f".slot[data-role={role}] .sample").first.click()
            await expect(self.page.locator(f".slot[data-role={role}] .zone-picture")).to_be_visible(timeout=SOON_MS)
        await expect(self.page.locator("#go")).to_have_attribute("aria-disabled", "false")

    # -- answers -----------------------------------------------------------------------

    async def _answer(self, route: Route) -> None:
        path = route.request.url.removeprefix(HOME).split("?")[0]
        if path.startswith("/api/"):
            await self._api(route, path)
        else:
            await self._file(route, path)

    async def _file(self, route: Route, path: str) -> None:
        file = STATIC / ("index.html" if path == "/" else path.removeprefix("/static/"))
        if not file.is_file() or file.name in self.missing:
            await route.fulfill(status=404)
            return
        kind = "text/javascript" if file.suffix == ".js" else mimetypes.guess_type(file.name)[0] or "image/webp"
        headers = {"Content-Security-Policy": PAGE_POLICY, "Content-Type": kind}
        await route.fulfill(body=file.read_bytes(), headers=headers)

    async def _api(self, route: Route, path: str) -> None:
        if self.unreachable:
            await route.abort()
            return
        method, name = route.request.method, path.removeprefix(SESSIONS)
        if method == "POST" and name == "":
            if self.upload is None:
                return  # no answer comes
            status, body = self.upload
        else:
            status, body = self._body(method, path, name)
        await route.fulfill(status=status, json=body)

    def _body(self, method: str, path: str, name: str) -> tuple[int, Json]:
        missing = refusal("not_found")
        if path == "/api/health/live":
            return 200, {"status": "ok", "checks": {}}
        if path == "/api/tryon/limits":
            return 200, self.limits
        if path == "/api/tryon/processor":
            return 200, self._processor()
        if method == "GET" and name == "":
            return 200, {"sessions": self.sessions, "next_cursor": None}
        if self.session is None:
            return missing
        if method == "DELETE":
            return self.deletion
        if name.endswith("/share"):
            link = f"/api/tryon/files/outputs/{ID}.webp?expires=1796000000&signature={'k' * 43}"
            return 201, {"link": link, "expires_at": later(hours=23)}
        return (200, self.session | {"missed": []}) if name == f"/{ID}" else missing

    def _processor(self) -> Json:
        return {
            "name": "mock", "version": "1", "label": "Demo", "roles": ROLES, "params_schema": self.schema or {"type": "object"},
            "outputs": [{"name": "result", "types": ["image/webp"], "count": 1}], "generated": False,
            "privacy": "Your photo stays on this server.", "typical_seconds": 4.0, "cancel": True, "preview": False,
            "fallbacks": [], "available": True,
        }  # fmt: skip

    async def _socket(self, socket: WebSocketRoute) -> None:
        if self.unreachable:
            await socket.close(code=4053)
            return
        if self.session is None:
            await socket.close(code=4504)
            return
        self.sockets.append(socket)
        socket.on_message(lambda text: self._hear(socket, str(text)))
        told = {"event": "created", "status": "created", "terminal": False, "at": later(), "data": {}}
        missed = [{"type": "event", "seq": at, **told} for at in range(1, self.session["seq"] + 1)]
        snapshot = {"type": "snapshot", "session": self.session, "missed": missed, "ping_seconds": 25, "at": later()}
        socket.send(json.dumps(snapshot))

    def _hear(self, socket: WebSocketRoute, text: str) -> None:
        if json.loads(text)["type"] == "ping":
            socket.send(json.dumps({"type": "pong", "at": later()}))
