"""The photos that are refused, most of them before they are decoded."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest
from PIL import Image

from server.adapters.imaging.jpeg_file import MAX_SCANS, read_jpeg
from server.adapters.imaging.parts import CUT_OFF, MAX_PROFILE_BYTES
from server.adapters.imaging.pool import ACCEPTED
from server.adapters.imaging.sample_photos import person
from server.domain.images import ImageFormat, Limits
from testkit.photos import png_chunk
from tests.server.adapters.imaging.pictures import (
    cleaned,
    encode,
    refusal,
    with_chunk,
)
from tryon.protocol.errors import Unprocessable, UnsupportedMedia


def png_header(width: int, height: int, *, depth: int = 8, colour: int = 6) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )


def test_bomb_is_refused_by_its_header() -> None:
    """These files have no pixel: decoding them would find them unreadable."""
    start = png_header(20_000, 20_000) + b"\0\0\0\x08IDAT"
    assert refusal(start) == "too_many_pixels"
    assert refusal(png_header(2**31 - 1, 2**31 - 1) + start[33:]) == "too_many_pixels"
    assert refusal(png_header(9000, 100) + start[33:]) == "image_too_large"
    assert refusal(png_header(100, 63) + start[33:]) == "image_too_small"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_size_limits_hold_for_every_format(format: str) -> None:
    """Pixels and sides are judged before the picture is decoded."""
    limits = Limits(min_side=64, max_side=300, max_pixels=80_000)
    for size, code in (
        ((63, 100), "image_too_small"),
        ((301, 100), "image_too_large"),
        ((290, 290), "too_many_pixels"),
    ):
        assert refusal(encode(Image.new("RGB", size), format), limits) == code
    assert cleaned(encode(Image.new("RGB", (64, 300)), format), limits).height == 300


def test_long_file_is_refused_unopened() -> None:
    """A file of too many bytes is refused before a decoder sees it."""
    assert refusal(b"\xff\xd8\xff" + bytes(1021), Limits(max_bytes=1024)) == "unreadable_image"
    assert refusal(b"\xff\xd8\xff" + bytes(1021), Limits(max_bytes=1023)) == "body_too_large"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.98])
def test_truncated_photo_is_refused(format: str, share: float) -> None:
    """A photo with missing pixels is refused."""
    if format == "AVIF" and ImageFormat.AVIF not in ACCEPTED:
        pytest.skip("no AVIF decoder here")
    data = encode(person((400, 400)), format, quality=85)
    assert refusal(data[: int(len(data) * share)]) == "unreadable_image"


def test_truncated_progressive_photo_is_refused() -> None:
    """A progressive photo is accepted whole and refused truncated."""
    data = encode(person((400, 400)), "JPEG", progressive=True)
    assert cleaned(data).width == 400
    assert refusal(data[: len(data) // 2]) == "unreadable_image"


def test_other_formats_are_refused() -> None:
    """Formats that Pillow reads and the product does not accept are refused."""
    picture = person((100, 100))
    for format in ("GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "PDF", "EPS", "JPEG2000"):
        assert refusal(encode(picture, format)) == "unsupported_image"
    assert refusal(b"") == "unsupported_image"
    assert refusal(b"<svg xmlns='http://www.w3.org/2000/svg' width='100' height='100'/>") == "unsupported_image"


def test_jpeg_of_many_scans_is_refused() -> None:
    """A JPEG of countless scans is refused before it is decoded."""
    data = encode(person((200, 200)), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    last = data[at:-2]

    def scans(count: int) -> bytes:
        return data[:-2] + last * (count - data.count(b"\xff\xda")) + b"\xff\xd9"

    assert cleaned(scans(MAX_SCANS)).width == 200
    assert refusal(scans(MAX_SCANS + 1)) == "unreadable_image"


def test_countless_pieces_are_refused() -> None:
    """Millions of empty segments or chunks are given up, and cost no memory."""
    photo, picture = encode(person((100, 100)), "JPEG"), encode(person((100, 100)), "PNG")
    tracemalloc.start()
    try:
        assert refusal(photo[:2] + b"\xff\xdb\0\2" * 1_000_000 + photo[2:]) == "unreadable_image"
        assert refusal(picture[:-12] + png_chunk(b"IDAT", b"") * 300_000 + picture[-12:]) == "unreadable_image"
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_scans_behind_damage_are_bounded() -> None:
    """A marker amid the first scan hides no scans behind it from the bound."""
    data = encode(person((400, 400)), "JPEG", progressive=True, restart_marker_rows=1)
    last = data[data.rindex(b"\xff\xda") : -2]
    damage = data.index(b"\xff\xda") + 30
    damaged = data[:damage] + b"\xff\x9f" + data[damage + 2 : -2] + last * 200 + b"\xff\xd9"
    assert read_jpeg(damaged).data.count(b"\xff\xda") == MAX_SCANS


def test_long_transparent_colour_costs_no_memory() -> None:
    """Read only the bytes of a tRNS chunk that a colour has."""
    data = with_chunk(encode(person((100, 100)).convert("L"), "PNG"), b"tRNS", b"\0\1" * 1_000_000)
    tracemalloc.start()
    try:
        assert cleaned(data).width == 100
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_scan_codes_in_metadata_are_no_scans() -> None:
    """Bytes in metadata that look like scans are not counted."""
    data = encode(person((200, 200)), "JPEG", comment=b"\xff\xda" * 1000)
    assert cleaned(data).width == 200


def test_text_bomb_in_png_is_never_unpacked() -> None:
    """Compressed text that grows to 50 MB costs nothing: the decoder never sees it."""
    bomb = b"Comment\0\0" + zlib.compress(bytes(50_000_000), 9)
    tracemalloc.start()
    try:
        assert cleaned(with_chunk(encode(person((100, 100)), "PNG"), b"zTXt", bomb)).width == 100
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_profile_bomb_in_png_is_ignored() -> None:
    """A compressed profile that grows to 50 MB is unpacked up to its bound only."""
    bomb = b"x\0\0" + zlib.compress(bytes(50_000_000), 9)
    tracemalloc.start()
    try:
        assert cleaned(with_chunk(encode(person((100, 100)), "PNG"), b"iCCP", bomb)).width == 100
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_PROFILE_BYTES
    finally:
        tracemalloc.stop()


def test_refusal_of_cut_file_says_so() -> None:
    """A file that ends amid its pixels is told apart from a damaged one."""
    for format in ("JPEG", "PNG", "WEBP", "AVIF"):
        if ImageFormat[format] not in ACCEPTED:
            continue
        data = encode(person((200, 200)), format)
        with pytest.raises(Unprocessable) as caught:
            cleaned(data[: len(data) * 2 // 3])
        assert caught.value.detail == CUT_OFF, format


@pytest.mark.skipif(ImageFormat.HEIC in ACCEPTED, reason="the extra heif is installed")
def test_heic_is_refused_by_name() -> None:
    """A HEIC is refused with its name and what to do."""
    with pytest.raises(UnsupportedMedia) as caught:
        cleaned(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert caught.value.detail == "HEIC is not supported here; export as JPEG."
