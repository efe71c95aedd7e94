"""static/tryon.js in a page that sleeps, hides or loses its network."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import pytest

from server.web.transports.wire import WireSocket
from testkit.running import until
from tests.browser.play import Play, Start

pytestmark = pytest.mark.xdist_group("chromium")


@contextlib.asynccontextmanager
async def frozen_page(play: Play) -> AsyncIterator[None]:
    """Stop the processes that run the page's scripts, as a sleeping machine does.

    DevTools' own freeze does nothing to a page that Playwright controls, because its
    emulated focus makes the page count as visible. No ``resume`` event follows.
    """
    browser = play.page.context.browser
    assert browser is not None
    devtools = await browser.new_browser_cdp_session()
    processes = (await devtools.send("SystemInfo.getProcessInfo"))["processInfo"]
    renderers = [process["id"] for process in processes if process["type"] == "renderer"]
    await play.page.evaluate(
        """() => {
            let last = performance.now();
            window.longestGap = 0;
            setInterval(() => {
                const now = performance.now();
                window.longestGap = Math.max(window.longestGap, now - last);
                last = now;
            }, 20);
        }"""
    )
    renderers = [renderer for renderer in renderers if send(renderer, signal.SIGSTOP)]
    try:
        yield
        await asyncio.sleep(0.5)  # the sleep itself, which the gap shows
    finally:
        for renderer in renderers:
            send(renderer, signal.SIGCONT)
    assert await play.page.evaluate("new Promise((tell) => setTimeout(() => tell(longestGap), 100))") >= 400


def send(process: int, number: signal.Signals) -> bool:
    """Send a signal; return false if the process has ended, as one of a closed page."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
        return True
    return False


# -- sleep and silence -----------------------------------------------------------------


@pytest.mark.parametrize("ping_seconds", [0.2])
async def test_silent_connection_is_replaced(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two pings that did not come."""
    monkeypatch.setattr(WireSocket, "overdue", lambda wire: None)  # a busy browser answers late
    play = await start()
    await play.follow()
    await play.on("ws")
    play.gate.swallow()
    await play.begin()
    await play.knows(2)  # over another connection, after 2.2 pings and an unanswered sync
    assert {"type": "sync", "since": 1} in play.said
    await play.complete()
    await play.ends_whole()


@pytest.mark.parametrize("event", ["online", "visible", "pageshow", "resume"])
async def test_waking_page_checks_its_socket(start: Start, event: str) -> None:
    """Each event that ends a sleep does it."""
    play = await start()
    await play.follow()
    await play.on("ws")
    wake = {
        "online": "dispatchEvent(new Event('online'))",
        "visible": "look('visible')",
        "pageshow": "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))",
        "resume": "document.dispatchEvent(new Event('resume'))",
    }[event]
    await play.page.evaluate(wake)
    await until(lambda: play.said == [{"type": "sync", "since": 1}])
    await play.begin()
    await play.complete()
    await play.ends_whole()
    assert await play.page.evaluate("spied.sockets.length") == 1


@pytest.mark.parametrize("cut", [False, True])
async def test_frozen_tab_catches_up(start: Start, cut: bool) -> None:
    """With its connection, and without."""
    play = await start()
    await play.follow()
    await play.on("ws")
    async with frozen_page(play):
        await play.begin()
        await play.requeue()
        if cut:
            play.gate.cut()
    await play.knows(3)
    await play.begin()
    await play.complete()
    await play.ends_whole()


async def test_online_event_reconnects_at_once(start: Start) -> None:
    """Offline is reported meanwhile."""
    play = await start()
    await play.page.clock.install()
    await play.follow()
    await play.on("ws")
    await play.page.context.set_offline(True)
    play.gate.cut()
    await play.until("story.connections.at(-1).connection === 'offline'")
    await play.begin()
    await play.page.clock.pause_at(await play.page.evaluate("Date.now() + 1000"))  # no timer helps it from here on
    await play.page.evaluate("() => { window.back = new Promise((tell) => addEventListener('online', tell)); }")
    await play.page.context.set_offline(False)
    await play.page.evaluate("back.then(() => 0)")
    await play.page.clock.run_for(1)
    await play.knows(2)
    await play.page.clock.resume()
    await play.complete()
    await play.ends_whole()


async def test_hidden_page_retries_when_seen(start: Start) -> None:
    """No attempt is made before."""
    play = await start()
    await play.page.clock.install()
    await play.follow()
    await play.on("ws")
    await play.page.evaluate("look('hidden')")
    play.gate.cut()
    await play.until("story.connections.at(-1).connection === 'reconnecting'")
    await play.begin()
    tried, asked = len(play.gate.heads), len(play.requests)
    await play.page.clock.fast_forward(3_600_000)
    assert (len(play.gate.heads), len(play.requests)) == (tried, asked)
    await play.page.evaluate("look('visible')")
    await play.knows(2)
    await play.complete()
    await play.ends_whole()


async def test_hidden_page_stays_connected(start: Start) -> None:
    """Hiding alone changes nothing."""
    play = await start()
    await play.follow()
    await play.on("ws")
    await play.page.evaluate("look('hidden')")
    await play.begin()
    await play.complete()
    await play.ends_whole()
    assert await play.page.evaluate("spied.sockets.length") == 1
