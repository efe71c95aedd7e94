"""The demo page for every person: keyboard, screen reader, phone, strict policy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import pytest
from playwright.async_api import expect

from testkit.processes import reserved_port
from testkit.stack import Stack

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from testkit.fixtures import StartStack

from tests.browser.visitor import DONE_MS, Visitor, open_visitor

pytestmark = pytest.mark.xdist_group("chromium")


# --- for everyone ---------------------------------------------------------------------


async def test_keyboard_alone_is_enough(visitor: Visitor) -> None:
    """From the photo to the result."""
    page = visitor.page
    page.on("filechooser", lambda _: None)  # the browser hands choosers over from here on, not only as Enter is pressed
    await visitor.arrive()

    async def tab_to(element_id: str) -> None:
        for _ in range(12):
            if await page.evaluate("document.activeElement.id") == element_id:
                return
            await page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to {element_id}")

    await tab_to("photo-input")
    outline = await page.evaluate("getComputedStyle(document.querySelector('#photo-zone')).outlineStyle")
    assert outline == "solid", "the focus can be seen"
    async with page.expect_file_chooser() as chooser:
        await page.keyboard.press("Enter")
    await (await chooser.value).set_files(visitor.photos / "photo.jpg")
    await expect(page.locator("#go")).to_have_attribute("aria-disabled", "false")
    await tab_to("go")
    await page.keyboard.press("Enter")
    await visitor.sees_result()
    assert await page.evaluate("document.activeElement.id") == "headline", "the focus follows the view"
    await tab_to("download")
    async with page.expect_download():
        await page.keyboard.press("Enter")
    await tab_to("new")
    await page.keyboard.press("Enter")
    await expect(page.locator("#photo-input")).to_be_focused()


NAMELESS = """
() => {
  const named = (element) => element.ariaLabel || element.title || element.textContent.trim() ||
    element.getAttribute("alt") || [...(element.labels ?? [])].some((label) => label.textContent.trim());
  return [...document.querySelectorAll("a, button, input, [role=progressbar]")]
    .filter((element) => !named(element))
    .concat([...document.querySelectorAll("img:not([alt])")])
    .concat([...document.querySelectorAll("img[alt='']:not([aria-hidden=true])")])
    .map((element) => element.outerHTML);
}
"""


async def test_controls_have_names_and_changes_are_announced(visitor: Visitor) -> None:
    """For a screen reader."""
    await visitor.arrive()
    page = visitor.page
    assert await page.evaluate("document.documentElement.lang") == "en"
    assert await page.evaluate(NAMELESS) == []
    await expect(page.get_by_label("You", exact=True)).to_have_attribute("type", "file")
    await expect(page.get_by_label("Garment", exact=True)).to_have_attribute("type", "file")
    for landmark in ("banner", "main", "contentinfo"):
        await expect(page.get_by_role(landmark)).to_have_count(1)
    await expect(page.get_by_role("heading", level=1)).to_have_count(1)
    await expect(page.get_by_role("log")).to_have_count(1)
    await visitor.try_on()
    await visitor.sees_result()
    assert await page.evaluate(NAMELESS) == []
    await expect(page.get_by_role("heading", level=1)).to_have_count(1)
    await expect(page.get_by_role("log").locator("p").last).to_have_text("Your result is ready")


async def test_page_fits_dark_phone_without_motion(chromium: Browser, stack: StartStack, photos: Path) -> None:
    """Nothing overflows, nothing moves."""
    async for someone in open_visitor(
        chromium,
        (await stack(TRYON_MOCK_SECONDS="4")).url,  # a busy browser is live before the end
        photos,
        viewport={"width": 375, "height": 720},
        is_mobile=True,
        has_touch=True,
        color_scheme="dark",
        reduced_motion="reduce",
    ):
        page = someone.page
        await someone.arrive()
        width = "document.documentElement.scrollWidth"
        assert await page.evaluate(width) == 375
        await someone.try_on()
        await expect(page.locator("#chip-text")).to_have_text("Live", timeout=DONE_MS)
        assert await page.evaluate("document.getAnimations().filter((a) => a.playState === 'running').length") == 0
        await someone.sees_result()
        assert await page.evaluate(width) == 375
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(19, 21, 20)"


async def test_page_runs_under_strict_policy(product: Stack) -> None:
    """The Content-Security-Policy allows no inline script."""
    async with httpx.AsyncClient(base_url=product.url) as client:
        answer = await client.get("/")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        for name in re.findall(r'"(/static/[^"]+)"', answer.text):
            found = await client.get(name)
            assert found.status_code == 200, name
            if name.endswith(".js"):
                assert found.headers["content-type"].startswith("text/javascript"), name
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*(\ssrc=|importmap))", answer.text), "nothing inline"


REFUSED: Final = """
(url) => new Promise((resolve) => {
  addEventListener("securitypolicyviolation", ({ effectiveDirective }) => resolve(effectiveDirective), { once: true });
  new WebSocket(url);
})
"""


async def test_page_connects_to_its_own_server_alone(visitor: Visitor) -> None:
    """A socket to any other host or port is refused by the policy."""
    visitor.expected.append("Content Security Policy")
    await visitor.arrive()
    with reserved_port() as other:
        elsewhere = f"ws://127.0.0.1:{other.getsockname()[1]}/"
        assert await visitor.page.evaluate(REFUSED, elsewhere) == "connect-src"
