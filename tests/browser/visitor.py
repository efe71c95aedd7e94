"""A visitor of the demo page: a browser profile that notes everything it sees."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Browser, ConsoleMessage, Page, Request, expect

SESSIONS = "/api/tryon/sessions"
SOCKET = re.compile(r"/api/tryon/sessions/[0-9a-f-]+/ws")
STREAM = re.compile(r"/api/tryon/sessions/[0-9a-f-]+/events")
DONE_MS = 20_000  # far more than a session takes; the machine may be busy

#: Notes what the page says and shows, in order and without gaps, into `window.seen`.
WATCH = """
addEventListener("DOMContentLoaded", () => {
  const seen = (window.seen = { said: [], chip: [], steps: [] });
  const note = (list, text) => text && list.at(-1) !== text && list.push(text);
  const look = () => {
    note(seen.said, document.querySelector("#announcer").lastElementChild?.textContent);
    const chip = document.querySelector("#chip");
    if (chip.checkVisibility()) note(seen.chip, document.querySelector("#chip-text").textContent);
    note(seen.steps, document.body.dataset.status);
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
});
"""


@dataclass
class Visitor:
    """A person at the page, with a fresh browser profile.

    It notes every line of the console and every upload.
    """

    page: Page
    url: str
    photos: Path
    expected: list[str] = field(default_factory=list)  #: patterns of console errors that belong to the story
    console: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    async def arrive(self, where: str = "/") -> None:
        await self.page.goto(self.url + where)

    async def choose(self, name: str, zone: str = "#photo-input") -> None:
        await self.page.set_input_files(zone, self.photos / name)

    async def go(self) -> None:
        """Press the button, once the pictures are in their slots."""
        await expect(self.page.locator("#go")).to_have_attribute("aria-disabled", "false", timeout=DONE_MS)
        await self.page.locator("#go").click()

    async def try_on(self, name: str = "photo.jpg") -> None:
        """Choose a photo and start."""
        await self.choose(name)
        await self.go()

    @property
    def uploads(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]

    async def session_id(self) -> str | None:
        """Return the id in the page's address."""
        found: str | None = await self.page.evaluate("new URLSearchParams(location.search).get('s')")
        return found

    async def token(self) -> str | None:
        found: str | None = await self.page.evaluate("localStorage.getItem('tryon.token')")
        return found

    async def seen(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = await self.page.evaluate("window.seen")
        return found

    async def says(self, text: str | re.Pattern[str]) -> None:
        """Wait until the headline reads so."""
        await expect(self.page.locator("#headline")).to_have_text(text, timeout=DONE_MS)

    async def sees_result(self) -> None:
        await self.says("Your result is ready")
        await expect(self.page.get_by_role("img", name="The try-on result")).to_be_visible(timeout=DONE_MS)
        await self.page.wait_for_function("() => document.querySelector('#result').naturalWidth > 0")

    def unexpected(self) -> list[str]:
        return [line for line in self.console if not any(re.search(pattern, line) for pattern in self.expected)]


async def open_visitor(browser: Browser, url: str, photos: Path, **context: Any) -> AsyncIterator[Visitor]:
    profile = await browser.new_context(accept_downloads=True, **context)
    page = await profile.new_page()
    visitor = Visitor(page, url, photos)

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            visitor.console.append(message.text)

    def note(request: Request) -> None:
        visitor.requests.append(request)

    page.on("console", hear)
    page.on("pageerror", lambda error: visitor.console.append(f"uncaught: {error}"))
    page.on("request", note)
    await page.add_init_script(WATCH)
    try:
        yield visitor
    finally:
        await profile.close()
    assert visitor.unexpected() == [], visitor.unexpected()


async def session(visitor: Visitor) -> Any:
    async with httpx.AsyncClient(base_url=visitor.url) as client:
        headers = {"Authorization": f"Bearer {await visitor.token()}"}
        answer = await client.get(f"{SESSIONS}/{await visitor.session_id()}", headers=headers)
    return answer.raise_for_status().json()
