"""Images that are changed at random: cleaned or refused, never more."""

from __future__ import annotations

import random
import struct
import warnings
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from server.adapters.imaging.pool import ACCEPTED
from server.adapters.imaging.sample_photos import XMP, metadata
from server.domain.images import ImageFormat, Limits
from tests.server.adapters.imaging.pictures import (
    assert_nothing_but_pixels,
    cleaned,
    encode,
    grey_16,
    wide_profile,
)
from tryon.protocol.errors import TryOnError


def plain(side: int) -> Image.Image:
    """Return a picture of always the same bytes, so that a failure can be repeated.

    :func:`person` has noise.
    """
    bands = (Image.linear_gradient("L"), Image.radial_gradient("L"), Image.linear_gradient("L").rotate(90))
    return Image.merge("RGB", bands).resize((side, side))


SEEDS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encode(plain(112), "JPEG", exif=metadata(6), xmp=XMP, comment=b"hello"),
    "progressive": lambda: encode(plain(96), "JPEG", progressive=True, icc_profile=wide_profile()),
    "cmyk": lambda: encode(plain(80).convert("CMYK"), "JPEG"),
    "mpo": lambda: encode(plain(80), "MPO", save_all=True, append_images=[plain(80)]),
    "png": lambda: encode(plain(80).convert("RGBA"), "PNG", exif=metadata(3), icc_profile=wide_profile()),
    "palette": lambda: encode(plain(80).quantize(16), "PNG", transparency=bytes([0, 128])),
    "grey16": grey_16,
    "apng": lambda: encode(plain(80), "PNG", save_all=True, append_images=[Image.new("RGB", (80, 80))]),
    "webp": lambda: encode(plain(80), "WEBP", exif=metadata(8), xmp=XMP),
    "webp_lossless": lambda: encode(plain(80).convert("RGBA"), "WEBP", lossless=True),
    "webp_animated": lambda: encode(plain(80), "WEBP", save_all=True, append_images=[Image.new("RGB", (80, 80))]),
    "avif": lambda: encode(plain(80), "AVIF", exif=metadata(6)),
}
if ImageFormat.HEIC in ACCEPTED:
    SEEDS["heic"] = lambda: encode(plain(80), "HEIF", exif=metadata(6))

MUTATIONS = 170


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, or cut, double or move a piece.

    Mostly near the beginning, where the structure is.
    """
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        at = chance.randrange(min(len(changed), chance.choice((64, 512, len(changed)))))
        match chance.randrange(8):
            case 0 | 1 | 2:
                changed[at] = chance.randrange(256)
            case 3:
                changed[at] ^= 1 << chance.randrange(8)
            case 4:
                changed[at : at + 4] = chance.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1")
                )
            case 5:
                del changed[at : at + chance.randrange(1, 64)]
            case 6:
                changed[at:at] = changed[at : at + chance.randrange(1, 64)]
            case _:
                del changed[max(at, 40) :]
    if data[:4] == b"\x89PNG" and chance.random() < 0.5:
        return with_right_checksums(bytes(changed))
    return bytes(changed)


def with_right_checksums(png: bytes) -> bytes:
    """Return the PNG with right checksums.

    Mutations then get past the CRC and into the chunks' own parsers.
    """
    out, at = png[:8], 8
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        out += png[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return out + png[at:]


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_images_raise_only_domain_errors(seed: str) -> None:
    """Images that are changed at random are cleaned or refused, no more."""
    if seed == "avif" and ImageFormat.AVIF not in ACCEPTED:
        pytest.skip("no AVIF decoder here")
    original = SEEDS[seed]()
    assert cleaned(original).width
    chance = random.Random(f"{seed}-1")
    limits = Limits(max_pixels=1_000_000)
    outcomes = set()
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        for _ in range(MUTATIONS):
            try:
                image = cleaned(mutate(original, chance), limits)
                outcomes.add("fine")
                assert_nothing_but_pixels(image)
            except TryOnError as error:
                outcomes.add(error.code)
    assert leaked == []
    assert "unreadable_image" in outcomes
    assert outcomes <= {
        "fine", "unreadable_image", "unsupported_image", "too_many_pixels", "image_too_large", "image_too_small"
    }  # fmt: skip
