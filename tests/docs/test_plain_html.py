"""The file of docs/plain-html.md, copied, served as it says, and used in Chromium."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import Browser, Page, expect

from testkit.documents import ADDRESS, marked, text_of
from testkit.fixtures import StartStack
from testkit.installed import running_program
from testkit.processes import free_port
from tryon.protocol.errors import UnsupportedMedia

PAGE: Final = "docs/plain-html.md"
SOON_MS: Final = 30_000
REFUSAL: Final = UnsupportedMedia("unsupported_image")

pytestmark = pytest.mark.xdist_group("chromium")


@contextlib.asynccontextmanager
async def opened(browser: Browser, server: str, folder: Path) -> AsyncIterator[Page]:
    """Save the page's file for this server, run its command, and open the address."""
    ((name, content),) = re.findall(r"<!-- file: (\S+) -->\n```html\n(.*?)```", text_of(PAGE), re.DOTALL)
    (folder / name).write_text(content.replace(ADDRESS, server))
    ((_, _, command),) = [block for block in marked(PAGE) if block[1] == "serve"]
    port = free_port()
    words = command.replace("8080", str(port)).replace(".venv/bin/python", sys.executable).split()
    async with running_program(*words, port=port, folder=folder):
        context = await browser.new_context()
        try:
            page = await context.new_page()
            await page.goto(f"http://127.0.0.1:{port}/{name}")
            yield page
        finally:
            await context.close()


@pytest.mark.slow
async def test_plain_page_shows_bar_and_result(
    stack: StartStack, chromium: Browser, photos: Path, tmp_path: Path
) -> None:
    """The form is sent, the bar moves, the picture appears; the button works again."""
    product = await stack(TRYON_MOCK_SECONDS="2")
    async with opened(chromium, product.url, tmp_path) as page:
        await page.set_input_files("[name=photo]", photos / "photo.jpg")
        await page.set_input_files("[name=garment]", photos / "garment.png")
        await page.get_by_role("button", name="Try it on").click()
        await page.wait_for_function("() => document.querySelector('#bar').value > 0", timeout=SOON_MS)
        await expect(page.locator("#line")).to_have_text("completed", timeout=SOON_MS)
        await page.wait_for_function("() => document.querySelector('#result').naturalWidth > 0", timeout=SOON_MS)
        await expect(page.get_by_role("button", name="Try it on")).to_be_enabled()
        await expect(page.locator("#bar")).to_be_hidden()


async def test_plain_page_says_why_a_photo_is_refused(stack: StartStack, chromium: Browser, tmp_path: Path) -> None:
    """The server's words stand under the form."""
    product = await stack()
    (tmp_path / "me.jpg").write_bytes(b"no picture")
    async with opened(chromium, product.url, tmp_path) as page:
        await page.set_input_files("[name=photo]", tmp_path / "me.jpg")
        await page.get_by_role("button", name="Try it on").click()
        await expect(page.locator("#line")).to_have_text(REFUSAL.detail, timeout=SOON_MS)
        await expect(page.locator("#result")).to_be_hidden()
