"""Every state of the demo page, at once and without a server.

A :class:`Scene` is a page of Chromium that gets the page's own files, and answers that
are made up here. ``STATES`` brings it into each state; tests and the contact sheet walk
through them.
"""

from __future__ import annotations

import json
import mimetypes
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from playwright.async_api import Page, Route, WebSocketRoute, expect

from server.web.api.static_files import PAGE_POLICY
from testkit.page_views import ID, LIMITS, ROLES, SCHEMA, SESSIONS, Json, failed, later, receipt, session
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
    """What a request or a socket for the session gets; None: there is none."""
    sessions: list[Json] = field(default_factory=list)
    """The list of this browser's sessions."""
    limits: Json = field(default_factory=lambda: dict(LIMITS))
    schema: Json = None
    upload: tuple[int, Json] | None = None
    """Status and body of the answer to an upload; None: no answer comes."""
    unreachable: bool = False
    """Whether every request to the API is cut."""
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
        if not file.is_file():
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
        missing = (404, {"code": "not_found", "title": "Not found", "retryable": False})
        if path == "/api/tryon/limits":
            return 200, self.limits
        if path == "/api/tryon/processor":
            return 200, self._processor()
        if method == "GET" and name == "":
            return 200, {"sessions": self.sessions, "next_cursor": None}
        if self.session is None:
            return missing
        if method == "DELETE":
            return 200, receipt()
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


State: TypeAlias = Callable[[Scene], Awaitable[None]]


# -- choose ----------------------------------------------------------------------------


async def _empty(scene: Scene) -> None:
    await scene.arrive()
    await expect(scene.page.locator(".sample").first).to_be_visible()


async def _chosen(scene: Scene) -> None:
    await scene.arrive()
    await scene.choose()


async def _options(scene: Scene) -> None:
    scene.schema = SCHEMA
    await _chosen(scene)


async def _unfit(scene: Scene) -> None:
    await scene.arrive()
    tiny = STATIC / "favicon.svg"
    await scene.page.set_input_files("#photo-input", tiny)
    await expect(scene.page.locator("#notice")).to_be_visible(timeout=SOON_MS)


async def _history(scene: Scene) -> None:
    states = [session("completed"), session("failed"), session("completed"), session("processing")]
    scene.sessions = [each | {"session_id": ID[:-1] + str(at)} for at, each in enumerate(states)]
    await scene.page.add_init_script(f"localStorage.setItem('tryon.token', '{'t' * 43}')")
    await scene.arrive()
    await expect(scene.page.locator("#mine")).to_be_visible(timeout=SOON_MS)
    await scene.settled()


# -- wait ------------------------------------------------------------------------------


async def _uploading(scene: Scene) -> None:
    await _chosen(scene)
    await scene.page.locator("#go").click()
    await expect(scene.page.locator("#run")).to_be_visible()
    await scene.settled()


async def _refused(scene: Scene) -> None:
    scene.upload = (429, {"code": "rate_limited", "title": "Too many uploads", "retryable": True})
    await _uploading(scene)
    await scene.says("One moment, please")


async def _garment_refused(scene: Scene) -> None:
    scene.upload = (415, {"code": "unreadable_image", "title": "Damaged", "part": "garment", "retryable": False})
    await _uploading(scene)
    await scene.says(re.compile("garment"))


async def _queued(scene: Scene) -> None:
    await scene.follow(session("created"))


async def _working(scene: Scene) -> None:
    await scene.follow(session())


async def _late(scene: Scene) -> None:
    await scene.follow(session(eta_seconds=0.5))
    await expect(scene.page.locator("#meta-time")).to_contain_text("longer than usual", timeout=SOON_MS)


async def _offline(scene: Scene) -> None:
    await _working(scene)
    await scene.page.context.set_offline(True)
    await scene.chip("Offline")


async def _reconnecting(scene: Scene) -> None:
    await _working(scene)
    scene.unreachable = True
    for socket in scene.sockets:
        await socket.close(code=4050)
    await scene.chip("Reconnecting")


