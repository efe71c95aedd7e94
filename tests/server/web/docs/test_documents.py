"""The page at /api/docs that shows both documents."""

from __future__ import annotations

import importlib.resources
import re
from typing import TYPE_CHECKING, Final

import httpx
import pytest

from server.web.docs.asyncapi import asyncapi
from server.web.docs.openapi import DOCUMENTED
from tryon.protocol import errors, paths
from tryon.protocol.close_codes import CLOSE_CODES

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from testkit.fixtures import StartStack

AXE: Final = """
async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`));
}
"""
BYTES_SENT: Final = """
() => performance.getEntriesByType("resource").filter(({ name }) => name.includes("/static/")).map((each) => each.transferSize)
"""
FOLLOWS_SCHEME: Final = """
(scheme) => document.documentElement.classList.contains("dark-mode") === (scheme === "dark")
"""
PAPER: Final = {"light": "rgb(250, 249, 246)", "dark": "rgb(19, 21, 20)"}
"""The page's ground by colour scheme."""


@pytest.mark.xdist_group("chromium")
async def test_docs_page_shows_everything_offline(stack: StartStack, chromium: Browser) -> None:
    """Operations, frames, close codes and error codes, without another server."""
    running = await stack()
    context = await chromium.new_context(viewport={"width": 1200, "height": 1000})
    page = await context.new_page()
    trouble: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    try:
        await page.goto(f"{running.url}{paths.DOCS}")
        await page.wait_for_selector("html[data-ready]")
        assert await page.locator("#http .opblock").count() == len(DOCUMENTED)
        await page.click("#operations-sessions-submit .opblock-summary-control")
        await page.wait_for_selector("#operations-sessions-submit .responses-table")
        for frame in asyncapi()["components"]["messages"]:
            assert await page.locator(f"#frame-{frame}").count() == 1, frame
        codes = await page.inner_text("#close-codes")
        assert all(str(row.code) in codes for row in CLOSE_CODES)
        named = await page.inner_text("#error-codes")
        assert all(code in named for code in (*errors.CODES, *errors.FAILURES))
    finally:
        await context.close()
    assert trouble == []
    assert {url for url in asked if not url.startswith((f"{running.url}/", "data:"))} == set()


async def test_docs_page_runs_only_own_scripts(stack: StartStack) -> None:
    """The policy allows scripts of this server only, and the page has no inline one."""
    async with httpx.AsyncClient(base_url=(await stack()).url, timeout=10) as http:
        page = await http.get(paths.DOCS)
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert re.fullmatch(r"'self' 'sha256-[\w+/]{43}='", policy["script-src"])
    assert policy["default-src"] == "'none'"
    assert not re.search(r"<script(?![^>]*(\bsrc=|importmap))|\bon\w+=", page.text), "an inline script"


@pytest.mark.slow
@pytest.mark.xdist_group("chromium")
async def test_docs_page_lets_a_socket_be_tried(stack: StartStack, chromium: Browser) -> None:
    """Axe finds nothing in either colour scheme; a second visit loads no file again."""
    axe = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text()
    running = await stack(TRYON_MOCK_SECONDS="2")
    context = await chromium.new_context(viewport={"width": 1200, "height": 1000}, color_scheme="dark")
    try:
        page = await context.new_page()
        await page.goto(f"{running.url}{paths.DOCS}")
        await page.wait_for_selector("html[data-ready]")
        await page.get_by_role("button", name="Start a session and follow it").click()
        frames = page.locator("#frames")
        await frames.get_by_text('"snapshot"').wait_for()
        await page.get_by_role("button", name="Send", exact=True).click()
        await frames.get_by_text('"pong"').wait_for()
        await page.get_by_text("Closed: 1000, completed.").wait_for()
        await page.click("#operations-sessions-submit .opblock-summary-control")
        await page.wait_for_selector("#operations-sessions-submit .responses-table")
        await page.evaluate(axe)
        problems: list[str] = []
        for scheme in ("dark", "light"):
            await page.emulate_media(color_scheme=scheme)
            assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == PAPER[scheme]
            await page.wait_for_function(FOLLOWS_SCHEME, arg=scheme)  # a frame later
            await page.evaluate(
                "document.getAnimations().forEach((each) => each instanceof CSSTransition && each.finish())"
            )
            found = await page.evaluate(AXE)
            problems += [f"{scheme}: {each}" for each in found]
        assert problems == []
        again = await context.new_page()
        await again.goto(f"{running.url}{paths.DOCS}")
        await again.wait_for_selector("html[data-ready]")
        assert set(await again.evaluate(BYTES_SENT)) == {0}
    finally:
        await context.close()
