"""Announcements to screen readers, and the words when Cancel or Delete fails."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Route, expect

from testkit.stack import Stack
from tests.browser.visitor import DONE_MS, SESSIONS, Visitor, open_visitor

pytestmark = pytest.mark.xdist_group("chromium")

NO_ANSWER: Final = "It could not be cancelled. No answer came: check your connection and try again."
BUSY: Final = "It could not be cancelled. The service is busy: please try again in a little while."


@pytest.fixture(scope="module")
async def slow_product(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Start one stack whose sessions run longer than the tests."""
    env = {"TRYON_PORT": "0", "TRYON_MOCK_SECONDS": "60", "TRYON_DRAIN_SECONDS": "0", "TRYON_UPLOAD_RATE": "off"}
    started = await Stack.open(tmp_path_factory.mktemp("slow"), "up", env=env)
    try:
        yield await started.ready()
    finally:
        await started.close()
        print(f"--- output of {started!r}\n{started.output}")


@pytest.fixture
async def waiting(chromium: Browser, slow_product: Stack, photos: Path) -> AsyncIterator[Visitor]:
    """Open a visitor whose session is under way."""
    async for someone in open_visitor(chromium, slow_product.url, photos):
        someone.expected.append("ERR_FAILED|503|404")
        await someone.arrive()
        await someone.try_on()
        await expect(someone.page.locator("#chip-text")).to_have_text("Live", timeout=DONE_MS)
        yield someone


async def confirm_delete(visitor: Visitor) -> None:
    await visitor.page.get_by_role("button", name="Delete now").click()
    await visitor.page.get_by_role("dialog").get_by_role("button", name="Delete now").click()


async def said(visitor: Visitor) -> list[str]:
    return await visitor.page.get_by_role("log").locator("p").all_text_contents()


async def refuse(visitor: Visitor, pattern: str, method: str, **answer: Any) -> None:
    """Answer calls to this path with a problem, or abort them."""

    async def once(route: Route) -> None:
        if route.request.method != method:
            await route.fallback()
        elif answer:
            await route.fulfill(content_type="application/problem+json", **answer)
        else:
            await route.abort()

    await visitor.page.route(pattern, once)


async def test_announcements_are_queued(visitor: Visitor) -> None:
    """Each announcement is a line of its own; only old lines are removed."""
    await visitor.arrive()
    await visitor.page.evaluate(
        """async () => {
            const { announcer } = await import("/static/app/announcer.js");
            const announce = announcer(document.querySelector("#announcer"));
            for (let number = 0; number < 30; number += 1) announce(`line ${number}`);
            announce("line 29");
        }"""
    )
    lines = await said(visitor)
    assert lines[-3:] == ["line 28", "line 29", "line 29"], "the same words may be said again"
    assert len(lines) == 20, "those that were spoken long ago are removed"


async def test_failed_cancel_says_so(waiting: Visitor) -> None:
    """The words stand on the page and in the log, and the button works again."""
    page, pattern = waiting.page, f"**{SESSIONS}/*/cancel"
    button = page.get_by_role("button", name="Cancel", exact=True)
    busy = {"status": 503, "body": json.dumps({"code": "unavailable"})}
    for words, answer in ((NO_ANSWER, {}), (BUSY, busy)):
        await refuse(waiting, pattern, "POST", **answer)
        await button.click()
        await expect(page.locator("#note")).to_have_text(words)
        assert words in await said(waiting)
        await expect(button).to_have_attribute("aria-disabled", "false")
        await page.unroute(pattern)
    assert "Uploading your photo" in await said(waiting), "nothing was overwritten"
    await button.click()
    await waiting.says("Cancelled")
    await expect(page.locator("#note")).to_be_hidden()


@pytest.mark.slow
async def test_failed_delete_says_so(waiting: Visitor) -> None:
    """The words stand at the button, which works again and keeps the focus."""
    page, pattern = waiting.page, f"**{SESSIONS}/*"
    await refuse(waiting, pattern, "DELETE")
    for time in (1, 2):
        await confirm_delete(waiting)
        await expect(page.locator("#erase")).to_have_attribute("aria-disabled", "false")
        await expect(page.locator("#erase-note")).to_have_text(re.compile("^It could not be deleted. No answer came"))
        await expect(page.locator("#erase-note")).to_be_in_viewport()
        assert await page.evaluate("document.activeElement.id") == "erase"
        spoken = [line for line in await said(waiting) if line.startswith("It could not be deleted")]
        assert len(spoken) == time
    await page.unroute(pattern)
    await confirm_delete(waiting)
    await waiting.says("Everything was erased")


@pytest.mark.slow
async def test_lost_answer_to_delete_shows_erased(waiting: Visitor) -> None:
    """The page shows that the session was deleted, although no receipt came."""
    page = waiting.page

    async def lose(route: Route) -> None:
        if route.request.method != "DELETE":
            await route.fallback()
            return
        await route.fetch()
        await page.wait_for_function("() => document.querySelector('#chip-text').textContent === 'Finished'")
        await route.abort()

    await page.route(f"**{SESSIONS}/*", lose)
    await confirm_delete(waiting)
    await waiting.says(re.compile("was deleted"))
