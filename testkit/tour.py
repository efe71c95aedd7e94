"""``python -m testkit.tour [docs/tour.webp]``: the README's moving picture.

Chromium is taken through the demo page's three moments, against a stack of its own with
the overlay. It is filmed while it happens: each picture stands for as long as it stood
on the screen, and nothing is cut out.
"""

from __future__ import annotations

import asyncio
import base64
import io
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.async_api import CDPSession, Page, async_playwright, expect

from testkit.processes import ROOT
from testkit.stack import Stack

TARGET: Final = ROOT / "docs" / "tour.webp"
MAX_BYTES: Final = 1_500_000
SCREEN: Final = (1000, 760)
WIDTH: Final = 800
"""Width of the written picture, in pixels."""
QUALITY: Final = 62
LEAST_SECONDS: Final = 0.08
"""Shortest time for which a picture stands; of several within it the last is kept."""
LAST_SECONDS: Final = 2.5
"""Time for which the end stands, before the picture begins again."""
SOON_MS: Final = 60_000

POINTER: Final = """
addEventListener("DOMContentLoaded", () => {
  const dot = document.createElement("div");
  const look = { position: "fixed", left: "0", top: "0", width: "22px", height: "22px", margin: "-11px", borderRadius: "50%",
    background: "rgb(20 20 20 / .35)", border: "2px solid white", zIndex: "9999", pointerEvents: "none", opacity: "0" };
  Object.assign(dot.style, look);
  dot.setAttribute("aria-hidden", "true");
  document.documentElement.append(dot);
  addEventListener("pointermove", ({ clientX, clientY }) => {
    dot.style.opacity = "1";
    dot.style.transform = `translate(${clientX}px, ${clientY}px)`;
  }, true);
  addEventListener("pointerdown", () => (dot.style.background = "rgb(20 20 20 / .75)"), true);
  addEventListener("pointerup", () => (dot.style.background = "rgb(20 20 20 / .35)"), true);
});
"""
"""Draws the pointer, which a browser without a window does not show."""


@dataclass(frozen=True, slots=True)
class Shot:
    """The screen from ``at`` on, in seconds: a picture file."""

    at: float
    data: bytes


def timed(shots: Sequence[Shot], end: float, least: float = LEAST_SECONDS) -> list[tuple[bytes, int]]:
    """Return each picture with the milliseconds for which it stood, until ``end``.

    Of shots closer than ``least`` seconds the last is kept, so that the sum stays the
    time that passed.
    """
    kept: list[Shot] = []
    for shot in shots:
        if kept and shot.at - kept[-1].at < least:
            kept[-1] = Shot(kept[-1].at, shot.data)
        else:
            kept.append(shot)
    ends = [*(shot.at for shot in kept[1:]), end]
    begun = kept[0].at if kept else end
    marks = [round((each - begun) * 1000) for each in ends]
    return [(shot.data, mark - before) for shot, mark, before in zip(kept, marks, [0, *marks], strict=False)]


