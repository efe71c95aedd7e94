"""``python -m testkit.page_sheet [FOLDER]``: contact sheets of the demo page's states.

Writes ``page-phone.webp`` and ``page-desktop.webp`` into ``docs/``: each state light
and dark. With ``FOLDER`` also each picture by itself.
"""

from __future__ import annotations

import asyncio
import io
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont
from playwright.async_api import Browser, async_playwright

from testkit.page_scene import Scene
from testkit.page_states import STATES
from testkit.processes import ROOT

MAX_BYTES: Final = 1_500_000
"""Largest size of all sheets together."""
CAPTION: Final = 26
MARGIN: Final = 12
GROUND: Final = "#9aa0a6"
QUALITY: Final = 68


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A screen, and how its pictures stand on the sheet."""

    name: str
    width: int
    height: int
    touch: bool
    columns: int
    """Pairs of pictures beside each other."""
    shown: int
    """Width of a picture on the sheet."""


DEVICES: Final = (
    Device(name="phone", width=390, height=844, touch=True, columns=5, shown=195),
    Device(name="desktop", width=1280, height=800, touch=False, columns=3, shown=340),
)


async def shoot(browser: Browser, device: Device, name: str) -> dict[tuple[str, str], bytes]:
    """Return pictures of the state on this device, by its name and the colours."""
    context = await browser.new_context(
        viewport={"width": device.width, "height": device.height},
        has_touch=device.touch,
        is_mobile=device.touch,
        color_scheme="light",
        reduced_motion="reduce",
    )
    try:
        scene = Scene(await context.new_page())
        await scene.open()
        await STATES[name](scene)
        await scene.settled()
        light = await scene.page.screenshot()
        await scene.page.emulate_media(color_scheme="dark")
        return {(name, "light"): light, (name, "dark"): await scene.page.screenshot()}
    finally:
        await context.close()


def sheet(device: Device, pictures: dict[tuple[str, str], bytes]) -> Image.Image:
    """Return the sheet: a pair of pictures for each state, with its name above."""
    tall = round(device.shown * device.height / device.width)
    pair = (2 * device.shown + MARGIN, tall + CAPTION)
    rows = -(-len(STATES) // device.columns)
    size = (device.columns * (pair[0] + 2 * MARGIN), rows * (pair[1] + 2 * MARGIN))
    page = Image.new("RGB", size, GROUND)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=16)
    for at, name in enumerate(STATES):
        x = (at % device.columns) * (pair[0] + 2 * MARGIN) + MARGIN
        y = (at // device.columns) * (pair[1] + 2 * MARGIN) + MARGIN
        draw.text((x, y), f"{at + 1}  {name}", fill="black", font=font)
        for side, scheme in enumerate(("light", "dark")):
            with Image.open(io.BytesIO(pictures[name, scheme])) as picture:
                small = picture.convert("RGB").resize((device.shown, tall), Image.Resampling.LANCZOS)
            page.paste(small, (x + side * (device.shown + MARGIN), y + CAPTION))
    return page


async def take(folder: Path | None) -> None:
    """Write the sheets, and each picture into ``folder`` if there is one."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if chromium is None:
        raise SystemExit("Chromium is missing (Debian: apt-get install chromium)")
    written = 0
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for device in DEVICES:
            pictures: dict[tuple[str, str], bytes] = {}
            for name in STATES:
                taken = await shoot(browser, device, name)
                pictures |= taken
                for (_, scheme), data in taken.items():
                    if folder is not None:
                        path = folder / f"{device.name}-{name.strip('?').replace(' ', '-')}-{scheme}.png"
                        await asyncio.to_thread(path.write_bytes, data)
            path = ROOT / "docs" / f"page-{device.name}.webp"
            sheet(device, pictures).save(path, quality=QUALITY, method=6)
            written += path.stat().st_size
            print(f"{path}: {path.stat().st_size} bytes")
        await browser.close()
    if written > MAX_BYTES:
        raise SystemExit(f"more than {MAX_BYTES} bytes")


def main() -> None:
    """Write the sheets."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(take(folder))


if __name__ == "__main__":
    main()
