"""Take the README's picture of the demo page: ``python -m tests.browser.screenshot [docs/demo.png]``.

Starts a stack of its own, uploads one of the photos of :mod:`tests.photos` and a garment in the system's Chromium, and
waits for the result.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import async_playwright, expect

from tests import photos
from tests.servers import ROOT, Stack

SIZE = {"width": 1280, "height": 800}
MAX_BYTES = 200_000


async def take(target: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if chromium is None:
        raise SystemExit("Chromium is missing (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = photos.make(folder / "photos")
        env = {"TRYON_PORT": "0", "TRYON_MOCK_FAILURE_RATE": "0"}
        stack = await Stack.open(folder / "stack", "up", env=env)
        try:
            await stack.ready()
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = await browser.new_page(viewport=SIZE, reduced_motion="reduce")  # type: ignore[arg-type]
                await page.goto(stack.url)
                await page.set_input_files("#garment-input", pictures / "garment.png")
                await page.set_input_files("#photo-input", pictures / "photo.jpg")
                await expect(page.get_by_role("img", name="The try-on result")).to_be_visible(timeout=30_000)
                target.parent.mkdir(parents=True, exist_ok=True)
                await page.screenshot(path=target)
                await browser.close()
        finally:
            await stack.close()
    shrink(target)


def shrink(path: Path) -> None:
    """256 colours are enough for a README, and a quarter of the bytes."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    small.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {size} bytes")
    if size > MAX_BYTES:
        raise SystemExit(f"more than {MAX_BYTES} bytes")


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "demo.png"))
