"""The page at /api/docs that shows both documents."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx
import pytest

from server.web.docs.asyncapi import asyncapi
from server.web.docs.openapi import DOCUMENTED
from tryon.protocol import errors, paths
from tryon.protocol.close_codes import CLOSE_CODES

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from testkit.fixtures import StartStack


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
