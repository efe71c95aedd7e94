"""A tab of the browser that follows a session of its own, and how it may end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from playwright.async_api import BrowserContext, Page

from server.domain.session import Session
from server.sessions.reads import Credential
from testkit.nginx import Nginx
from testkit.running import Web
from tests.browser.play import FOLLOW

HTML: Final = "<!doctype html><link rel=icon href=data:,><title>A shop</title>"


@dataclass
class Tab:
    """A tab that follows a session of its own."""

    page: Page
    web: Web
    session: Session
    token: str

    async def until(self, expression: str) -> None:
        await self.page.wait_for_function(f"() => {expression}", timeout=20_000, polling=20)

    async def on(self, transport: str) -> None:
        await self.until(f"following.transport === {json.dumps(transport)}")

    async def transport(self) -> str | None:
        found: str | None = await self.page.evaluate("following.transport")
        return found

    async def look(self, visibility: str) -> None:
        await self.page.evaluate(f"look({json.dumps(visibility)})")

    async def ends_whole(self) -> None:
        """Run its session; expect every event once, in order, and no step back."""
        await self.web.complete(await self.web.begin(self.session))
        await self.until("story.end !== null")
        story = await self.page.evaluate("story")
        assert story["end"]["status"] == "completed"
        history = await self.web.services.sessions.reads.history(self.session.id, Credential.of_token(self.token))
        assert [event["seq"] for event in story["events"]] == [event.seq for event in history.events]
        seqs = [session["seq"] for session in story["sessions"]]
        assert seqs == sorted(seqs), "no step back"


OpenTab = Callable[..., Awaitable[Tab]]


def tab_opener(context: BrowserContext, web: Web, nginx: Nginx) -> OpenTab:
    """Return a function that opens a tab, which follows a new session through nginx."""

    async def opened(owner: str | None = None, **options: Any) -> Tab:
        session, token = await web.submit(owner)
        page = await context.new_page()
        await page.route("**/blank", lambda route: route.fulfill(body=HTML, content_type="text/html"))
        await page.goto(f"{nginx.url}/blank")
        await page.evaluate(FOLLOW, {"base": "", "id": session.id, "token": token, "options": options})
        return Tab(page, web, session, token)

    return opened


async def leave(tab: Tab) -> None:
    await tab.page.close()


async def crash(tab: Tab) -> None:
    devtools = await tab.page.context.new_cdp_session(tab.page)
    crashed = asyncio.get_running_loop().create_future()
    tab.page.on("crash", lambda _: crashed.set_result(None))
    command = asyncio.ensure_future(devtools.send("Page.crash"))  # never answered
    await crashed
    command.cancel()


async def end(tab: Tab) -> None:
    await tab.ends_whole()