def encoded(pictures: Iterable[tuple[bytes, int]], width: int = WIDTH, quality: int = QUALITY) -> bytes:
    """Return an animated WebP that runs for ever."""
    frames: list[Image.Image] = []
    times: list[int] = []
    for data, milliseconds in pictures:
        with Image.open(io.BytesIO(data)) as picture:
            height = round(picture.height * width / picture.width)
            frames.append(picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
        times.append(milliseconds)
    file = io.BytesIO()
    frames[0].save(
        file, "WEBP", save_all=True, append_images=frames[1:], duration=times, loop=0, quality=quality, method=4
    )
    return file.getvalue()


class Camera:
    """Films a page, from :meth:`start` to :meth:`stop`."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._session: CDPSession | None = None
        self._answers: set[asyncio.Task[Any]] = set()
        self.shots: list[Shot] = []

    async def start(self) -> None:
        """Take a shot whenever the screen changes."""
        self._session = await self._page.context.new_cdp_session(self._page)
        self._session.on("Page.screencastFrame", self._take)
        await self._session.send("Page.startScreencast", {"format": "jpeg", "quality": 92})

    def _take(self, frame: dict[str, Any]) -> None:
        assert self._session is not None
        self.shots.append(Shot(frame["metadata"]["timestamp"], base64.b64decode(frame["data"])))
        answer = asyncio.ensure_future(self._session.send("Page.screencastFrameAck", {"sessionId": frame["sessionId"]}))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def stop(self) -> list[Shot]:
        """Return the shots in the order in which they were taken."""
        assert self._session is not None
        await self._session.send("Page.stopScreencast")
        await asyncio.gather(*self._answers)
        return sorted(self.shots, key=lambda shot: shot.at)


async def walk(page: Page, url: str, *, pause_ms: float = 700) -> None:
    """Choose two samples, wait for the result, and compare it with the photo.

    ``pause_ms``: the time for which a person would look.
    """
    await page.goto(url)
    await expect(page.locator(".slot[data-role=garment] .sample").first).to_be_visible(timeout=SOON_MS)
    await page.wait_for_timeout(pause_ms)
    for role in ("person", "garment"):
        await _press(page, f".slot[data-role={role}] .sample", pause_ms)
        await expect(page.locator(f".slot[data-role={role}] .zone-picture")).to_be_visible(timeout=SOON_MS)
    await expect(page.locator("#go")).to_have_attribute("aria-disabled", "false", timeout=SOON_MS)
    await _press(page, "#go", pause_ms)
    await expect(page.locator("#headline")).to_have_text("Your result is ready", timeout=SOON_MS)
    await page.wait_for_function("() => document.querySelector('#result').naturalWidth > 0")
    await page.wait_for_timeout(2 * pause_ms)
    await _compare(page, pause_ms)


async def _press(page: Page, selector: str, pause_ms: float) -> None:
    """Move to the first of these, and click."""
    target = page.locator(selector).first
    await target.scroll_into_view_if_needed()
    box = await target.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    await page.mouse.move(x, y, steps=6)
    await page.wait_for_timeout(pause_ms / 2)
    await page.mouse.down()
    await page.wait_for_timeout(pause_ms / 6)
    await page.mouse.up()
    await page.wait_for_timeout(pause_ms / 2)


async def _compare(page: Page, pause_ms: float) -> None:
    """Move the line between before and after, there and back."""
    await page.locator("#frame").scroll_into_view_if_needed()
    box = await page.locator("#frame").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2

    def at(part: float) -> float:
        return box["x"] + box["width"] * part

    await page.mouse.move(at(0.5), middle, steps=6)
    await page.mouse.down()
    place = 0.5
    for goal in (0.9, 0.1, 0.55):
        steps = max(round(abs(goal - place) * 24), 1)
        for step in range(1, steps + 1):
            await page.mouse.move(at(place + (goal - place) * step / steps), middle)
            await page.wait_for_timeout(pause_ms / 8)
        place = goal
        await page.wait_for_timeout(pause_ms / 2)
    await page.mouse.up()


async def film(url: str, *, pause_ms: float = 700) -> list[tuple[bytes, int]]:
    """Return the pictures of a walk through the page at ``url``, with their times.

    Raises SystemExit where Chromium is missing.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if chromium is None:
        raise SystemExit("Chromium is missing (Debian: apt-get install chromium)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": SCREEN[0], "height": SCREEN[1]}, color_scheme="light")
        await page.add_init_script(POINTER)
        camera = Camera(page)
        await camera.start()
        await walk(page, url, pause_ms=pause_ms)
        shots = [shot for shot in await camera.stop() if not _is_blank(shot.data)]
        await browser.close()
    return timed(shots, shots[-1].at + LAST_SECONDS)


def _is_blank(data: bytes) -> bool:
    """Return whether there is one colour only: the window before the page is there."""
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB").getcolors(maxcolors=1) is not None


async def make(target: Path) -> None:
    """Film the product, and write the moving picture."""
    with tempfile.TemporaryDirectory() as folder:
        stack = await Stack.open(Path(folder), "up", env={"TRYON_PORT": "0", "TRYON_PROCESSOR": "overlay"})
        try:
            await stack.ready()
            pictures = await film(stack.url)
        finally:
            await stack.close()
    data = encoded(pictures)
    seconds = sum(milliseconds for _, milliseconds in pictures) / 1000
    print(f"{target}: {len(pictures)} pictures, {seconds:.1f} s, {len(data)} bytes")
    if len(data) > MAX_BYTES:
        raise SystemExit(f"more than {MAX_BYTES} bytes")
    await asyncio.to_thread(target.write_bytes, data)


def main() -> None:
    """Write the moving picture."""
    asyncio.run(make(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET))


if __name__ == "__main__":
    main()
