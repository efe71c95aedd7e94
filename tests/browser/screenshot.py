"""The README's picture of the demo page.

``python -m tests.browser.screenshot [docs/demo.png]`` starts a stack of its own,
uploads a drawn portrait and a coat in the system's Chromium, and waits for the result.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.async_api import async_playwright, expect

from testkit.processes import ROOT
from testkit.stack import Stack

SIZE = {"width": 1280, "height": 860}
MAX_BYTES = 200_000

HAIR, SKIN, SHADE, BLUSH, SHIRT, LIPS = "#3a2821", "#e2b296", "#cf9c80", "#dd9f86", "#eeece6", "#b0524a"
GREEN, DARK, HORN = "#18685f", "#104f49", "#eee2c8"


def portrait(folder: Path) -> Path:
    """Draw a person before a calm wall, 900 x 1200."""
    scale = 20  # the drawing below is in hundredths of the width, twice as large as what is saved
    wall = Image.linear_gradient("L").resize((90 * scale, 120 * scale))
    picture = Image.composite(Image.new("RGB", wall.size, "#d2c1ae"), Image.new("RGB", wall.size, "#eee4d6"), wall)
    draw = ImageDraw.Draw(picture)

    def box(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        return ((45 + left) * scale, top * scale, (45 + right) * scale, bottom * scale)

    draw.ellipse(box(-33, 12, 33, 78), fill="#e3cdb2")
    draw.rounded_rectangle(box(-16, 19, 16, 72), 15.9 * scale, fill=HAIR)
    draw.rounded_rectangle(box(-29, 76, 29, 140), 17 * scale, fill=SHIRT)
    draw.rounded_rectangle(box(-6, 58, 6, 84), 6 * scale, fill=SHADE)
    draw.ellipse(box(-11.5, 29, 11.5, 68), fill=SKIN)
    draw.pieslice(box(-13, 23, 13, 57), 180, 360, fill=HAIR)
    draw.polygon([box(-11, 40, 0, 0)[:2], box(7, 33, 0, 0)[:2], box(11, 40, 0, 0)[:2]], fill=SKIN)
    for side in (-1, 1):
        draw.arc(box(side * 5 - 2, 45.5, side * 5 + 2, 49), 20, 160, fill=HAIR, width=int(0.7 * scale))
        draw.ellipse(box(side * 7 - 2.2, 52, side * 7 + 2.2, 56), fill=BLUSH)
        draw.line(box(side * 19, 104, side * 18.3, 121), fill="#d8d5cd", width=int(0.7 * scale))
    draw.arc(box(-1.4, 49, 1.4, 54), 20, 160, fill=SHADE, width=int(0.6 * scale))
    draw.chord(box(-3.6, 55, 3.6, 61), 10, 170, fill=LIPS)
    return save(picture, folder / "portrait.jpg", (900, 1200))


def coat(folder: Path) -> Path:
    """Draw a green coat on nothing, 600 x 720."""
    picture = Image.new("RGBA", (1200, 1440))
    draw = ImageDraw.Draw(picture)

    def shape(colour: str, *points: tuple[int, int]) -> None:
        draw.polygon([(x * 12, y * 14.4) for x, y in points], fill=colour)

    left = [(36, 8), (20, 15), (4, 52), (17, 58), (25, 40), (23, 93)]
    shape(GREEN, *left, *((100 - x, y) for x, y in reversed(left)), (50, 13))
    lapel = [(36, 8), (50, 42), (42, 46), (30, 20)]
    shape(DARK, *lapel)
    shape(DARK, *((100 - x, y) for x, y in lapel))
    shape(DARK, (50, 42), (51, 42), (51, 93), (50, 93))
    for y in (52, 66, 80):
        draw.ellipse((642, y * 14.4, 678, y * 14.4 + 36), fill=HORN)
    return save(picture, folder / "coat.png", (600, 720))


def save(picture: Image.Image, path: Path, size: tuple[int, int]) -> Path:
    picture.resize(size, Image.Resampling.LANCZOS).save(path)
    return path


async def take(target: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if chromium is None:
        raise SystemExit("Chromium is missing (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {"TRYON_PORT": "0", "TRYON_MOCK_FAILURE_RATE": "0"}
        stack = await Stack.open(folder / "stack", "up", env=env)
        try:
            await stack.ready()
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = await browser.new_page(viewport=SIZE, reduced_motion="reduce")  # type: ignore[arg-type]
                await page.goto(stack.url)
                await page.set_input_files("#garment-input", coat(folder))
                await page.set_input_files("#photo-input", portrait(folder))
                await expect(page.locator("#go")).to_have_attribute("aria-disabled", "false")
                await page.locator("#go").click()
                await expect(page.get_by_role("img", name="The try-on result")).to_be_visible(timeout=30_000)
                target.parent.mkdir(parents=True, exist_ok=True)
                await page.screenshot(path=target)
                await browser.close()
        finally:
            await stack.close()
    shrink(target)


def shrink(path: Path) -> None:
    """Every byte that can go without a visible difference."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {size} bytes")
    if size > MAX_BYTES:
        raise SystemExit(f"more than {MAX_BYTES} bytes")


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "demo.png"))
