"""The operator's page in a real Chromium: signing in, live sessions, keys."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Page, expect

from server.config.settings import Config
from testkit.running import Web, running_web
from tests.browser.test_page_states import AXE, AXE_RUN
from tests.browser.visitor import DONE_MS

pytestmark = pytest.mark.xdist_group("chromium")

ADA: Final = "ada-0123456789abcdefghijkl"
BEN: Final = "ben-0123456789abcdefghijkl"
SCREENS: Final[dict[str, dict[str, Any]]] = {
    "light": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "tablet": {"viewport": {"width": 900, "height": 1100}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 360, "height": 780}, "color_scheme": "dark", "is_mobile": True, "has_touch": True},
}
WIDER: Final = "document.documentElement.scrollWidth > innerWidth"
REFUSED: Final = re.compile(r"status of 40[14] \((Unauthorized|Not Found)\)|Password forms should have")
"""Complaints about the form to sign in, and about the search for an unknown id."""
OFFLINE: Final = re.compile(f"{REFUSED.pattern}|ERR_INTERNET_DISCONNECTED")
"""The same, and about each try to connect without a network."""


@pytest.fixture
async def web(config: Callable[..., Config]) -> AsyncIterator[Web]:
    async with running_web(config(ops_tokens=(ADA, BEN), lease_seconds=60)) as running:
        yield running


@contextlib.asynccontextmanager
async def operating(
    browser: Browser, web: Web, token: str = ADA, *, expected: re.Pattern[str] = REFUSED, **options: Any
) -> AsyncIterator[Page]:
    """Open an operator's page; an unexpected complaint of the browser is a failure."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        await page.goto(f"http://127.0.0.1:{web.port}/ops")
        await page.get_by_label("Operator’s token").fill(token)
        await page.keyboard.press("Enter")
        await expect(page.locator("#chip")).to_have_text("Live", timeout=DONE_MS)
        yield page
    finally:
        await context.close()
    assert [text for text in complaints if not expected.search(text)] == []


async def sample(web: Web) -> dict[str, str]:
    """Make a session in every state; return their ids."""
    claims = web.services.sessions.claims
    waiting, _ = await web.submit()
    running, _ = await web.submit()
    await web.begin(running, worker="worker-host:4711:ab")
    completed, _ = await web.submit()
    await web.complete(await web.begin(completed))
    failed, _ = await web.submit()
    assert await claims.fail(await web.begin(failed), "processor_error")
    return {"created": waiting.id, "processing": running.id, "completed": completed.id, "failed": failed.id}


def row(page: Page, session_id: str) -> Any:
    return page.locator("tr.session").filter(has=page.locator(f'button[title="{session_id}"]'))


async def test_sessions_appear_and_change_by_push(chromium: Browser, web: Web) -> None:
    """Without a reload, and with the time of each phase."""
    async with operating(chromium, web) as page:
        await expect(page.locator("#empty")).to_be_visible()
        session, token = await web.submit()
        line = row(page, session.id)
        await expect(line.locator(".pill")).to_have_text("waiting", timeout=DONE_MS)
        claim = await web.begin(session)
        await expect(line.locator(".pill")).to_have_text("running", timeout=DONE_MS)
        await expect(line.locator(".told")).to_have_text(re.compile(r"waited .*, runs "))
        await web.complete(claim)
        await expect(line.locator(".pill")).to_have_text("completed", timeout=DONE_MS)
        await web.client.delete(f"/api/tryon/sessions/{session.id}", headers={"Authorization": f"Bearer {token}"})
        await expect(line).to_have_count(0, timeout=DONE_MS)


async def test_actions_work_by_keyboard_and_ask_first(chromium: Browser, web: Web) -> None:
    """Escape changes nothing; another operator sees what was done."""
    ids = await sample(web)
    async with operating(chromium, web) as page, operating(chromium, web, BEN) as other:
        button = row(page, ids["created"]).get_by_role("button", name=re.compile("^Cancel session"))
        await button.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#confirm")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator("#confirm")).to_be_hidden()
        assert (await web.database.operator_actions.newest(1)) == []
        await expect(button).to_be_focused()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator("#said")).to_contain_text("cancelled", timeout=DONE_MS)
        for each in (page, other):
            await expect(row(each, ids["created"]).locator(".pill")).to_have_text("cancelled", timeout=DONE_MS)
            await expect(each.locator("#actions tbody tr").first).to_contain_text("cancel", timeout=DONE_MS)


