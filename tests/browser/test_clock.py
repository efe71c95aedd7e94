"""static/tryon.js and the demo page on a device whose clock is set, or stands still."""

from __future__ import annotations

import re
import time
from typing import Final

import pytest
from playwright.async_api import Page, expect

from server.web.transports.wire import WireSocket
from testkit.fixtures import StartStack
from testkit.running import until
from tests.browser.play import Start
from tests.browser.visitor import DONE_MS, Visitor

pytestmark = pytest.mark.xdist_group("chromium")

HOUR_MS: Final = 3_600_000

SET: Final = """
(ms) => {
  const Real = Date;
  window.Date = class extends Real {
    constructor(...given) { super(...(given.length ? given : [Real.now() + ms])); }
    static now() { return Real.now() + ms; }
  };
}
"""

STAND_STILL: Final = """
() => {
  const [clock, wall] = [performance.now(), Date.now()];
  performance.now = () => clock;
  Date.now = () => wall;
}
"""
"""Clocks of a frozen tab: no time has passed by them when it thaws."""

SHOWN: Final = """
async () => {
  const shown = [[], []];
  for (let n = 0; n < 20; n += 1) {
    await new Promise((tell) => setTimeout(tell, 50));
    shown[0].push(document.querySelector("#meta-time").textContent);
    shown[1].push(document.querySelector("#keeps").textContent);
  }
  return shown.map((texts) => [...new Set(texts)]);
}
"""
"""The times that the page shows within a second; it shows them anew every 250 ms."""


async def set_clock(page: Page, ms: int) -> None:
    """Move the clock of the device by this many milliseconds."""
    await page.evaluate(SET, ms)


@pytest.mark.slow
@pytest.mark.parametrize("ping_seconds", [0.2])
@pytest.mark.parametrize("ms", [-HOUR_MS, HOUR_MS], ids=["back", "forward"])
async def test_silent_connection_ends_when_clock_is_set(start: Start, monkeypatch: pytest.MonkeyPatch, ms: int) -> None:
    """A sync was sent before; the next one does not wait for its time to come again."""
    monkeypatch.setattr(WireSocket, "overdue", lambda wire: None)  # the server does not notice
    play = await start()
    await play.follow()
    await play.on("ws")
    await play.page.evaluate("look('visible')")
    await until(lambda: play.said)  # a busy page may ask twice
    play.gate.swallow()  # nor does a ping say the time again
    await set_clock(play.page, ms)
    now, offset = await play.page.evaluate("[following.now(), following.clockOffset]")
    assert abs(now - 1000 * time.time()) < HOUR_MS / 2
    assert abs(offset + ms) < HOUR_MS / 2
    await play.begin()
    await play.knows(2)
    await play.complete()
    await play.ends_whole()


async def test_woken_stream_reopens_when_clock_goes_back(start: Start) -> None:
    """It was silent for long by the clock that cannot be set."""
    play = await start()
    await play.page.clock.install()
    await play.follow(transports=["sse"])
    await play.on("sse")
    play.gate.swallow()
    await play.page.clock.run_for(6000)
    await set_clock(play.page, -HOUR_MS)
    await play.begin()
    await play.page.evaluate("look('visible')")
    await play.knows(2)
    await play.complete()
    await play.ends_whole()


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["ws", "sse", "long-poll"])
async def test_thawed_tab_catches_up_when_clock_stopped(start: Start, transport: str) -> None:
    """Its connection is dead, and it cannot tell by the time that it was frozen.

    The event alone: Chromium freezes no page that it takes for visible, as here.
    """
    play = await start()
    await play.follow(transports=[transport])
    await play.on(transport)
    await play.page.evaluate(STAND_STILL)
    play.gate.swallow()
    await play.begin()
    await play.page.evaluate("document.dispatchEvent(new Event('resume'))")
    await play.knows(2)
    await play.complete()
    await play.ends_whole()


@pytest.mark.slow
@pytest.mark.parametrize("ms", [-HOUR_MS, HOUR_MS], ids=["back", "forward"])
async def test_page_keeps_times_when_clock_is_set(elsewhere: Visitor, stack: StartStack, ms: int) -> None:
    """The time to the end and to the erasure follow the server."""
    started = await stack(
        TRYON_MOCK_SECONDS="40", TRYON_DRAIN_SECONDS="0", TRYON_PING_SECONDS="1", TRYON_RETENTION_SECONDS="7000"
    )
    elsewhere.url = started.url
    page = elsewhere.page
    await elsewhere.arrive()
    await elsewhere.try_on()
    await expect(page.locator("#meta-time")).to_have_text(re.compile("about .* s left"), timeout=DONE_MS)
    await set_clock(page, ms)
    times, keeps = await page.evaluate(SHOWN)
    assert all(re.fullmatch(r"about \d+ s left", text) for text in times), times
    assert all("in 1 hour 5" in text for text in keeps), keeps
