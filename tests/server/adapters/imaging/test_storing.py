"""No stored photo is larger than an upload may be, whatever a decoder has painted."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from server.adapters.imaging import storing
from server.adapters.imaging.pool import ACCEPTED
from server.adapters.imaging.storing import QUALITIES, SHARES, store
from server.domain.images import ImageFormat, Limits
from testkit.clean_photos import assert_nothing_but_pixels
from testkit.photos import encoded
from tests.server.adapters.imaging.pictures import cleaned, opened
from tryon.protocol.errors import Unprocessable


def noise(mode: str, side: int = 512) -> Image.Image:
    bands = [Image.effect_noise((side, side), 120 - 10 * number) for number in range(len(mode))]
    return Image.merge(mode, bands)


@pytest.mark.parametrize(
    ("mode", "format", "stored"),
    [
        ("RGB", ImageFormat.JPEG, ImageFormat.JPEG),
        ("RGB", ImageFormat.PNG, ImageFormat.JPEG),
        ("RGB", ImageFormat.WEBP, ImageFormat.WEBP),
        ("RGBA", ImageFormat.PNG, ImageFormat.WEBP),
        ("RGBA", ImageFormat.WEBP, ImageFormat.WEBP),
    ],
)
def test_noise_is_stored_within_the_bound(mode: str, format: ImageFormat, stored: ImageFormat) -> None:
    """Less quality or another format keeps the picture within the bound."""
    bound = 512 * 512 // 2
    image = store(noise(mode), format, coding=None, max_bytes=bound)
    assert image.format is stored
    assert len(image.data) <= bound
    assert opened(image).size == (512, 512)
    assert opened(image).mode == mode


def test_photo_that_fits_keeps_its_format_and_quality() -> None:
    """The bound changes no picture that is smaller."""
    picture = noise("RGB", 128)
    for format in (ImageFormat.PNG, ImageFormat.JPEG, ImageFormat.WEBP):
        wide = store(picture, format, coding=None, max_bytes=2**24)
        assert wide.format is format
        assert store(picture, format, coding=None, max_bytes=len(wide.data)).data == wide.data


def test_better_of_two_qualities_is_chosen() -> None:
    """A file that is little too large loses little."""
    picture = noise("RGB")
    best = store(picture, ImageFormat.JPEG, coding=None, max_bytes=2**24)
    second = encoded(picture, "JPEG", quality=QUALITIES[1], subsampling=2)
    image = store(picture, ImageFormat.JPEG, coding=None, max_bytes=len(best.data) - 1)
    assert image.data == second


def test_shares_of_noise_are_those_of_the_encoders() -> None:
    """A noisy JPEG shrinks by quality about as the table says."""
    sizes = [len(encoded(noise("RGB"), "JPEG", quality=quality, subsampling=2)) for quality in QUALITIES]
    for size, share in zip(sizes, SHARES, strict=True):
        assert 0.6 * share <= size / sizes[0] <= 1.3 * share


def test_what_never_fits_is_refused() -> None:
    """A bound that no quality keeps refuses the picture with words."""
    for mode in ("RGB", "RGBA"):
        with pytest.raises(Unprocessable) as caught:
            store(noise(mode), ImageFormat.PNG, coding=None, max_bytes=2000)
        assert caught.value.code == "image_too_large"
        assert "2,000 bytes" in caught.value.detail


def test_large_picture_is_coded_once_by_the_cheaper_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CPU is spent on a WebP that would overflow: JPEG, or the middle quality."""
    monkeypatch.setattr(storing, "WEBP_PIXELS", 512 * 512 - 1)
    opaque, clear = noise("RGB"), noise("RGBA")
    image = store(opaque, ImageFormat.WEBP, coding=None, max_bytes=2**24)
    assert image.data == encoded(opaque, "JPEG", quality=storing.FOREIGN_QUALITY, subsampling=2)
    image = store(clear, ImageFormat.WEBP, coding=None, max_bytes=2**24)
    assert image.data == encoded(clear, "WEBP", quality=50, method=0, alpha_quality=0)


@pytest.mark.skipif(ImageFormat.AVIF not in ACCEPTED, reason="this Pillow has no AVIF decoder")
def test_film_grain_is_stored_within_the_bound() -> None:
    """A tiny AVIF whose decoder paints grain is no way to fill a disk."""
    flat = Image.new("RGBA", (512, 512), (120, 130, 140, 200))
    data = encoded(flat, "AVIF", quality=50, codec="aom", speed=10, advanced={"film-grain-test": "5"})
    free = cleaned(data)
    limits = Limits(max_bytes=len(free.data) // 2)
    image = cleaned(data, limits)
    assert len(data) < 4096
    assert len(image.data) <= limits.max_bytes < len(free.data)
    assert_nothing_but_pixels(image)


def test_grown_photo_is_stored_within_the_bound() -> None:
    """A photo that grows when it is stored again stays within the bound of uploads."""
    data = encoded(noise("RGB"), "WEBP", quality=20, method=0)
    limits = Limits(max_bytes=len(data))
    image = cleaned(data, limits)
    assert len(image.data) <= limits.max_bytes
    assert Image.open(io.BytesIO(image.data)).size == (512, 512)
