"""PNGs with damage that costs no pixel are taken; what is cut in its pixels is not."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import ImageChops

from server.adapters.imaging.parts import CUT_OFF
from server.adapters.imaging.png_file import read_png
from server.adapters.imaging.sample_photos import person
from testkit.clean_photos import assert_nothing_but_pixels
from testkit.photos import centres, cicp, encoded, exif_of, patches, png_16_bit, png_chunk, with_chunks
from tests.server.adapters.imaging.pictures import cleaned, opened
from tryon.protocol.errors import TryOnError

WRONG = 12345


@pytest.mark.parametrize("name", [b"tEXt", b"gAMA", b"iCCP", b"eXIf", b"pHYs", b"tRNS", b"cICP", b"zzZz"])
@pytest.mark.parametrize("behind", [False, True])
def test_wrong_checksum_costs_the_chunk(name: bytes, behind: bool) -> None:
    """An ancillary chunk with a wrong checksum is left out, before and after pixels."""
    picture = person((96, 128))
    data = encoded(picture, "PNG")
    chunk = png_chunk(name, b"\0\1\x86\xa0", checksum=WRONG)
    image = cleaned(data[:-12] + chunk + data[-12:] if behind else with_chunks(data, chunk))
    assert_nothing_but_pixels(image)
    assert ImageChops.difference(opened(image), picture).getbbox() is None


def test_wrong_checksum_of_critical_chunk_is_refused() -> None:
    """Header and palette must be intact."""
    data = encoded(person((96, 128)).quantize(32), "PNG")
    for name in (b"IHDR", b"PLTE"):
        at = data.index(name)
        end = at + 4 + int.from_bytes(data[at - 4 : at])
        with pytest.raises(TryOnError) as caught:
            cleaned(data[:end] + b"\0\0\0\0" + data[end + 4 :])
        assert caught.value.code == "unreadable_image"


@pytest.mark.parametrize("missing", [1, 4, 7, 8, 11, 12, 14, 16, 18])
def test_cut_behind_the_pixels_costs_nothing(missing: int) -> None:
    """The end chunk, the last checksums: every pixel is there without them."""
    picture = person((96, 128))
    image = cleaned(encoded(picture, "PNG")[:-missing])
    assert ImageChops.difference(opened(image), picture).getbbox() is None
    assert_nothing_but_pixels(image)


@pytest.mark.parametrize("missing", [40, 100, 1000, 3000])
def test_cut_in_the_pixels_is_refused(missing: int) -> None:
    """A file that ends amid its pixels is refused with a word that says so."""
    with pytest.raises(TryOnError) as caught:
        cleaned(encoded(person((96, 128)), "PNG")[:-missing])
    assert (caught.value.code, caught.value.detail) == ("unreadable_image", CUT_OFF)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_16_bits_become_8(mode: str) -> None:
    """The higher half of each 16 bits is kept, in every mode."""
    picture = patches(mode)
    stored = opened(cleaned(png_16_bit(picture)))
    assert centres(stored) == centres(picture)
    if "A" in mode:
        assert stored.getchannel("A").getextrema() == (128, 128)


def test_transparent_colour_of_16_bits_becomes_alpha() -> None:
    """The one transparent colour of a PNG of 16 bits, grey or not."""
    for mode in ("L", "RGB"):
        picture = patches(mode)
        levels = picture.getpixel((5, 5))
        values = levels if isinstance(levels, tuple) else (levels,)
        chunk = png_chunk(b"tRNS", b"".join(struct.pack(">H", int(value or 0) * 257) for value in values))
        alpha = opened(cleaned(with_chunks(png_16_bit(picture), chunk))).getchannel("A")
        assert (alpha.getpixel((5, 5)), alpha.getpixel((60, 60))) == (0, 255)


@pytest.mark.parametrize("bits", [2, 4])
def test_transparent_level_of_few_bits_becomes_alpha(bits: int) -> None:
    """The transparent level of a grey PNG counts in its own few bits."""
    levels = 2**bits
    row, other = (b"\0" + bytes((value,)) * (64 * bits // 8) for value in (0xFF, 0x55))  # of 0x55 the level is 1, or 5
    header = struct.pack(">IIBBBBB", 64, 64, bits, 0, 0, 0, 0)
    level = 1 if bits == 2 else 5
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(name, content)
        for name, content in (
            (b"IHDR", header),
            (b"tRNS", struct.pack(">H", level)),
            (b"IDAT", zlib.compress(row * 32 + other * 32)),
            (b"IEND", b""),
        )
    )
    stored = opened(cleaned(data))
    assert stored.getpixel((5, 5)) == (255, 255, 255, 255)
    grey = level * 255 // (levels - 1)
    assert stored.getpixel((5, 50)) == (grey, grey, grey, 0)


def test_orientation_stands_before_the_pixels() -> None:
    """EXIF turns a picture from before its pixels, not from behind them."""
    data = encoded(person((96, 128)), "PNG")
    exif = png_chunk(b"eXIf", exif_of(struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0))[6:])
    assert read_png(with_chunks(data, exif)).orientation == 6
    assert read_png(data[:-12] + exif + data[-12:]).orientation == 1


def test_decoder_gets_pixels_alone() -> None:
    """Text, profile and animation are not handed on."""
    data = encoded(person((96, 128)), "PNG")
    noisy = with_chunks(data, png_chunk(b"tEXt", b"a\0b"), png_chunk(b"acTL", bytes(8)), cicp(12, 13))
    assert read_png(noisy).data == data
    assert read_png(noisy + b"behind").data == data


def test_any_prefix_is_read() -> None:
    """A file that ends anywhere is taken apart or refused, and nothing else."""
    data = with_chunks(encoded(person((64, 64)), "PNG"), png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200))))
    for length in range(8, 33):
        with pytest.raises(TryOnError):
            read_png(data[:length])
    assert all(read_png(data[:length]).cut for length in range(33, len(data) - 4, 5))
