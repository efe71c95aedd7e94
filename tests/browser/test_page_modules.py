"""The demo page's before/after slider in a real Chromium, mounted by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Page, expect

from testkit.page_scene import HOME, Scene

pytestmark = pytest.mark.xdist_group("chromium")

SHOW: Final = """
async () => {
  const { mount } = await import("/static/app/compare.js");
  const [above, frame, below] = ["p", "div", "p"].map((name) => document.body.appendChild(document.createElement(name)));
  Object.assign(frame.style, { position: "relative", width: "300px", height: "400px" });
  frame.id = "frame";
  below.id = "below";
  const [before, after] = ["before", "after"].map((name) => frame.appendChild(new Image()));
  Object.assign(before, { src: "/static/samples/before.webp", alt: "Your photo" });
  Object.assign(after, { src: "/static/samples/after.webp", alt: "The try-on result" });
  await Promise.all([before.decode(), after.decode()]);
  for (const each of [before, after]) each.style = "position: absolute; inset: 0; width: 100%; height: 100%";
  window.said = [];
  mount(frame, { say: (words) => said.push(words) }, { before, after }).begin();
}
"""
SIDE: Final = (
    "() => Number(getComputedStyle(document.querySelector('#frame')).getPropertyValue('--at').replace('%', ''))"
)
VIEW: Final = """
() => {
  const { style } = document.querySelector("#frame");
  return ["--zoom", "--x", "--y"].map((name) => Number(style.getPropertyValue(name).replace("px", "")));
}
"""


@pytest.fixture
async def slider(chromium: Browser) -> AsyncIterator[Page]:
    """Show the slider on a page of its own."""
    context = await chromium.new_context(viewport={"width": 400, "height": 600}, has_touch=True)
    page = await context.new_page()
    await Scene(page).open()
    html = "<!doctype html><title>A page</title><link rel=stylesheet href=/static/app/compare.css><link rel=icon href=data:,>"
    await page.route("**/blank", lambda route: route.fulfill(body=html, content_type="text/html"))
    await page.goto(f"{HOME}/blank")
    await page.evaluate(SHOW)
    yield page
    await context.close()


async def view(page: Page) -> list[float]:
    found: list[float] = await page.evaluate(VIEW)
    return found


async def test_slider_follows_keys_pointer_and_finger(slider: Page) -> None:
    """The line is a slider to the keyboard, and lies under the pointer."""
    line = slider.get_by_role("slider", name="Before and after")
    await expect(line).to_have_attribute("aria-valuetext", "50 % before, 50 % after")
    await line.focus()
    await slider.keyboard.press("ArrowRight")
    await expect(line).to_have_attribute("aria-valuetext", "51 % before, 49 % after")
    await slider.keyboard.press("Home")
    assert await slider.evaluate(SIDE) == 0
    box: Any = await slider.locator("#frame").bounding_box()
    await slider.mouse.move(box["x"] + 10, box["y"] + 100)
    await slider.mouse.down()
    await slider.mouse.move(box["x"] + 225, box["y"] + 120, steps=3)
    await slider.mouse.up()
    assert await slider.evaluate(SIDE) == 75
    await slider.touchscreen.tap(box["x"] + 60, box["y"] + 200)
    assert await slider.evaluate(SIDE) == 20
    for name in ("Your photo", "The try-on result"):
        await expect(slider.get_by_role("img", name=name)).to_be_visible()


async def test_zoom_keeps_point_and_page_in_place(slider: Page) -> None:
    """By button, key, wheel and double click; the frame's size never changes."""
    before = await slider.locator("#below").bounding_box()
    await slider.get_by_role("button", name="Zoom in").click()
    assert (await view(slider))[0] == 1.5
    assert await slider.evaluate("said") == ["Zoomed to 150 %"]
    await slider.get_by_role("button", name="Fit the whole picture").click()
    assert await view(slider) == [1, 0, 0]
    box: Any = await slider.locator("#frame").bounding_box()
    await slider.mouse.dblclick(box["x"] + 60, box["y"] + 80)
    assert await view(slider) == [2.5, -90, -120]
    await slider.mouse.move(box["x"] + 200, box["y"] + 300)
    await slider.mouse.down()
    await slider.mouse.move(box["x"] + 190, box["y"] + 280)
    await slider.mouse.up()
    assert await view(slider) == [2.5, -100, -140], "beside the line the picture moves"
    await slider.keyboard.press("0")
    assert await view(slider) == [1, 0, 0]
    await slider.keyboard.down("Control")
    await slider.mouse.wheel(0, -100)
    await slider.keyboard.up("Control")
    await slider.wait_for_function("() => document.querySelector('#frame').dataset.zoomed === 'true'")
    assert await slider.locator("#below").bounding_box() == before
