"""A result is what it claims to be, and says nothing but its pixels."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace

import pytest
from PIL import Image

from server.adapters.imaging.outputs.provenance import packet
from server.adapters.imaging.outputs.verifier import verify
from server.adapters.imaging.sample_photos import XMP, metadata
from server.domain.outputs import MARK_BYTES
from testkit.originals import plain
from testkit.photos import encoded, png_chunk, rgb_profile, srgb_curve
from tests.server.adapters.imaging.outputs.results import (
    FORMATS,
    LIMITS,
    assert_no_metadata,
    jumbf,
    manifest,
    marks,
    opened,
    picture,
    refused,
    verified,
    with_segment,
    with_webp_chunks,
)
from tests.server.adapters.imaging.pictures import wide_profile, with_chunk

EVERY = pytest.mark.parametrize("type", FORMATS)

# -- what is no picture of its type ----------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"no picture...", b"<svg/>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\4\0\0\0WEBP"]
)
@EVERY
def test_text_is_refused(type: str, data: bytes) -> None:
    """Thirteen bytes of text are no picture, and nor is a signature alone."""
    assert refused(data, type) in ("unsupported_image", "unreadable_image")


@EVERY
def test_other_type_is_refused(type: str) -> None:
    """A picture of another type than the announced one would be served under a lie."""
    for other in FORMATS:
        if other != type:
            assert refused(picture(other), type) == "unsupported_image"


@pytest.mark.parametrize("type", ["image/gif", "text/html", "image/svg+xml", "image/jpeg; x=1", ""])
def test_unknown_type_is_refused(type: str) -> None:
    """Only the types of the interface are served."""
    assert refused(picture("image/jpeg"), type) == "unsupported_image"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.98])
@EVERY
def test_truncated_file_is_refused(type: str, share: float) -> None:
    """A file that ends early is damaged, however little is missing."""
    data = picture(type) if type != "image/jpeg" else encoded(Image.effect_noise((80, 80), 90).convert("RGB"), "JPEG")
    assert refused(data[: int(len(data) * share)], type) == "unreadable_image"


def test_bomb_is_refused_unread() -> None:
    """A few bytes that would be a picture of gigabytes cost nothing."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(10**6)))
    assert refused(bomb + png_chunk(b"IEND", b""), "image/png") == "too_many_pixels"


def test_bomb_behind_small_header_goes() -> None:
    """Pixels that inflate to more than the header says are not carried along."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(2 * 10**7), 9))
    shown = verified(bomb + png_chunk(b"IEND", b""), "image/png")  # encoded anew, of the pixels that it needs
    assert (shown.width, shown.height, len(shown.data) < 200) == (8, 8, True)


@EVERY
def test_too_many_pixels_are_refused(type: str) -> None:
    """The bound is the one for uploads, and is looked at before a pixel is decoded."""
    assert refused(encoded(Image.new("RGB", (1200, 1000)), FORMATS[type]), type) == "too_many_pixels"


@pytest.mark.parametrize("type", [*FORMATS, "video/mp4", "video/webm"])
def test_too_many_bytes_are_refused(type: str) -> None:
    """A file beyond the bound is not looked at."""
    limits = replace(LIMITS, max_bytes=MARK_BYTES + 100)
    assert refused(bytes(101), type, limits) == "body_too_large"
    assert refused(bytes(100), type, limits) != "body_too_large"


# -- what goes -------------------------------------------------------------------------


@EVERY
def test_metadata_goes_and_pixels_stay(type: str) -> None:
    """EXIF, GPS and XMP are cut out; every pixel is the one that the model made."""
    comment = {"comment": b"taken at home, Elm Street 5"} if type == "image/jpeg" else {}
    data = picture(type, exif=metadata(1), xmp=XMP, **comment)
    shown = verified(data, type)
    assert_no_metadata(shown.data)
    assert (shown.type, shown.width, shown.height) == (type, 80, 80)
    assert opened(shown.data).tobytes() == opened(data).tobytes()


@EVERY
def test_plain_file_stays_as_it_is(type: str) -> None:
    """A file that was plain already is not touched."""
    data = picture(type)
    assert verified(data, type).data == data
    assert (
        verified(verified(data, type, generated=True).data, type, generated=True).data
        == verified(data, type, generated=True).data
    )


@EVERY
def test_turned_picture_becomes_upright(type: str) -> None:
    """Without its EXIF it would lie on its side."""
    data = encoded(plain(100).crop((0, 0, 100, 60)), FORMATS[type], exif=metadata(6))
    shown = verified(data, type)
    assert (shown.width, shown.height) == (60, 100)
    assert opened(shown.data).size == (60, 100)
    assert_no_metadata(shown.data)


@EVERY
def test_other_colours_become_srgb(type: str) -> None:
    """A profile goes, and takes no colour along."""
    shown = verified(encoded(Image.new("RGB", (64, 64), (0, 255, 0)), FORMATS[type], icc_profile=wide_profile()), type)
    assert "icc_profile" not in opened(shown.data).info
    red, green, blue = opened(shown.data).convert("RGB").getpixel((32, 32))  # type: ignore[misc]
    assert green > 200
    assert red + blue < 120


@EVERY
def test_trailing_bytes_go(type: str) -> None:
    """A file that is another file too, from its end, is only the picture."""
    data = picture(type)
    zipped = b"PK\3\4<script>alert(1)</script>" + b"PK\5\6" + bytes(18)
    assert verified(data + zipped, type).data == data


def test_thumbnail_goes() -> None:
    """JFIF and EXIF may hold a small picture of what was cut away."""
    data = picture("image/jpeg")
    content = data[6 : 4 + int.from_bytes(data[4:6])][:12] + b"\2\2" + b"Elm Street 5"
    with_thumbnail = data[:2] + b"\xff\xe0" + (len(content) + 2).to_bytes(2) + content + data[20:]
    assert verified(with_thumbnail, "image/jpeg").data == data


def test_thumbnail_between_scans_goes() -> None:
    """A JFIF segment behind the first scan says nothing to a decoder."""
    data = encoded(plain(80), "JPEG", progressive=True)
    content = data[6 : 4 + int.from_bytes(data[4:6])][:12] + b"\2\2" + b"Elm Street 5"
    at = data.rindex(b"\xff\xda")
    hidden = data[:at] + b"\xff\xe0" + (len(content) + 2).to_bytes(2) + content + data[at:]
    assert verified(hidden, "image/jpeg").data == data


@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xED, 0xEC, 0xEE, 0xEB, 0xE0, 0xFE])
def test_every_kind_of_segment_goes(marker: int) -> None:
    """Unknown application segments may hold anything: Photoshop's hold IPTC."""
    data = picture("image/jpeg")
    assert verified(with_segment(data, marker, b"Photoshop 3.0\0 Elm Street 5"), "image/jpeg").data == data


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME", b"vpAg", b"acTL"])
def test_every_kind_of_chunk_goes(name: bytes) -> None:
    """An ancillary chunk may hold anything."""
    data = picture("image/png")
    assert verified(with_chunk(data, name, b"Comment\0Elm Street 5"), "image/png").data == data


