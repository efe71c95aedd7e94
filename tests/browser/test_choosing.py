"""Pictures that come late, and those that are too many or too large."""

from __future__ import annotations

from typing import Final

import pytest
from playwright.async_api import Route, expect

from tests.browser.test_moments import DESCRIBED
from tests.browser.visitor import Visitor
from tryon.protocol.paths import LIMITS, PROCESSOR

pytestmark = pytest.mark.xdist_group("chromium")

HOLD: Final = """
() => {
  const { decode } = HTMLImageElement.prototype;
  window.held = new Promise((called) => {
    HTMLImageElement.prototype.decode = function () {
      HTMLImageElement.prototype.decode = decode;
      called();
      return new Promise((resolve, reject) => (window.release = (readable) => (readable ? resolve : reject)()));
    };
  });
}
"""
"""Holds the check of the next picture up; ``held`` resolves then."""
RELEASE: Final = "(readable) => { release(readable); return new Promise((passed) => setTimeout(passed)); }"


async def test_late_check_changes_nothing_newer(visitor: Visitor) -> None:
    """A picture that was chosen later stays; a refusal leaves another moment alone."""
    page = visitor.page
    picture = page.get_by_alt_text("Chosen: your photo")
    await visitor.arrive()
    await page.evaluate(HOLD)
    await visitor.choose("photo.jpg")
    await page.evaluate("window.held")
    await visitor.choose("garment.png")
    await expect(picture).to_be_visible()
    newer = await picture.get_attribute("src")
    await page.evaluate(RELEASE, True)
    await expect(page.locator("#go")).to_have_text("Try it on")
    assert await picture.get_attribute("src") == newer

    await page.evaluate(HOLD)
    await visitor.choose("photo.jpg")
    await page.evaluate("window.held")
    await page.evaluate("location.hash = 'session=none'")
    await expect(page.locator("body")).to_have_attribute("data-phase", "gone")
    await page.evaluate(RELEASE, False)
    await expect(page.locator("body")).to_have_attribute("data-phase", "gone")
    await expect(page.locator("#notice")).to_be_hidden()


async def test_upload_is_checked_before_sending(visitor: Visitor) -> None:
    """Options that do not fit are pointed at; pictures may be too much together."""
    page = visitor.page

    async def describe(route: Route) -> None:
        await route.fulfill(json=DESCRIBED)

    async def limit(route: Route) -> None:
        answer = await route.fetch()
        await route.fulfill(response=answer, json={**await answer.json(), "max_body_bytes": 1000})

    await page.route(f"**{PROCESSOR}", describe)
    await page.route(f"**{LIMITS}", limit)
    await visitor.arrive()
    await visitor.choose("photo.jpg")
    await visitor.choose("garment.png", "#garment-input")
    await page.get_by_text("Options").click()
    await page.get_by_label("Steps").fill("0")
    await page.get_by_text("Options").click()
    await visitor.go()
    await expect(page.locator("#param-steps")).to_be_focused()
    await page.get_by_label("Steps").fill("2")
    await visitor.go()
    await expect(page.get_by_role("alert")).to_contain_text("The pictures are too large together")
    assert visitor.uploads == []
