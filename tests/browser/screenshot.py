"""The quick start's picture of the demo page.

``python -m tests.browser.screenshot [docs/demo.png]`` starts a stack of its own with
the overlay, chooses two samples in the system's Chromium, and waits for the result.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.async_api import ViewportSize, async_playwright, expect

from testkit.processes import ROOT
from testkit.stack import Stack

SIZE: Final[ViewportSize] = {"width": 1280, "height": 860}
MAX_BYTES: Final = 300_000
SOON_MS: Final = 60_000


async def take(target: Path) -> None:
    """Write the picture. Raises SystemExit where Chromium is missing."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if chromium is None:
        raise SystemExit("Chromium is missing (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        stack = await Stack.open(Path(folder), "up", env={"TRYON_PORT": "0", "TRYON_PROCESSOR": "overlay"})
        try:
            await stack.ready()
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = await browser.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce")
                await page.goto(stack.url)
                for role in ("person", "garment"):
                    await page.locator(f".slot[data-role={role}] .sample").first.click()
                    picture = page.locator(f".slot[data-role={role}] .zone-picture")
                    await expect(picture).to_be_visible(timeout=SOON_MS)
                await page.locator("#go").click()
                await expect(page.locator(".compare-line")).to_be_visible(timeout=SOON_MS)
                await page.mouse.move(0, 0)
                target.parent.mkdir(parents=True, exist_ok=True)
                await page.screenshot(path=target)
                await browser.close()
        finally:
            await stack.close()
    shrink(target)


def shrink(path: Path) -> None:
    """Drop every byte that can go without a visible difference."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    small.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {size} bytes")
    if size > MAX_BYTES:
        raise SystemExit(f"more than {MAX_BYTES} bytes")


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "demo.png"))