def test_bytes_hidden_behind_pixels_go() -> None:
    """What stands behind the end of the compressed pixels is no pixel."""
    data = encoded(Image.new("RGB", (8, 8)), "PNG")
    at = data.index(b"IDAT")
    size = int.from_bytes(data[at - 4 : at])
    hidden = png_chunk(b"IDAT", data[at + 4 : at + 4 + size] + b"<?php Elm Street 5")
    shown = verified(data[: at - 4] + hidden + data[at + 8 + size :], "image/png")
    assert b"Elm Street" not in shown.data
    assert opened(shown.data).size == (8, 8)


def test_animation_becomes_its_first_picture() -> None:
    """A result is one picture: the others would be shown unjudged."""
    several = encoded(plain(64), "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    assert getattr(opened(verified(several, "image/webp").data), "n_frames", 1) == 1


def test_inks_become_colours() -> None:
    """Browsers show a JPEG of four inks in as many ways as there are browsers."""
    shown = verified(encoded(plain(64, "CMYK"), "JPEG"), "image/jpeg")
    assert opened(shown.data).mode == "RGB"


def test_alpha_stays() -> None:
    """A result may be transparent."""
    for type in ("image/png", "image/webp"):
        shown = verified(encoded(plain(64, "RGBA"), FORMATS[type]), type, generated=True)
        assert opened(shown.data).mode == "RGBA"


# -- where it comes from ---------------------------------------------------------------


@EVERY
def test_generated_result_is_marked(type: str) -> None:
    """The mark stands in XMP, and the picture is what it was."""
    data = picture(type)
    shown = verified(data, type, generated=True)
    assert marks(shown.data) == ["trainedAlgorithmicMedia"]
    assert b"Iptc4xmpExt:DigitalSourceType" in opened(shown.data).info["xmp"]
    assert opened(shown.data).tobytes() == opened(data).tobytes()
    assert marks(verified(data, type).data) == []


@EVERY
def test_source_type_stays_and_its_packet_goes(type: str) -> None:
    """Of an XMP packet the source type is kept, and not its author."""
    stated = packet("compositeWithTrainedAlgorithmicMedia").replace(
        b"rdf:about", b"dc:creator='XMP-of-Elm-Street' rdf:about"
    )
    shown = verified(picture(type, xmp=stated) if type != "image/png" else _png_with_xmp(stated), type)
    assert marks(shown.data) == ["compositeWithTrainedAlgorithmicMedia"]
    assert b"Elm-Street" not in shown.data


def _png_with_xmp(xmp: bytes, *, packed: bool = False) -> bytes:
    text = b"\1\0\0\0" + zlib.compress(xmp) if packed else b"\0\0\0\0" + xmp
    return with_chunk(picture("image/png"), b"iTXt", b"XML:com.adobe.xmp\0" + text)


def test_source_type_in_packed_text_stays() -> None:
    """PNG may compress a packet."""
    shown = verified(_png_with_xmp(packet("algorithmicMedia"), packed=True), "image/png")
    assert marks(shown.data) == ["algorithmicMedia"]


def test_unknown_source_type_goes() -> None:
    """Only IPTC's own words are repeated: another may be anything."""
    shown = verified(picture("image/jpeg", xmp=packet("ElmStreetFive")), "image/jpeg")
    assert marks(shown.data) == []


def with_segments(jpeg: bytes, content: bytes, *, most: int = 60_000) -> bytes:
    """Insert a JUMBF box in segments, each of which repeats its header."""
    pieces = [content[at : at + most] for at in range(8, len(content), most)]
    for number, piece in reversed(list(enumerate(pieces, 1))):
        jpeg = with_segment(jpeg, 0xEB, b"JP\0\1" + number.to_bytes(4) + content[:8] + piece)
    return jpeg


def _with_manifest(type: str, content: bytes) -> bytes:
    data = picture(type)
    if type == "image/jpeg":
        return with_segments(data, content)
    if type == "image/png":
        return with_chunk(data, b"caBX", content)
    return with_webp_chunks(data, (b"C2PA", content + b"\0" * (len(content) % 2)))


@EVERY
def test_manifest_of_plain_file_stays(type: str) -> None:
    """A C2PA manifest covers every byte: the file stays as it is."""
    data = _with_manifest(type, manifest())
    assert verified(data, type).data == data
    assert verified(data, type, generated=True).data == data


@EVERY
def test_manifest_that_would_be_broken_becomes_a_mark(type: str) -> None:
    """With another byte gone its hash would say "forged"; the source stays as XMP."""
    data = _with_manifest(type, manifest())
    changed = data + b"trailer" if type != "image/webp" else with_webp_chunks(data, (b"note", b"Elm Street 5"))
    shown = verified(changed, type)
    assert b"jumb" not in shown.data
    assert marks(shown.data) == ["trainedAlgorithmicMedia"]


def test_manifest_in_several_segments_stays() -> None:
    """A label that two of them share is read like any other."""
    for most in range(40, 200, 7):
        data = with_segments(picture("image/jpeg"), manifest(), most=most)
        assert verified(data, "image/jpeg").data == data


@EVERY
@pytest.mark.parametrize(
    "private",
    [
        jumbf(b"stds.exif", b"exif:GPSLatitude"),
        jumbf(b"c2pa.actions", b"<x:xmpmeta exif:GPSLatitude='52,31N'>"),
        jumbf(b"c2pa.thumbnail.ingredient.jpeg", b"Elm Street 5"),
        jumbf(b"stds.schema-org.CreativeWork", b"Elm Street 5"),
        jumbf(b"com.camera.place", b"Elm Street 5"),
        jumbf(b"c2pa.actions", b"brob Elm Street 5"),
    ],
)
def test_manifest_with_private_metadata_becomes_a_mark(type: str, private: bytes) -> None:
    """A manifest may hold EXIF, XMP, an author, a picture of the photo, or anything."""
    shown = verified(_with_manifest(type, manifest(private)), type)
    assert b"jumd" not in shown.data
    assert marks(shown.data) == ["trainedAlgorithmicMedia"]
    assert opened(shown.data).tobytes() == opened(picture(type)).tobytes()


@EVERY
def test_box_that_is_no_manifest_goes(type: str) -> None:
    """JUMBF may hold anything: the place where manifests stand is no proof."""
    for box in (jumbf(b"com.camera.place", b"Elm Street 5"), b"c2pa Elm Street 5"):
        assert verified(_with_manifest(type, box), type).data == picture(type)


def test_manifest_without_source_gives_way_to_the_mark() -> None:
    """A generated result says so, whatever its manifest leaves out."""
    shown = verified(_with_manifest("image/png", manifest(stated=False)), "image/png", generated=True)
    assert b"jumb" not in shown.data
    assert marks(shown.data) == ["trainedAlgorithmicMedia"]


def test_srgb_profile_of_plain_file_goes() -> None:
    """A profile that means sRGB says nothing; its text might."""
    profile = rgb_profile(
        ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141)), srgb_curve()
    )
    data = encoded(plain(80), "JPEG", icc_profile=profile)
    assert verified(data, "image/jpeg").data == picture("image/jpeg")


def test_source_is_read_from_its_beginning() -> None:
    """The caller may have read the file."""
    source = io.BytesIO(picture("image/png"))
    source.seek(0, io.SEEK_END)
    assert verify(source, "image/png", LIMITS, generated=False).width == 80