async def test_failed_session_is_retried_and_erased(chromium: Browser, web: Web) -> None:
    """The retry appears as a session of its own; the erasure takes both."""
    ids = await sample(web)
    async with operating(chromium, web) as page:
        await page.locator('.filter[data-filter="failed"]').click()
        await expect(page.locator("tr.session:visible")).to_have_count(1)
        line = row(page, ids["failed"])
        await line.get_by_role("button", name=re.compile("^Re-drive")).click()
        await page.locator("#confirm-yes").click()
        await expect(page.locator("#said")).to_contain_text("retried by", timeout=DONE_MS)
        await page.locator('.filter[data-filter="all"]').click()
        await expect(page.locator("tr.session:visible")).to_have_count(5, timeout=DONE_MS)
        await line.get_by_role("button", name=re.compile("^Erase")).click()
        await page.locator("#confirm-yes").click()
        await expect(page.locator("tr.session:visible")).to_have_count(3, timeout=DONE_MS)


async def test_search_finds_by_id_and_refusals_are_said(chromium: Browser, web: Web) -> None:
    """Details open by a button, and name the whole id."""
    ids = await sample(web)
    async with operating(chromium, web) as page:
        await page.get_by_role("searchbox").fill(ids["completed"])
        await expect(page.locator("tr.session:visible")).to_have_count(1)
        await row(page, ids["completed"]).locator(".id").click()
        await expect(page.locator("tr.details:visible")).to_contain_text(ids["completed"])
        await page.get_by_role("searchbox").fill("0190a000-0000-7000-8000-000000000000")
        await page.keyboard.press("Enter")
        await expect(page.locator("#said")).to_have_text("No living session has this id.")


async def test_hostile_texts_stay_texts(chromium: Browser, web: Web) -> None:
    """A processor's name, stage, code and a request id are shown as they are."""
    markup = "<img src=x onerror=alert(1)>"
    session, _ = await web.submit()
    await web.begin(session, worker=f"{markup}:1:ab")
    async with operating(chromium, web) as page:
        await expect(page.locator("#workers")).to_contain_text("<img src=x", timeout=DONE_MS)
        assert await page.locator("img").count() == 0


async def test_page_says_when_it_is_not_live(chromium: Browser, web: Web) -> None:
    """It connects again by itself, and asks to sign in when that is over."""
    async with operating(chromium, web, expected=OFFLINE) as page:
        await page.context.set_offline(True)
        await page.evaluate("document.title = 'the same page'")
        web.hub.draining = True
        await expect(page.locator("#chip")).to_have_text("Reconnecting", timeout=DONE_MS)
        web.hub.draining = False
        await page.context.set_offline(False)
        await expect(page.locator("#chip")).to_have_text("Live", timeout=DONE_MS)
        assert await page.title() == "the same page"
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Operator’s token")).to_be_visible()


@pytest.mark.parametrize("screen", list(SCREENS))
async def test_page_is_accessible(chromium: Browser, web: Web, screen: str) -> None:
    """Axe finds nothing, with details, a dialog, and the form; nothing is too wide."""
    ids = await sample(web)
    async with operating(chromium, web, **SCREENS[screen]) as page:
        await expect(page.locator("tr.session:visible")).to_have_count(4, timeout=DONE_MS)
        await row(page, ids["failed"]).locator(".id").click()
        await page.evaluate(AXE)
        assert await page.evaluate(AXE_RUN) == []
        assert not await page.evaluate(WIDER)
        await row(page, ids["failed"]).get_by_role("button", name=re.compile("^Erase")).click()
        assert await page.evaluate(AXE_RUN) == []
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Operator’s token")).to_be_visible()
        await page.get_by_label("Operator’s token").fill("wrong-0123456789abcdefghijk")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("This is no operator's token.")
        await page.evaluate(AXE)
        assert await page.evaluate(AXE_RUN) == []
        assert not await page.evaluate(WIDER)
