"""My try-ons: the list of this browser's sessions, live while one of them runs."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from playwright.async_api import WebSocket, expect

from tests.browser.visitor import DONE_MS, Visitor

pytestmark = pytest.mark.xdist_group("chromium")


async def test_list_shows_end_of_running_session(unhurried: Visitor) -> None:
    """Over the one connection of all sessions, which is closed after the last end."""
    sockets: list[WebSocket] = []

    def note(socket: WebSocket) -> None:
        sockets.append(socket)

    unhurried.page.on("websocket", note)
    await unhurried.arrive()
    await unhurried.try_on()
    await expect(unhurried.page.locator("body")).to_have_attribute("data-status", "processing", timeout=DONE_MS)
    await unhurried.page.locator("#home").click()
    button = unhurried.page.locator("#mine-list button")
    await expect(button).to_have_attribute("data-status", "processing", timeout=DONE_MS)
    await button.focus()
    await expect(button).to_have_attribute("data-status", "completed", timeout=DONE_MS)
    await expect(button).to_be_focused()
    await expect(button).to_have_accessible_name(re.compile("^Your result is ready"))
    await unhurried.page.wait_for_function("() => document.querySelector('#mine-list img').src.includes('/outputs/')")
    (own, all_of_them) = sockets
    assert urlsplit(own.url).path.startswith("/api/tryon/sessions/")
    assert urlsplit(all_of_them.url).path == "/api/tryon/ws"
    assert own.is_closed() and all_of_them.is_closed()


async def test_list_without_running_session_has_no_connection(visitor: Visitor) -> None:
    """Nothing can change in it."""
    await visitor.arrive()
    await visitor.try_on()
    await visitor.sees_result()
    sockets: list[WebSocket] = []

    def note(socket: WebSocket) -> None:
        sockets.append(socket)

    visitor.page.on("websocket", note)
    await visitor.page.reload()
    await visitor.page.locator("#home").click()
    await expect(visitor.page.locator("#mine-list button")).to_have_attribute(
        "data-status", "completed", timeout=DONE_MS
    )
    await visitor.page.wait_for_load_state("networkidle")
    assert [urlsplit(socket.url).path for socket in sockets if urlsplit(socket.url).path == "/api/tryon/ws"] == []
