"""Visitors of the demo page, and pages that follow with tryon.js."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, expect

from server.config.settings import Config
from testkit.fixtures import StartStack
from testkit.nginx import Nginx, running_nginx
from testkit.running import Web, running_web
from testkit.stack import Stack
from tests.browser.gate import open_gate
from tests.browser.play import SPY, Play, Start, open_page
from tests.browser.tabs import OpenTab, tab_opener
from tests.browser.visitor import DONE_MS, Visitor, open_visitor

expect.set_options(timeout=DONE_MS)  # a busy machine may need more than Playwright's five seconds


@pytest.fixture(scope="module")
async def product(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Start one stack for the tests that need no settings of their own."""
    started = await Stack.open(
        tmp_path_factory.mktemp("demo"),
        "up",
        env={
            "TRYON_PORT": "0",
            "TRYON_MOCK_SECONDS": "0.7",
            "TRYON_MOCK_FAILURE_RATE": "0",
            "TRYON_UPLOAD_RATE": "off",
        },
    )
    try:
        yield await started.ready()
    finally:
        await started.close()
        print(f"--- output of {started!r}\n{started.output}")


@pytest.fixture
async def visitor(chromium: Browser, product: Stack, photos: Path) -> AsyncIterator[Visitor]:
    async for someone in open_visitor(chromium, product.url, photos):
        yield someone


@pytest.fixture
async def elsewhere(chromium: Browser, stack: StartStack, photos: Path) -> AsyncIterator[Visitor]:
    """Open a visitor for a stack that the test starts itself: set ``url``.

    It leaves before the stack stops.
    """
    async for someone in open_visitor(chromium, "", photos):
        yield someone


@pytest.fixture
async def unhurried(elsewhere: Visitor, stack: StartStack) -> Visitor:
    """Open a visitor whose sessions last: a busy browser sees them before their end."""
    elsewhere.url = (await stack(TRYON_MOCK_SECONDS="4")).url
    return elsewhere


@pytest.fixture
async def context(chromium: Browser) -> AsyncIterator[BrowserContext]:
    # The pages here are made up, so Chromium takes them for public ones, which may not
    # simply ask a local server.
    made = await chromium.new_context(permissions=["local-network-access"])
    await made.add_init_script(SPY)
    yield made
    await made.close()


@pytest.fixture
def ping_seconds() -> float:
    return 25


@pytest.fixture
async def web(config: Callable[..., Config], ping_seconds: float) -> AsyncIterator[Web]:
    async with running_web(config(ping_seconds=ping_seconds, lease_seconds=60)) as running:
        yield running


@pytest.fixture
async def start(context: BrowserContext, web: Web) -> AsyncIterator[Start]:
    """Make a session with its page behind a gate."""
    async with open_gate(web.port) as gate:

        async def begin() -> Play:
            session, token = await web.submit()
            noted: dict[str, Any] = {"requests": [], "said": []}
            page = await open_page(context, gate.url, noted)
            return Play(page, gate, web.services, session, token, **noted)

        yield begin


@pytest.fixture
async def nginx(web: Web, tmp_path: Path) -> AsyncIterator[Nginx]:
    async with running_nginx(web.port, tmp_path / "nginx") as running:
        yield running


@pytest.fixture
async def open_tab(context: BrowserContext, web: Web, nginx: Nginx) -> OpenTab:
    """Open a tab that follows a new session through nginx."""
    return tab_opener(context, web, nginx)
