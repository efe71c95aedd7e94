"""The demo page in every state: accessible, steady, and usable on small screens.

The states are made up by testkit/page_states.py; nothing here needs a server. The rules
are in page_rules.js.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pytest
from playwright.async_api import Browser, Page, expect

from testkit.page_scene import Scene
from testkit.page_states import STATES
from testkit.page_views import event, progress, session

pytestmark = pytest.mark.xdist_group("chromium")

RULES: Final = Path(__file__).with_name("page_rules.js").read_text()
AXE: Final = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text()
AXE_RUN: Final = """
async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`));
}
"""
FINISH_TRANSITIONS: Final = "document.getAnimations().forEach((each) => each instanceof CSSTransition && each.finish())"

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

PHONE: Final[dict[str, Any]] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP: Final[dict[str, Any]] = {"viewport": {"width": 1280, "height": 800}}
QUICK: Final = ("choose", "working", "result", "receipt", "behind the scenes")
"""States that every run checks; the others are part of ``./test --all``."""


@contextlib.asynccontextmanager
async def opened(browser: Browser, **context: Any) -> AsyncIterator[Scene]:
    """Open a scene that notes layout shifts."""
    profile = await browser.new_context(**context)
    try:
        page = await profile.new_page()
        await page.add_init_script(SHIFTS)
        scene = Scene(page)
        await scene.open()
        yield scene
    finally:
        await profile.close()


@contextlib.asynccontextmanager
async def staged(browser: Browser, name: str, **context: Any) -> AsyncIterator[Scene]:
    """Open the page in this state, with the rules."""
    async with opened(browser, **context) as scene:
        await STATES[name](scene)
        await scene.settled()
        await scene.page.evaluate(RULES)
        yield scene


async def broken(scene: Scene, rule: str, *given: int) -> list[str]:
    """Return what breaks a rule of page_rules.js."""
    found: list[str] = await scene.page.evaluate(f"(given) => rules.{rule}(...given)", given)
    return [f"{rule}: {each}" for each in found]


async def shifted(scene: Scene) -> list[str]:
    """Return the layout shifts, if they are too many."""
    shifts = await scene.page.evaluate("shifts")
    return [json.dumps(shifts)] if sum(each["value"] for each in shifts) > MOST_SHIFT else []


async def faults(scene: Scene, width: int) -> list[str]:
    """Return what is wrong with the page as it is now."""
    await scene.page.evaluate(FINISH_TRANSITIONS)
    found = await shifted(scene)
    found += await scene.page.evaluate(AXE_RUN)
    for rule, given in {
        "targets": (),
        "contrasts": (),
        "wide": (width,),
        "cut": (width,),
        "covered": (),
        "focus": (),
    }.items():
        if rule == "focus":
            await scene.page.keyboard.press("Shift")  # from now on, focus shows
        found += await broken(scene, rule, *given)
    return found


@pytest.mark.parametrize("name", QUICK)
async def test_state_keeps_the_rules(chromium: Browser, name: str) -> None:
    """Axe finds nothing; contrast, targets and focus are kept, and nothing shifts."""
    async with staged(chromium, name, **DESKTOP) as scene:
        await scene.page.evaluate(AXE)
        assert await faults(scene, DESKTOP["viewport"]["width"]) == []


@pytest.mark.slow
@pytest.mark.parametrize("device", ["phone", "desktop"])
@pytest.mark.parametrize("name", list(STATES))
async def test_state_keeps_the_rules_everywhere(chromium: Browser, name: str, device: str) -> None:
    """The same in all states, on a phone too, light and dark."""
    context = PHONE if device == "phone" else DESKTOP
    async with staged(chromium, name, **context) as scene:
        await scene.page.evaluate(AXE)
        found = {}
        for scheme in ("light", "dark"):
            await scene.page.emulate_media(color_scheme=scheme)
            found[scheme] = await faults(scene, context["viewport"]["width"])
        assert found == {"light": [], "dark": []}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(STATES))
async def test_state_keeps_the_readers_settings(chromium: Browser, name: str) -> None:
    """Forced colours lose no control, nothing moves that should not, and it all fits.

    320 pixels wide, and 1280 x 800 at a zoom of 200 %.
    """
    small = {"width": 320, "height": 640}
    async with staged(chromium, name, viewport=small, forced_colors="active", reduced_motion="reduce") as scene:
        found = []
        for rule, given in {"unlined": (), "contrasts": (), "moving": (), "wide": (320,), "cut": (320,)}.items():
            found += await broken(scene, rule, *given)
        zoomed = {"width": 640, "height": 400, "deviceScaleFactor": 2, "mobile": False}
        devtools = await scene.page.context.new_cdp_session(scene.page)
        await devtools.send("Emulation.setDeviceMetricsOverride", zoomed)
        assert await scene.page.evaluate("[innerWidth, devicePixelRatio]") == [640, 2]
        for rule in ("wide", "cut"):
            found += await broken(scene, rule, 640)
        assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("device", ["phone", "desktop"])
async def test_run_moves_nothing_under_a_finger(chromium: Browser, device: str) -> None:
    """The page stays from the queue over an interruption to the result."""
    async with opened(chromium, **(PHONE if device == "phone" else DESKTOP)) as scene:
        await scene.follow(session("created"))
        frame = await scene.page.locator("#frame").bounding_box()
        await scene.push(event("started", "processing", seq=2, attempt=1))
        await scene.says("Working on it")
        for part, eta in ((0.2, 4.0), (0.6, 2.0)):
            await scene.push(progress(part, eta=eta))
            await expect(scene.page.locator("#bar")).to_have_attribute("aria-valuenow", str(round(part * 100)))
        await scene.push(event("requeued", "created", seq=3, attempt=1, reason="lease_expired"))
        await scene.says("Interrupted, starting again (2 of 3)")
        await scene.push(event("started", "processing", seq=4, attempt=2))
        done = session("completed")
        await scene.push(
            event("completed", "completed", seq=5, output=done["links"]["output"], outputs=done["outputs"])
        )
        await scene.says("Your result is ready")
        await expect(scene.page.locator(".compare-line")).to_be_visible()
        await scene.settled()
        assert await shifted(scene) == []
        assert await scene.page.locator("#frame").bounding_box() == frame
        assert await scene.page.locator("#result").bounding_box() == frame


@contextlib.asynccontextmanager
async def traced(browser: Browser, page: Page) -> AsyncIterator[list[str]]:
    """Collect the names of what Chromium does for a page.

    Complete once the block is left. The trace is that of the whole browser, with its
    other pages and its own windows.
    """
    devtools = await browser.new_browser_cdp_session()
    tree = await (await page.context.new_cdp_session(page)).send("Page.getFrameTree")
    frame = tree["frameTree"]["frame"]["id"]
    names: list[str] = []
    complete = asyncio.Event()

    def collect(data: dict[str, Any]) -> None:
        for each in data["value"]:
            told = each.get("args", {})
            if frame in (told.get("beginData", {}).get("frame"), told.get("data", {}).get("frame")):
                names.append(each["name"])

    devtools.on("Tracing.dataCollected", collect)
    devtools.on("Tracing.tracingComplete", lambda _: complete.set())
    await devtools.send("Tracing.start", {"traceConfig": {"includedCategories": ["devtools.timeline"]}})
    yield names
    await devtools.send("Tracing.end")
    await complete.wait()
    await devtools.detach()


async def test_progress_frame_moves_the_bar_alone(chromium: Browser) -> None:
    """No layout, nothing painted: the compositor moves what was painted before."""
    async with opened(chromium, **DESKTOP) as scene:
        await scene.follow(session(eta_seconds=600.0))
        await scene.push(progress(0.5))  # without a time to the end, whose words change
        await expect(scene.page.locator("#meta-time")).to_have_text("")
        bar = scene.page.locator("#bar")
        parts = [0.5 + step / 64 for step in range(1, 25)]
        async with traced(chromium, scene.page) as frames:
            for part in parts:
                await scene.push(progress(part))
                await expect(bar).to_have_attribute("data-part", str(part))
        async with traced(chromium, scene.page) as words:
            await scene.push(progress(0.9, "adding_the_shadows"))
            await scene.says("Adding the shadows")
            await scene.page.screenshot()
    work = [name for name in frames if name in ("Layout", "Paint")]
    assert len(work) <= len(parts) / 4, "not with each frame: once, if the chip or the clock has news"
    assert "UpdateLayoutTree" in frames, "they were shown: several at a time on a busy machine"
    assert {"Layout", "Paint"} <= set(words), "other changes are noticed"


async def test_shared_link_is_read_from_its_code(chromium: Browser) -> None:
    """In dark colours too, where a code has to stay black on white."""
    async with staged(chromium, "share", color_scheme="dark") as scene:
        shot = await scene.page.locator("#share-dialog svg").screenshot()
        link = await scene.page.locator(".share-link").input_value()
    picture = cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    assert cv2.QRCodeDetectorAruco().detectAndDecode(picture)[0] == link
