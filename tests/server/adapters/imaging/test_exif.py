"""Orientation comes from EXIF's tag or the container, once, and from nowhere else."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from server.adapters.imaging.exif import orientation
from server.adapters.imaging.pool import ACCEPTED
from server.adapters.imaging.sample_photos import person
from server.domain.images import ImageFormat
from testkit.photos import encoded, exif_of, jpeg_segment, png_chunk, with_chunks
from tests.server.adapters.imaging.pictures import assert_upright, cleaned, opened

SHORT_6 = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
XMP = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    b"<rdf:Description xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation='6'/></rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize(
    ("exif", "expected"),
    [
        (exif_of(SHORT_6), 6),
        (exif_of(struct.pack(">HHIHH", 0x0112, 3, 1, 8, 0), order=b"MM"), 8),
        (exif_of(struct.pack("<HHII", 0x0110, 2, 4, 0) + SHORT_6, count=2), 6),
        (exif_of(SHORT_6)[6:], 6),  # without the name that only JPEG has
        (exif_of(struct.pack("<HHII", 0x0112, 4, 1, 6)), 1),  # a LONG
        (exif_of(struct.pack("<HHIHH", 0x0112, 3, 2, 6, 6)), 1),  # two of them
        (exif_of(struct.pack("<HHIHH", 0x0112, 3, 1, 9, 0)), 1),
        (exif_of(SHORT_6, count=0), 1),
        (exif_of(b"", count=65535), 1),
        (exif_of(SHORT_6).replace(b"II*\0\x08", b"II*\0\xff"), 1),
        (b"", 1),
        (b"Exif\0\0II", 1),
    ],
)
def test_orientation_is_one_short_of_first_directory(exif: bytes, expected: int) -> None:
    """Accept only a single SHORT of 1 to 8, in either byte order."""
    assert orientation(exif) == expected


def test_any_prefix_of_exif_is_read() -> None:
    """EXIF that ends early gives an orientation or none, and never an error."""
    whole = exif_of(struct.pack("<HHII", 0x0110, 2, 4, 0) + SHORT_6, count=2)
    assert {orientation(whole[:length]) for length in range(len(whole))} <= {1, 6}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_orientation_in_xmp_alone_is_ignored(format: str) -> None:
    """XMP's orientation turns nothing, as in browsers."""
    if format == "AVIF" and ImageFormat.AVIF not in ACCEPTED:
        pytest.skip("no AVIF decoder here")
    if format == "PNG":
        text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
        data = with_chunks(encoded(person((120, 160)), "PNG"), text)
    else:
        data = encoded(person((120, 160)), format, xmp=XMP)
    assert_upright(opened(cleaned(data)))


def test_exif_in_png_text_is_ignored() -> None:
    """EXIF that ImageMagick keeps as hexadecimal text turns nothing."""
    exif = exif_of(SHORT_6)
    text = b"Raw profile type exif\0\nexif\n      %d\n%s\n" % (len(exif), exif.hex().encode())
    assert_upright(opened(cleaned(with_chunks(encoded(person((120, 160)), "PNG"), png_chunk(b"tEXt", text)))))


@pytest.mark.parametrize(("segments", "turned"), [((b"", SHORT_6), False), ((SHORT_6, b""), True)])
def test_first_exif_of_jpeg_counts(segments: tuple[bytes, bytes], turned: bool) -> None:
    """The first of two EXIF segments decides."""
    data = encoded(person((120, 160)), "JPEG", quality=95)
    exif = b"".join(jpeg_segment(0xE1, exif_of(entries, len(entries) // 12)) for entries in segments)
    image = cleaned(data[:2] + exif + data[2:])
    assert (image.width, image.height) == ((160, 120) if turned else (120, 160))


@pytest.mark.skipif(ImageFormat.AVIF not in ACCEPTED, reason="this Pillow has no AVIF decoder")
def test_container_overrules_exif_in_avif() -> None:
    """An AVIF whose container does not turn it is upright, whatever its EXIF says."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(person((120, 160)), "AVIF", exif=exif)
    assert data.count(b"irot") == 1
    at = data.index(b"irot") + 4
    assert (cleaned(data).width, cleaned(data).height) == (160, 120)
    still = data[:at] + b"\0" + data[at + 1 :]
    assert_upright(opened(cleaned(still)))
