"""Which images are accepted: format and size."""

from __future__ import annotations

import pytest

from server.domain.images import MAGIC_BYTES, MEDIA_TYPES, ImageFormat, Limits, judge, refusal, sniff
from tryon.protocol.errors import Unprocessable

HEADS = {
    b"\xff\xd8\xff\xe0\x00\x10JFIF": ImageFormat.JPEG,
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR": ImageFormat.PNG,
    b"RIFF\x24\x00\x00\x00WEBPVP8 ": ImageFormat.WEBP,
    b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic": ImageFormat.HEIC,
    b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1heic": ImageFormat.HEIC,
    b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00avifmif1": ImageFormat.AVIF,
    b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00miafavif": ImageFormat.AVIF,
}


@pytest.mark.parametrize(("head", "format"), HEADS.items(), ids=lambda value: getattr(value, "name", ""))
def test_format_is_sniffed_from_first_bytes(head: bytes, format: ImageFormat) -> None:
    """Each format is found in its header alone and in a padded one."""
    assert sniff(head) is format
    assert sniff((head + bytes(MAGIC_BYTES))[:MAGIC_BYTES]) is format


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff\xd8",
        b"GIF89a" + bytes(26),
        b"BM" + bytes(30),
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'>",
        b"MZ\x90\x00",
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        b" \x89PNG\r\n\x1a\n",
        b"\x89PNG\n\x1a\n\n",
        b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42heic",  # a video whose compatible brands say anything
        b"\x00\x00\x00\x14ftypmif1\x00\x00\x00\x00mif1heic",  # the brand stands behind the end of the box
        b"\x00\x00\x00\x08ftyp",
        b"\x00\x00\x00\x00ftypmif1\x00\x00\x00\x00heic",
    ],
)
def test_other_bytes_are_no_image(head: bytes) -> None:
    """Other formats, look-alikes and broken boxes are not taken for an image."""
    assert sniff(head) is None


def test_truncated_head_never_raises() -> None:
    """Any prefix of a header is that format or none."""
    for head, format in HEADS.items():
        for length in range(len(head)):
            assert sniff(head[:length]) in (None, format)


def test_stored_formats_show_in_every_browser() -> None:
    """HEIC and AVIF are stored as PNG with transparency, else as JPEG."""
    assert {
        (format.extension, format.media_type) for format in ImageFormat if format.stored_as(alpha=False) is format
    } == {
        ("jpg", "image/jpeg"),
        ("png", "image/png"),
        ("webp", "image/webp"),
    }
    assert MEDIA_TYPES == {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
    for foreign in (ImageFormat.HEIC, ImageFormat.AVIF):
        assert foreign.stored_as(alpha=False) is ImageFormat.JPEG
        assert foreign.stored_as(alpha=True) is ImageFormat.PNG


@pytest.mark.parametrize(
    ("width", "height", "code"),
    [
        (64, 64, None),
        (63, 64, "image_too_small"),
        (8192, 63, "image_too_small"),
        (8192, 4882, None),  # 39,993,344 pixels
        (8192, 4883, "too_many_pixels"),
        (8193, 64, "image_too_large"),
        (64, 8193, "image_too_large"),
        (2**31, 2**31, "too_many_pixels"),
    ],
)
def test_sizes_are_judged_at_limits(width: int, height: int, code: str | None) -> None:
    """A size at the limit is accepted, one beyond is refused with its own code."""
    if code is None:
        judge(width, height, Limits())
        return
    with pytest.raises(Unprocessable) as caught:
        judge(width, height, Limits())
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC"),
        (b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00avifmif1", "AVIF"),
        (b"GIF89a", "GIF"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    ],
)
def test_refusal_names_format_and_way_out(head: bytes, name: str) -> None:
    """A picture of a known format is refused with its name and what to do."""
    assert refusal(head) == f"{name} is not supported here; export as JPEG."


@pytest.mark.parametrize("head", [b"", b"MZ\x90\0", b"<svg ", b"RIFF\x24\0\0\0WAVE"])
def test_refusal_names_no_unknown_format(head: bytes) -> None:
    """A file of no known format gets the general words."""
    assert refusal(head) is None


def test_stored_file_is_no_larger_than_an_upload() -> None:
    """The bound of an upload is that of a stored file."""
    assert Limits(max_bytes=12345).max_result_bytes == 12345
