"""Pillow: an untrusted photo goes in, a clean one comes out.

Clean means: one frame, upright, 8-bit RGB or RGBA in sRGB, and nothing but pixels: no
EXIF, GPS, XMP, profile, comment or further frame. The file is taken apart first
(:mod:`.jpeg_file`, :mod:`.png_file`, :mod:`.heif_file`), then decoded, then its numbers
become sRGB (:mod:`.colours`), and :mod:`.storing` makes the new file. Any exception or
warning of Pillow's about untrusted bytes becomes a domain error here; mutating valid
images at random makes it raise at least eight different classes.

CPU of one clean() on one core, with Pillow 13; in brackets the same decode,
``exif_transpose`` and encode alone::

    JPEG, 196 kB, 1024 x 768, on its side     5.2 ms  (5.2)
    JPEG, 3.9 MB, 12 MP, upright               78 ms  (112, ``exif_transpose`` copies)
    the same in Display P3                    231 ms
    the same without an end marker            220 ms  (decoded three times)
    WebP, 2.8 MB, 12 MP                       0.7 s
    PNG,  23 MB, 12 MP                        1.4 s

It takes up to 24 bytes of memory a pixel (lossless WebP; JPEG 8, progressive CMYK 12,
PNG and AVIF 11).
"""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, BinaryIO, Final

from PIL import AvifImagePlugin, Image, ImageChops, JpegImagePlugin, PngImagePlugin, WebPImagePlugin, features

from server.adapters.imaging.colours import to_srgb
from server.adapters.imaging.exif import FIRST_ON_ITS_SIDE, UPRIGHT, orientation
from server.adapters.imaging.heif_file import heif_colours, is_cut
from server.adapters.imaging.jpeg_file import END, OTHER_ENDS, read_jpeg
from server.adapters.imaging.parts import CUT_OFF, MAX_PROFILE_BYTES, Parts
from server.adapters.imaging.png_file import read_png
from server.adapters.imaging.storing import JpegCoding, store
from server.domain.images import MAGIC_BYTES, CleanImage, ImageFormat, Limits, judge, refusal, sniff
from tryon.protocol.errors import TooLarge, TryOnError, Unprocessable, UnsupportedMedia

# Pillow's debug log spells out the EXIF it reads, GPS included, and no log may hold
# that.
logging.getLogger("PIL").setLevel(logging.INFO)

