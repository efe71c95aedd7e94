"""What a browser shows: the pixels that Chromium paints for a file of a picture.

Chromium is the judge of colours: a stored photo must look as the browser shows the
original.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import AsyncIterator
from typing import Final

from PIL import Image, ImageChops, ImageStat
from playwright.async_api import Browser, Error, Page, Route, async_playwright

CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS: Final = (
    "--no-sandbox", "--no-first-run", "--force-color-profile=srgb", "--disable-gpu", "--disable-quic",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
LONGEST_SIDE: Final = 512
"""Longest side of the picture on the page, in pixels; larger ones are scaled down."""

_URL: Final = "http://photos.example/"
_PAGE: Final = (
    "<style>html, body { margin: 0 } "
    f"img {{ display: block; max-width: {LONGEST_SIDE}px; max-height: {LONGEST_SIDE}px }}</style>"
)
_SHOW: Final = """async url => {
  document.body.replaceChildren();
  const image = new Image();
  image.src = url;
  try { await image.decode(); } catch { /* a damaged picture may show a part */ }
  if (!image.naturalWidth) return null;
  document.body.append(image);
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  const box = image.getBoundingClientRect();
  return { x: 0, y: 0, width: Math.max(1, Math.round(box.width)), height: Math.max(1, Math.round(box.height)) };
}"""


class Renderer:
    """A page that shows one picture at a time."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._data = b""
        self._shown = 0

    def __repr__(self) -> str:
        return f"<Renderer {self._shown} shown>"

    async def open(self) -> Renderer:
        """Load the empty page."""
        await self._page.set_viewport_size({"width": LONGEST_SIDE, "height": LONGEST_SIDE})
        await self._page.route(_URL + "**", self._answer)
        await self._page.goto(_URL)
        return self

    async def _answer(self, route: Route) -> None:
        if route.request.url == _URL:
            await route.fulfill(body=_PAGE, content_type="text/html")
        else:
            await route.fulfill(body=self._data, content_type="image/png")  # browsers sniff pictures

    async def shown(self, data: bytes) -> Image.Image | None:
        """Return what the page shows on white (RGB), or None if it shows nothing."""
        self._data = data
        self._shown += 1
        clip = await self._page.evaluate(_SHOW, f"{_URL}{self._shown}")
        if clip is None:
            return None
        shot = Image.open(io.BytesIO(await self._page.screenshot(clip=clip))).convert("RGB")
        return None if shot.getextrema() == ((255, 255),) * 3 else shot


@contextlib.asynccontextmanager
async def rendering() -> AsyncIterator[Renderer]:
    """Start the system's Chromium and yield a page that shows pictures.

    Raises FileNotFoundError without a Chromium.
    """
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        raise FileNotFoundError("no Chromium (Debian: apt-get install chromium)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield await renderer(browser)
        finally:
            with contextlib.suppress(Error):
                await browser.close()


async def renderer(browser: Browser) -> Renderer:
    """Return a renderer on a new page of ``browser``."""
    context = await browser.new_context(device_scale_factor=1)
    return await Renderer(await context.new_page()).open()


def colour_difference(one: Image.Image, other: Image.Image) -> float:
    """Return the difference of 4 x 4 pixels each: without the grain that JPEG loses."""
    if min(one.width, one.height, other.width, other.height) < 32:
        return difference(one, other)
    return difference(one.reduce(4), other.reduce(4))


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two pictures over pixels and channels, of 255.

    255 for pictures of different sizes; a pixel of rounding is forgiven.
    """
    if max(abs(one.width - other.width), abs(one.height - other.height)) > 1:
        return 255.0
    size = (min(one.width, other.width), min(one.height, other.height))
    both = (one.crop((0, 0, *size)), other.crop((0, 0, *size)))
    red, green, blue = ImageStat.Stat(ImageChops.difference(*both)).mean
    return (red + green + blue) / 3
