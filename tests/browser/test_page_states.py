"""The demo page in every state: accessible, steady, and usable on small screens.

The states are made up by testkit/page_states.py; nothing here needs a server.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import cv2
import numpy as np
import pytest
from playwright.async_api import Browser

from testkit.page_states import STATES, Scene

pytestmark = pytest.mark.xdist_group("chromium")

AXE: Final = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text()
AXE_RUN: Final = """
async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`));
}
"""

MOST_SHIFT: Final = 0.05
"""Cumulative layout shift, without what follows an input within half a second."""
SHIFTS: Final = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const { value, hadRecentInput, sources } of list.getEntries()) {
    if (!hadRecentInput) shifts.push({ value, nodes: sources.map(({ node }) => node?.id || node?.className || node?.nodeName) });
  }
}).observe({ type: "layout-shift", buffered: true });
"""

LEAST_TARGET: Final = 24
"""Pixels a side (WCAG 2.2, 2.5.8); links within a sentence are excepted."""
TARGETS: Final = """
(least) => [...document.querySelectorAll("a[href], button, input, select, summary, [role=tab], [role=switch]")]
  .map((element) => (element.matches("input.unseen") ? element.closest("label") : element))
  .filter((element) => element.checkVisibility({ opacityProperty: true }) && !element.matches("p a, p span a, .compare-range"))
  .map((element) => ({ element, box: element.getBoundingClientRect() }))
  .filter(({ box }) => box.width > 0 && (box.width < least || box.height < least))
  .map(({ element, box }) => `${element.id || element.className || element.outerHTML}: ${box.width} x ${box.height}`)
"""
WIDE: Final = """
() => document.scrollingElement.scrollWidth <= innerWidth ? [] :
  [...document.querySelectorAll("body *")].filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
    .map((each) => `${each.id || each.className || each.nodeName}: ${each.getBoundingClientRect().right}`)
"""
MOVING: Final = "() => document.getAnimations().map((each) => each.animationName ?? each.transitionProperty)"

QUICK: Final = ("choose", "working", "result", "receipt", "behind the scenes")
"""States that every run checks; the others are part of ``./test --all``."""


@contextlib.asynccontextmanager
async def staged(browser: Browser, name: str, **context: Any) -> AsyncIterator[Scene]:
    """Open the page in this state."""
    profile = await browser.new_context(**context)
    try:
        page = await profile.new_page()
        await page.add_init_script(SHIFTS)
        scene = Scene(page)
        await scene.open()
        await STATES[name](scene)
        await scene.settled()
        yield scene
    finally:
        await profile.close()


async def violations(scene: Scene) -> list[str]:
    await scene.page.evaluate(AXE)
    found: list[str] = await scene.page.evaluate(AXE_RUN)
    return found


async def look(browser: Browser, name: str, *, scheme: str = "light", phone: bool = False) -> None:
    """Expect that the state keeps every rule on this device."""
    width, height = (390, 844) if phone else (1280, 800)
    async with staged(browser, name, viewport={"width": width, "height": height}, color_scheme=scheme) as scene:
        shifts = await scene.page.evaluate("shifts")
        assert sum(each["value"] for each in shifts) <= MOST_SHIFT, json.dumps(shifts)
        assert await scene.page.evaluate(TARGETS, LEAST_TARGET) == []
        assert await scene.page.evaluate(WIDE) == []
        assert await violations(scene) == []


@pytest.mark.parametrize("name", QUICK)
async def test_state_keeps_the_rules(chromium: Browser, name: str) -> None:
    """Nothing that axe finds, no layout shift, no small target, no sideways scroll."""
    await look(chromium, name)


async def test_shared_link_is_read_from_its_code(chromium: Browser) -> None:
    """In dark colours too, where a code has to stay black on white."""
    async with staged(chromium, "share", color_scheme="dark") as scene:
        shot = await scene.page.locator("#share-dialog svg").screenshot()
        link = await scene.page.locator(".share-link").input_value()
    picture = cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    assert cv2.QRCodeDetectorAruco().detectAndDecode(picture)[0] == link


@pytest.mark.slow
@pytest.mark.parametrize("device", ["light phone", "dark desktop"])
@pytest.mark.parametrize("name", list(STATES))
async def test_state_keeps_the_rules_everywhere(chromium: Browser, name: str, device: str) -> None:
    """The same on a phone, and in the dark."""
    await look(chromium, name, scheme=device.split(maxsplit=1)[0], phone="phone" in device)


VISIBLE: Final = """
() => {
  const style = (selector, pseudo) => getComputedStyle(document.querySelector(selector), pseudo);
  const seen = (selector) => document.querySelector(selector)?.checkVisibility();
  const lost = [];
  if (seen("#bar") && style(".bar-fill").backgroundColor === style("#bar").backgroundColor) lost.push("bar");
  for (const button of document.querySelectorAll("button, a.button")) {
    if (!button.checkVisibility() || button.matches(".plain, .link")) continue;
    const { borderTopWidth, borderTopStyle } = getComputedStyle(button);
    if (borderTopWidth === "0px" || borderTopStyle === "none") lost.push(button.id || button.className);
  }
  return lost;
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(STATES))
async def test_state_keeps_to_what_a_reader_has_set(chromium: Browser, name: str) -> None:
    """Forced colours lose no control, nothing moves that should not, and it all fits.

    320 pixels wide, and 1280 x 720 at a zoom of 200 %.
    """
    small = {"width": 320, "height": 640}
    async with staged(chromium, name, viewport=small, forced_colors="active", reduced_motion="reduce") as scene:
        assert await scene.page.evaluate(VISIBLE) == []
        assert await scene.page.evaluate(MOVING) == []
        assert await scene.page.evaluate(WIDE) == []
        await scene.page.set_viewport_size({"width": 640, "height": 360})
        assert await scene.page.evaluate(WIDE) == []
