"""A processor's file goes in, one that may be shown comes out.

Its type is the one that was announced, by its content; a picture decodes to its last
pixel, and a film has a whole structure (:mod:`.mp4`, :mod:`.webm`). Private metadata
has gone; the mark of its source stays or is added (:mod:`.provenance`).

The pixels of an honest file are not touched: what goes is cut out between them. A
picture that is turned by its EXIF, has colours that are not sRGB, or hides something
among its pixels is encoded anew, as an upload is (:mod:`..cleaner`).

CPU of one verify() on one core, with Pillow 13, in brackets Pillow's decode alone; the
picture is a photo of 1024 x 1365 with grain::

    JPEG, 203 kB     6 ms  (5)
    PNG, 1.4 MB     46 ms  (30; it is inflated twice)
    WebP, 75 kB     21 ms  (21)
    MP4, 8.4 MB     36 ms
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from PIL import Image

from server.adapters.imaging.cleaner import clean
from server.adapters.imaging.exif import UPRIGHT
from server.adapters.imaging.jpeg_file import read_jpeg
from server.adapters.imaging.outputs import jpeg, mp4, png, webm, webp
from server.adapters.imaging.outputs.provenance import Stripped, address, may_stay, packet, source_type
from server.adapters.imaging.parts import SRGB, Colours
from server.adapters.imaging.png_file import read_png
from server.adapters.imaging.profiles import is_srgb
from server.domain.images import MAGIC_BYTES, STORED, ImageFormat, Limits, judge, refusal, sniff
from server.domain.outputs import EXTENSIONS, MARK_BYTES
from tryon.protocol.errors import TooLarge, TryOnError, Unprocessable, UnsupportedMedia

_FORMATS: Final = {media_type: format for format, (_, media_type) in STORED.items()}
_PLAIN_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A file that may be shown."""

    data: bytes = field(repr=False)
    type: str
    width: int
    height: int


def verify(source: BinaryIO, type: str, limits: Limits, *, generated: bool) -> Shown:
    """Return the file in ``source``, read from its beginning, as it may be shown.

    Raises what ``Imaging.verify`` raises.
    """
    source.seek(0)
    most = limits.max_bytes - MARK_BYTES
    data = source.read(most + 1)
    if len(data) > most:
        raise TooLarge
    if type not in EXTENSIONS:
        raise UnsupportedMedia("unsupported_image", f"{type} is no type of a result.")
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        work = _picture if type in _FORMATS else _film
        return work(data, type, limits, generated=generated)
    except TryOnError:
        raise
    except Exception as error:  # untrusted bytes in C code: any class at all
        raise Unprocessable("unreadable_image") from error


def _picture(data: bytes, type: str, limits: Limits, *, generated: bool) -> Shown:
    format = _FORMATS[type]
    if sniff(data[:MAGIC_BYTES]) is not format:
        raise UnsupportedMedia("unsupported_image", refusal(data[:MAGIC_BYTES]) or f"The file is no {type}.")
    if format is ImageFormat.PNG:
        judge(*png.size(data), limits)
    stripped = _stripped(data, format)
    term = source_type(data, stripped.text if stripped else b"", generated=generated)
    if stripped is not None and (size := _decoded(stripped.data, format, limits)):
        if may_stay(stripped, term):
            return Shown(data=data, type=type, width=size[0], height=size[1])
        bare = stripped.data
    else:
        image_anew = clean(io.BytesIO(data), limits)
        format, bare, size = image_anew.format, image_anew.data, (image_anew.width, image_anew.height)
    marked = _marked(bare, format, packet(term), size) if term else bare
    return Shown(data=marked, type=format.media_type, width=size[0], height=size[1])


def _stripped(data: bytes, format: ImageFormat) -> Stripped | None:
    """Return the file without metadata; None if it must be encoded anew."""
    if format is ImageFormat.WEBP:
        return webp.strip(data)
    parts = read_jpeg(data) if format is ImageFormat.JPEG else read_png(data)
    if parts.cut or parts.rest or parts.orientation != UPRIGHT or not _is_plain(parts.colours):
        return None
    return jpeg.strip(data, parts) if format is ImageFormat.JPEG else png.strip(data)


def _is_plain(colours: tuple[Colours, ...]) -> bool:
    """Return whether the picture looks the same without a word about its colours."""
    first = next(iter(colours), SRGB)
    if isinstance(first, bytes):
        try:
            return is_srgb(first)
        except (struct.error, ValueError):
            return False
    return first == SRGB


def _decoded(data: bytes, format: ImageFormat, limits: Limits) -> tuple[int, int] | None:
    """Return the size of a picture that decodes to its last pixel.

    None if its pixels are of a kind that is encoded anew (inks). Pillow raises any
    class of exception if one is missing.
    """
    with Image.open(io.BytesIO(data), formats=[format.value]) as image:
        judge(image.width, image.height, limits)
        image.load()
        return image.size if image.mode in _PLAIN_MODES else None


def _marked(data: bytes, format: ImageFormat, xmp: bytes, size: tuple[int, int]) -> bytes:
    if format is ImageFormat.JPEG:
        return jpeg.mark(data, xmp)
    return png.mark(data, xmp) if format is ImageFormat.PNG else webp.mark(data, xmp, size)


def _film(data: bytes, type: str, limits: Limits, *, generated: bool) -> Shown:
    is_mp4 = type == "video/mp4"
    stripped = mp4.strip(data) if is_mp4 else webm.strip(data)
    width, height = stripped.width, stripped.height
    if not width or not height:
        raise Unprocessable("unreadable_image", "The film has no size.")
    judge(width, height, limits)
    term = source_type(data, generated=generated)
    if may_stay(stripped, term):
        shown = data
    elif term is None:
        shown = stripped.data
    else:
        shown = mp4.mark(stripped.data, packet(term)) if is_mp4 else webm.mark(stripped.data, address(term))
    return Shown(data=shown, type=type, width=width, height=height)
