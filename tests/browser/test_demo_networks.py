"""The demo page on bad networks, and when its session is erased meanwhile."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import WebSocketRoute, expect

if TYPE_CHECKING:
    from testkit.fixtures import StartStack


from tests.browser.visitor import DONE_MS, SOCKET, STREAM, Visitor

pytestmark = pytest.mark.xdist_group("chromium")


# --- bad networks ---------------------------------------------------------------------


async def refuse(socket: WebSocketRoute) -> None:
    await socket.close(code=4053)


async def test_page_is_live_without_sockets(unhurried: Visitor) -> None:
    """Server-Sent Events take over."""
    await unhurried.page.route_web_socket(SOCKET, refuse)
    await unhurried.arrive()
    await unhurried.try_on()
    await unhurried.sees_result()
    seen = await unhurried.seen()
    assert [state for state in seen["chip"] if state != "Connecting"] == ["Live", "Finished"]
    assert [request for request in unhurried.requests if urlsplit(request.url).path.endswith("/events")]


@pytest.mark.slow
async def test_chip_says_polling_without_push(elsewhere: Visitor, stack: StartStack) -> None:
    """The result comes all the same."""
    elsewhere.expected.append("503")
    elsewhere.url = (await stack(TRYON_MOCK_SECONDS="30", TRYON_DRAIN_SECONDS="0")).url
    await elsewhere.page.route_web_socket(SOCKET, refuse)
    await elsewhere.page.route(STREAM, lambda route: route.fulfill(status=503))
    await elsewhere.arrive()
    await elsewhere.try_on()
    await expect(elsewhere.page.locator("#chip-text")).to_have_text("Polling", timeout=DONE_MS)
    await expect(elsewhere.page.locator("body")).to_have_attribute("data-status", "processing", timeout=DONE_MS)
    await expect(elsewhere.page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile("^[1-9]"))


@pytest.mark.slow
async def test_silent_socket_is_given_up(visitor: Visitor) -> None:
    """A socket without a snapshot is replaced in time."""

    async def say_nothing(socket: WebSocketRoute) -> None:
        socket.on_message(lambda _: None)

    await visitor.page.route_web_socket(SOCKET, say_nothing)
    await visitor.arrive()
    await visitor.try_on()
    await visitor.sees_result()


async def test_page_reconnects_after_dropped_connection(unhurried: Visitor) -> None:
    """The chip says so meanwhile."""
    joins: list[str] = []

    async def cut_the_first(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        joins.append(socket.url)
        first = len(joins) == 1

        async def pass_on(text: str | bytes) -> None:
            socket.send(text)
            if first and json.loads(text)["type"] == "progress":
                await server.close()
                await socket.close(code=4002)

        server.on_message(pass_on)

    await unhurried.page.route_web_socket(SOCKET, cut_the_first)
    await unhurried.arrive()
    await unhurried.try_on()
    await unhurried.sees_result()
    assert len(joins) >= 2
    assert parse_qs(urlsplit(joins[1]).query)["since"] == ["2"], "it resumes from what it has seen"
    seen = await unhurried.seen()
    assert seen["steps"] == ["created", "processing", "completed"], "no step back"
    assert "Reconnecting" in seen["chip"]


async def test_missed_event_is_filled_by_snapshot(visitor: Visitor) -> None:
    """A hole in the seqs makes the page ask."""
    asked: list[Any] = []

    async def lose_one_event(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def up(text: str | bytes) -> None:
            asked.append(json.loads(text))
            server.send(text)

        def down(text: str | bytes) -> None:
            frame = json.loads(text)
            late: list[Any] = []
            if frame["type"] == "snapshot" and not asked:
                frame["session"] |= {"seq": 1, "status": "created", "terminal": False}  # a joiner before the start
                late = frame["missed"][2:]  # on a busy machine the session may have ended before
                frame["missed"] = frame["missed"][:1]
            if (frame["type"], frame.get("event")) != ("event", "processing"):
                socket.send(json.dumps(frame))
            for event in late:
                socket.send(json.dumps({"type": "event", **event}))

        socket.on_message(up)
        server.on_message(down)

    await visitor.page.route_web_socket(SOCKET, lose_one_event)
    await visitor.arrive()
    await visitor.try_on()
    await visitor.sees_result()
    assert {"type": "sync", "since": 1} in asked


@pytest.mark.slow
async def test_erased_session_is_shown_as_gone(elsewhere: Visitor, stack: StartStack) -> None:
    """While the page watches it."""
    elsewhere.url = (await stack(TRYON_MOCK_SECONDS="30", TRYON_DRAIN_SECONDS="0", TRYON_RETENTION_SECONDS="2")).url
    await elsewhere.arrive()
    await elsewhere.try_on()
    await elsewhere.says(re.compile("has expired"))
    await expect(elsewhere.page.get_by_role("img", name="Your photo")).to_be_hidden()
