"""JPEGs as phones and editors leave them: taken right, or refused by name."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from server.adapters.imaging.jpeg_file import read_jpeg
from server.adapters.imaging.parts import CUT_OFF
from server.adapters.imaging.sample_photos import SECRETS, person
from testkit.clean_photos import assert_nothing_but_pixels
from testkit.photos import ARITHMETIC_JPEG, P3_COLUMNS, centres, encoded, jpeg_segment, patches, rgb_profile, srgb_curve
from tests.server.adapters.imaging.pictures import assert_upright, cleaned, opened, refusal
from tryon.protocol.errors import TryOnError

CODINGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "full colour": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "progressive restarts": {"progressive": True, "restart_marker_blocks": 3},
    "grey": {},
}
TRAILERS = {
    "none": b"",
    "samsung": b"\0\0\1\x0b\x0e\0\0\0Panorama_Shot_Info" + bytes(range(256)) * 8 + b"SEFH\x6a\0\0\0\1\0\0\0SEFT",
    "marker that is none": bytes(200) + b"\xff\x53" + bytes(200),
    "ends in ff": b"\1" * 50 + b"\xff",
    "another picture": encoded(Image.new("RGB", (64, 64), "white"), "JPEG"),
    "zeros": bytes(5000),
}


def detail(data: bytes) -> str:
    with pytest.raises(TryOnError) as caught:
        cleaned(data)
    return caught.value.detail


def coded(coding: str, size: tuple[int, int] = (200, 152)) -> bytes:
    picture = person(size)
    return encoded(picture.convert("L") if coding == "grey" else picture, "JPEG", quality=90, **CODINGS[coding])


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("coding", CODINGS)
def test_jpeg_without_end_marker_is_taken(coding: str, trailer: str) -> None:
    """All pixels are there: the picture is the same as with an end marker."""
    data = coded(coding)
    assert data.endswith(b"\xff\xd9")
    image = cleaned(data[:-2] + TRAILERS[trailer])
    assert image.data == cleaned(data).data
    assert_nothing_but_pixels(image)


@pytest.mark.parametrize("coding", CODINGS)
def test_jpeg_cut_in_its_picture_is_refused(coding: str) -> None:
    """A file that lacks three bytes of its pixels and the end marker is refused."""
    data = coded(coding)
    for missing in (5, 7, 20, 100, 1000, len(data) // 2, len(data) - 300):
        assert detail(data[:-missing]) == CUT_OFF, missing


def test_jpeg_cut_in_its_header_is_refused() -> None:
    """A file that ends before its first scan has no picture."""
    data = coded("baseline")
    for length in (4, 21, 100, 300):
        assert detail(data[:length]) == CUT_OFF


def test_damaged_scan_is_taken_up_to_its_end() -> None:
    """A marker amid the pixels of a damaged file ends no picture, as in browsers."""
    data = coded("restarts")
    middle = data.index(b"\xff\xda") + (len(data) - data.index(b"\xff\xda")) // 3
    damaged = data[:middle] + b"\xff\x9f" + data[middle + 2 :]
    assert_upright(opened(cleaned(damaged)))


def test_thumbnail_and_film_are_left_behind() -> None:
    """The film of a motion photo and the pictures of an MPO are not read."""
    data = coded("baseline")
    film = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + SECRETS[0] + b"\xff\xda\xff\xd9" * 500
    for behind in (film, data, data + film):
        assert cleaned(data + behind).data == cleaned(data).data


def test_arithmetic_jpeg_is_taken() -> None:
    """A JPEG with arithmetic coding shows its colours."""
    picture = opened(cleaned(base64.b64decode(ARITHMETIC_JPEG)))
    right = opened(cleaned(encoded(patches().resize((96, 64), Image.Resampling.NEAREST), "JPEG", quality=95)))
    for x, y in ((16, 16), (48, 16), (80, 16), (16, 48), (48, 48), (80, 48)):
        found, expected = picture.getpixel((x, y)), right.getpixel((x, y))
        assert isinstance(found, tuple) and isinstance(expected, tuple)
        assert max(abs(one - other) for one, other in zip(found, expected, strict=True)) <= 4


@pytest.mark.parametrize(
    ("marker", "bits", "name"),
    [
        (0xC1, 12, "12-bit JPEG"),
        (0xC3, 8, "Lossless JPEG"),
        (0xC5, 8, "Hierarchical JPEG"),
        (0xCB, 16, "Lossless JPEG"),
    ],
)
def test_other_kinds_of_jpeg_are_refused_by_name(marker: int, bits: int, name: str) -> None:
    """A format without a decoder here is named, with advice."""
    data = coded("baseline")
    at = data.index(b"\xff\xc0")
    other = data[:at] + bytes((0xFF, marker)) + data[at + 2 : at + 4] + bytes((bits,)) + data[at + 5 :]
    with pytest.raises(TryOnError) as caught:
        cleaned(other)
    assert caught.value.code == "unsupported_image"
    assert caught.value.detail.startswith(f"{name} is not supported here; export as ")


def test_jpeg_of_impossible_bits_is_damaged() -> None:
    """No format is named that does not exist: samples have 8 or 12 bits."""
    data = coded("baseline")
    at = data.index(b"\xff\xc0") + 4
    for bits in (0, 9, 159):
        assert refusal(data[:at] + bytes((bits,)) + data[at + 1 :]) == "unreadable_image"


def test_bytes_between_markers_are_passed_over() -> None:
    """TEM markers, alone between segments, cost no walk of their own (T.81 B.1.1.3)."""
    data = coded("baseline")
    image = cleaned(data[:2] + b"\xff\x01" * 1000 + data[2:])
    assert image.data == cleaned(data).data


def test_profile_in_parts_is_put_together() -> None:
    """A profile of three segments counts in any order, and not with one missing."""
    profile = rgb_profile(P3_COLUMNS, srgb_curve())
    third = len(profile) // 3 + 1
    parts = [
        jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes((number + 1, 3)) + profile[number * third : (number + 1) * third])
        for number in range(3)
    ]
    data = encoded(patches(), "JPEG", quality=97, subsampling=0)
    assert read_jpeg(data[:2] + b"".join(reversed(parts)) + data[2:]).colours == (profile,)
    assert read_jpeg(data[:2] + b"".join(parts[:2]) + data[2:]).colours == ()
    assert centres(opened(cleaned(data[:2] + b"".join(parts) + data[2:])))[0][1] < 10


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("quality", [60, 85, 93])
def test_jpeg_keeps_its_quantization(quality: int, orientation: int) -> None:
    """A photo loses next to nothing: its own tables, up to those of quality 95."""
    source = person((192, 256))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(source, "JPEG", quality=quality, exif=exif)
    with JpegImageFile(io.BytesIO(data)) as before:
        tables = before.quantization
    after = opened(cleaned(data))
    assert isinstance(after, JpegImageFile)
    assert sorted(after.quantization[0]) == sorted(tables[0])
    assert (after.quantization[0] == tables[0]) == (orientation == 1)


def test_finest_tables_are_those_of_quality_95() -> None:
    """A JPEG of quality 100 is stored with 95."""
    noise = Image.merge("RGB", [Image.effect_noise((128, 128), 80)] * 3)
    assert len(cleaned(encoded(noise, "JPEG", quality=100)).data) < len(encoded(noise, "JPEG", quality=96))
