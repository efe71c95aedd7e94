"""A stored photo looks as Chromium shows the original."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
from PIL import Image
from playwright.async_api import Browser

from server.adapters.imaging.cleaner import ACCEPTED, clean
from server.adapters.imaging.sample_photos import metadata, person
from server.domain.images import ImageFormat, Limits
from testkit.photos import (
    ARITHMETIC_JPEG,
    P3_COLUMNS,
    SRGB_COLUMNS,
    chrm,
    cicp,
    encoded,
    gama,
    gamma_curve,
    grey_profile,
    iccp,
    png_chunk,
    rgb_profile,
    srgb_curve,
    with_chunks,
    with_nclx,
)
from testkit.plugin import missing
from testkit.rendering import Renderer, difference, renderer

pytestmark = [pytest.mark.xdist_group("chromium"), pytest.mark.slow]

SDR = 2.0
HDR = 3.0
"""Largest mean difference of pixels, of 255.

For PQ and HLG it is 0.5 before the picture is coded again; the rest is JPEG's.
"""

P3 = rgb_profile(P3_COLUMNS, srgb_curve(), "Display P3 Gamut with sRGB Transfer")
LINEAR = rgb_profile(SRGB_COLUMNS, gamma_curve(1.0))
GREY = grey_profile(gamma_curve(1.0))
LIGHT = png_chunk(b"cLLI", struct.pack(">II", 400 * 10_000, 100 * 10_000))


@cache
def _grainy() -> Image.Image:
    return person((240, 320))


@cache
def scene(mode: str = "RGB") -> Image.Image:
    """Return a person above all the colours between four corners."""
    ramp = Image.linear_gradient("L")
    colours = Image.merge("RGB", (ramp.rotate(90), ramp, Image.radial_gradient("L"))).resize((240, 160))
    picture = _grainy().copy()
    picture.paste(colours, (0, 160))
    if mode in ("LA", "RGBA"):
        picture = picture.convert(mode)
        picture.putalpha(ramp.resize(picture.size))
    return picture.quantize(64) if mode == "P" else picture.convert(mode)


def png(*chunks: bytes, mode: str = "RGB", **options: Any) -> bytes:
    return with_chunks(encoded(scene(mode), "PNG", **options), *chunks)


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    return encoded(scene(mode), "JPEG", **{"quality": 92} | options)


def avif(primaries: int = 1, transfer: int = 13, **options: Any) -> bytes:
    return with_nclx(encoded(scene(), "AVIF", quality=90, **options), primaries, transfer)


PHOTOS: dict[str, Callable[[], bytes]] = {
    "jpeg": jpeg,
    "jpeg progressive": lambda: jpeg(progressive=True),
    "jpeg p3": lambda: jpeg(icc_profile=P3),
    "jpeg linear": lambda: jpeg(icc_profile=LINEAR),
    "jpeg grey": lambda: jpeg("L"),
    "jpeg grey profile": lambda: jpeg("L", icc_profile=GREY),
    "jpeg grey with rgb profile": lambda: jpeg("L", icc_profile=LINEAR),
    "jpeg cmyk": lambda: jpeg("CMYK"),
    "jpeg with trailer": lambda: jpeg()[:-2] + bytes(range(256)) * 20 + b"SEFT",
    "jpeg arithmetic": lambda: base64.b64decode(ARITHMETIC_JPEG),
    **{f"jpeg turned {turn}": partial(jpeg, exif=metadata(turn)) for turn in range(2, 9)},
    "png": png,
    "png palette": lambda: png(mode="P"),
    "png alpha p3": lambda: png(iccp(P3), mode="RGBA"),
    "png grey alpha profile": lambda: png(iccp(GREY), mode="LA"),
    "png grey rgb profile": lambda: png(iccp(LINEAR), mode="L"),
    "png cicp p3": lambda: png(cicp(12, 13)),
    "png cicp bt709": lambda: png(cicp(1, 1)),
    "png cicp rec2020": lambda: png(cicp(9, 14)),
    "png gama": lambda: png(gama(100_000)),
    "png gama chrm": lambda: png(chrm(31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), gama(45_455)),
    "png iccp over gama": lambda: png(gama(100_000), iccp(P3)),
    "png bad checksum": lambda: png(png_chunk(b"gAMA", b"\0\1\x86\xa0", checksum=1)),
    "png without end": lambda: png()[:-12],
    "png turned": lambda: png(exif=metadata(6)),
    "webp p3": lambda: encoded(scene(), "WEBP", quality=92, icc_profile=P3),
    "webp alpha": lambda: encoded(scene("RGBA"), "WEBP", quality=92),
    "avif": avif,
    "avif turned": lambda: avif(exif=metadata(7)),
    "avif p3": lambda: avif(12, 13),
    "avif bt709": lambda: avif(1, 1),
    "avif profile": lambda: encoded(scene(), "AVIF", quality=90, icc_profile=P3),
}

BRIGHT: dict[str, Callable[[], bytes]] = {
    "png pq": lambda: png(cicp(9, 16)),
    "png pq p3": lambda: png(cicp(12, 16)),
    "png pq of 400": lambda: png(cicp(9, 16), LIGHT),
    "png hlg": lambda: png(cicp(9, 18)),
    "avif pq": lambda: avif(9, 16),
    "avif hlg": lambda: avif(9, 18),
}


@pytest.fixture(scope="module")
async def shown(chromium: Browser) -> Renderer:
    return await renderer(chromium)


async def off(shown: Renderer, data: bytes) -> float:
    stored = clean(io.BytesIO(data), Limits())
    original, ours = await shown.shown(data), await shown.shown(stored.data)
    assert original is not None
    assert ours is not None
    return difference(original, ours)


@pytest.mark.parametrize("photo", PHOTOS)
async def test_stored_photo_looks_like_original(shown: Renderer, photo: str) -> None:
    """The mean difference of what Chromium shows is two levels at most."""
    if photo.startswith("avif") and ImageFormat.AVIF not in ACCEPTED:
        missing("an AVIF decoder")
    assert await off(shown, PHOTOS[photo]()) <= SDR


@pytest.mark.parametrize("photo", BRIGHT)
async def test_stored_hdr_photo_looks_like_original(shown: Renderer, photo: str) -> None:
    """PQ and HLG look as on a screen without a high dynamic range."""
    if photo.startswith("avif") and ImageFormat.AVIF not in ACCEPTED:
        missing("an AVIF decoder")
    assert await off(shown, BRIGHT[photo]()) <= HDR


async def test_photo_without_end_looks_like_whole_one(shown: Renderer) -> None:
    """The stored photo has the last rows, which Chromium leaves out."""
    stored = clean(io.BytesIO(jpeg()[:-2]), Limits())
    whole, ours = await shown.shown(jpeg()), await shown.shown(stored.data)
    assert whole is not None
    assert ours is not None
    assert difference(whole, ours) <= SDR


async def test_ignored_profile_is_seen(shown: Renderer) -> None:
    """A wide photo whose profile is lost looks different: the measure notices."""
    original, without = await shown.shown(jpeg(icc_profile=P3)), await shown.shown(jpeg())
    assert original is not None
    assert without is not None
    assert difference(original, without) > SDR