_TURNS: Final[dict[int, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Turn that makes a picture upright, by EXIF orientation (EXIF 2.32, tag 0x0112)."""


def _accepted() -> frozenset[ImageFormat]:
    """Return the formats that this installation decodes.

    Image.open tries only plugins that are imported.
    """
    found = {
        ImageFormat.JPEG: JpegImagePlugin,
        ImageFormat.PNG: PngImagePlugin,
        ImageFormat.WEBP: WebPImagePlugin,
    }
    if features.check("avif"):
        found[ImageFormat.AVIF] = AvifImagePlugin
    try:
        found[ImageFormat.HEIC] = importlib.import_module("pillow_heif")  # the extra `heif`
    except ImportError:
        pass
    else:
        found[ImageFormat.HEIC].register_heif_opener(thumbnails=False)
        found[ImageFormat.HEIC].options.DECODE_THREADS = 1
    return frozenset(found)


# A thread per core would only need memory: there are as many of these processes as
# photos at work.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

ACCEPTED: Final = _accepted()
"""The formats that ``pool.ACCEPTED`` promises, asked of the decoders themselves."""


def clean(source: BinaryIO, limits: Limits) -> CleanImage:
    """Return the picture in ``source``, read from its beginning, cleaned.

    Shares nothing. Raises what ``Imaging.clean`` raises.
    """
    source.seek(0)
    data = source.read(limits.max_bytes + 1)
    if len(data) > limits.max_bytes:
        raise TooLarge
    format = sniff(data[:MAGIC_BYTES])
    if format is None or format not in ACCEPTED:
        raise UnsupportedMedia("unsupported_image", refusal(data[:MAGIC_BYTES]))
    warnings.filterwarnings("ignore", module=r"PIL\.|pillow_heif")
    try:
        return _clean(data, format, limits)
    except TryOnError:
        raise
    except Image.DecompressionBombError:  # Pillow's own bound, should ours be set higher than 179 MP
        raise Unprocessable("too_many_pixels") from None
    except Exception as error:  # untrusted bytes in C code: any class at all, see the module's docstring
        raise Unprocessable("unreadable_image") from error


_DAMAGED: Final = {
    format: f"This {format.name} is damaged or of a kind that can't be read here; export as JPEG."
    for format in (ImageFormat.AVIF, ImageFormat.HEIC)
}


def _clean(data: bytes, format: ImageFormat, limits: Limits) -> CleanImage:
    parts = _READERS[format](data)
    try:
        with _open(parts.data, format) as image:
            judge(image.width, image.height, limits)
            if format is ImageFormat.JPEG and parts.cut:
                picture = _without_end(parts)
            else:
                image.load()  # the first frame; pixels that are missing raise
                picture = image
            coding = JpegCoding.of(image) if isinstance(image, JpegImagePlugin.JpegImageFile) else None
            parts = _with_notes(parts, format, image.info)
            upright = to_srgb(picture, parts.colours, grey=parts.grey)
    except (TryOnError, Image.DecompressionBombError):
        raise
    except Exception as error:
        raise Unprocessable("unreadable_image", CUT_OFF if parts.cut else _DAMAGED.get(format)) from error
    turn = _TURNS.get(parts.orientation)
    if turn is not None:
        upright = upright.transpose(turn)
        coding = coding.transposed() if coding and parts.orientation >= FIRST_ON_ITS_SIDE else coding
    upright.info = {}  # a comment, a profile or a transparent colour would be written from here
    return store(
        upright,
        format.stored_as(alpha=upright.mode == "RGBA"),
        coding=coding,
        max_bytes=limits.max_result_bytes,
    )


def _open(data: bytes, format: ImageFormat) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=[format.value])


def _without_end(parts: Parts) -> Image.Image:
    """Return the picture of a JPEG without an end marker.

    libjpeg paints pixels that are missing, and says nothing: different ends give the
    same picture only if none is. Raises Unprocessable otherwise.
    """
    picture = _loaded(parts.data + END)
    if not any(ImageChops.difference(picture, _loaded(parts.data + end)).getbbox() for end in OTHER_ENDS):
        return picture
    if not parts.rest:
        raise Unprocessable("unreadable_image", CUT_OFF)
    return _loaded(parts.data + parts.rest)


def _loaded(data: bytes) -> Image.Image:
    with _open(data, ImageFormat.JPEG) as image:
        image.load()
        return image


def _read_webp(data: bytes) -> Parts:
    """RFC 9649 section 2.4: the file's size stands in its second word."""
    return Parts(data=data, cut=int.from_bytes(data[4:8], "little") + 8 > len(data))


def _read_heif(data: bytes) -> Parts:
    return Parts(data=data, colours=heif_colours(data), cut=is_cut(data))


_READERS: Final[Mapping[ImageFormat, Callable[[bytes], Parts]]] = {
    ImageFormat.JPEG: read_jpeg,
    ImageFormat.PNG: read_png,
    ImageFormat.WEBP: _read_webp,
    ImageFormat.AVIF: _read_heif,
    ImageFormat.HEIC: _read_heif,
}


def _with_notes(parts: Parts, format: ImageFormat, info: Mapping[str | tuple[int, int], Any]) -> Parts:
    """Return the parts with what Pillow has found in a WebP, AVIF or HEIC.

    Its EXIF of an AVIF has the orientation of the container (irot, imir), which alone
    counts there; of a HEIC libheif has turned the pixels already.
    """
    if format in (ImageFormat.JPEG, ImageFormat.PNG):
        return parts
    turned = UPRIGHT if format is ImageFormat.HEIC else orientation(info.get("exif") or b"")
    profile: bytes = info.get("icc_profile") or b""
    found = (profile,) if 0 < len(profile) <= MAX_PROFILE_BYTES else parts.colours
    return replace(parts, colours=found, orientation=turned)