async def _interrupted(scene: Scene) -> None:
    await _working(scene)
    await scene.push(
        {
            "type": "event", "session_id": ID, "seq": 3, "event": "requeued", "from": "processing", "status": "created",
            "terminal": False, "at": later(), "data": {"attempt": 1, "reason": "lease_expired"},
        }
    )  # fmt: skip
    await scene.says(re.compile("^Interrupted"))


# -- see -------------------------------------------------------------------------------


async def _result(scene: Scene) -> None:
    await scene.follow(session("completed"))


async def _zoomed(scene: Scene) -> None:
    await _result(scene)
    for _ in range(2):
        await scene.page.get_by_role("button", name="Zoom in").click()


async def _share(scene: Scene) -> None:
    await _result(scene)
    await scene.page.locator("#share").click()
    await expect(scene.page.locator("#share-dialog svg")).to_be_visible(timeout=SOON_MS)


async def _sure(scene: Scene) -> None:
    await _result(scene)
    await scene.page.locator("#erase").click()
    await expect(scene.page.locator("#erase-dialog")).to_be_visible()


async def _erased(scene: Scene) -> None:
    await _sure(scene)
    await scene.page.locator("#erase-dialog").get_by_role("button", name="Delete now").click()
    await scene.says("Everything was erased")


async def _receipt(scene: Scene) -> None:
    await _erased(scene)
    await scene.page.locator("#receipt summary").click()


async def _shared(scene: Scene) -> None:
    scene.session = session("completed")
    await scene.arrive(f"/#session={ID}&ticket=made-up")
    await scene.chip("Finished")
    await scene.settled()


# -- troubles --------------------------------------------------------------------------


async def _failed(scene: Scene) -> None:
    await scene.follow(failed("timeout", "The model took too long.", retryable=True))


async def _no_garment(scene: Scene) -> None:
    await scene.follow(
        failed("garment_not_found", "Please use a picture of one garment on a plain ground.", retryable=False)
    )


async def _cancelled(scene: Scene) -> None:
    await scene.follow(session("cancelled"))


async def _expired(scene: Scene) -> None:
    await _working(scene)
    await scene.push({"type": "error", "code": "expired", "message": "It has expired."})
    for socket in scene.sockets:
        await socket.close(code=4510)
    await scene.says(re.compile("expired"))


async def _nothing(scene: Scene) -> None:
    await scene.arrive(f"/?s={ID}")
    await scene.says("There is nothing here")


# -- behind the scenes -----------------------------------------------------------------


async def _behind(scene: Scene) -> None:
    await _working(scene)
    await scene.page.locator("#chip").click()
    await expect(scene.page.locator(".behind-list li").first).to_be_visible(timeout=SOON_MS)
    await expect(scene.page.locator("#behind")).to_contain_text("ms", timeout=SOON_MS)


async def _code(scene: Scene) -> None:
    await _result(scene)
    await scene.page.locator("#chip").click()
    await scene.page.get_by_role("tab", name="Code").click()


STATES: Final[dict[str, State]] = {
    "choose": _empty,
    "chosen": _chosen,
    "with options": _options,
    "not a picture": _unfit,
    "my try-ons": _history,
    "uploading": _uploading,
    "refused": _refused,
    "garment refused": _garment_refused,
    "in line": _queued,
    "working": _working,
    "late": _late,
    "offline": _offline,
    "reconnecting": _reconnecting,
    "interrupted": _interrupted,
    "result": _result,
    "zoomed": _zoomed,
    "share": _share,
    "delete?": _sure,
    "erased": _erased,
    "receipt": _receipt,
    "made elsewhere": _shared,
    "failed": _failed,
    "garment not found": _no_garment,
    "cancelled": _cancelled,
    "expired": _expired,
    "nothing here": _nothing,
    "behind the scenes": _behind,
    "code": _code,
}
"""How the page comes into each state, by name."""
