"""Pillow: a photo that anybody may have made goes in, a clean one comes out.

Clean means: one frame, upright, 8-bit RGB or RGBA in sRGB, and nothing but pixels: no EXIF, GPS, XMP, profile, comment
or further frame. Whatever Pillow raises or warns of about somebody's bytes becomes a domain error here; mutating valid
images at random makes it raise at least eight different classes.

CPU of one clean() on one core, with Pillow 13; in brackets the same decode, ``exif_transpose`` and encode alone::

    JPEG, 196 kB, 1024 x 768, lying on its side      5.2 ms  (5.2)
    JPEG, 3.9 MB, 4000 x 3000, upright              78   ms  (112, ``exif_transpose`` copies)
    the same in Display P3                         231   ms
    WebP, 2.8 MB, 4000 x 3000                      0.7   s
    PNG,  23 MB, 4000 x 3000                       1.4   s
"""

from __future__ import annotations

import asyncio
import importlib
import io
import logging
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Final

from PIL import AvifImagePlugin, Image, ImageCms, JpegImagePlugin, PngImagePlugin, WebPImagePlugin, features

from ..domain.errors import TooLarge, TryOnError, Unprocessable, UnsupportedMedia
from ..domain.images import MAGIC_BYTES, ImageFormat, Limits, judge, sniff

# Pillow's debug log spells out the EXIF it reads, GPS included, and no log may hold that.
logging.getLogger("PIL").setLevel(logging.INFO)

JPEG_QUALITY: Final = 90
WEBP_QUALITY: Final = 90
PNG_COMPRESS_LEVEL: Final = 1
"""Level 6 takes 1.7 times the CPU of level 1 for a file 10 % smaller."""
MAX_JPEG_SCANS: Final = 64
"""Encoders write at most about 14. A scan may be 40 bytes and costs 16 ms at 40 MP: 10 MB of them would take an hour."""

_TURNS: Final[dict[int, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation (EXIF 2.32, tag 0x0112)."""

_PROFILE_SPACES: Final = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}
_SRGB: Final = ImageCms.createProfile("sRGB")


def _accepted() -> frozenset[ImageFormat]:
    """The formats that this installation decodes. Image.open tries only plugins that are imported."""
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
    return frozenset(found)


ACCEPTED: Final = _accepted()
"""JPEG, PNG and WebP always; AVIF and HEIC where their decoder is installed."""


@dataclass(frozen=True, slots=True)
class CleanImage:
    """A file that is fit to be stored and served."""

    data: bytes
    format: ImageFormat
    width: int
    height: int

    @property
    def extension(self) -> str:
        """Without a dot."""
        return self.format.extension

    def __repr__(self) -> str:
        return f"<CleanImage {self.format.name} {self.width}x{self.height} {len(self.data)} bytes>"


class Imaging:
    """Cleans photos in ``workers`` threads; Pillow lets go of the interpreter lock while it decodes and encodes.

    A picture of p pixels takes up to 8 p bytes of memory while it is worked on: 320 MB at 40 MP, times ``workers``.
    """

    def __init__(self, limits: Limits, *, workers: int = 2) -> None:
        self.limits = limits
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="imaging")

    def __repr__(self) -> str:
        return f"<Imaging {self.limits}>"

    async def clean(self, source: BinaryIO) -> CleanImage:
        """The picture in ``source``, cleaned. Waits for a free thread. ``source`` must stay open until then.

        Raises ``unsupported_image``, ``unreadable_image``, ``too_many_pixels``, ``image_too_large``, ``image_too_small``
        or ``body_too_large``.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, clean, source, self.limits)

    async def close(self) -> None:
        """Waits for running work, forgets what is queued."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)


def clean(source: BinaryIO, limits: Limits) -> CleanImage:
    """What :meth:`Imaging.clean` does, blocking. It reads ``source`` from its beginning and shares nothing."""
    source.seek(0)
    data = source.read(limits.max_bytes + 1)
    if len(data) > limits.max_bytes:
        raise TooLarge
    format = sniff(data[:MAGIC_BYTES])
    if format not in ACCEPTED:
        raise UnsupportedMedia("unsupported_image")
    # Not catch_warnings: that swaps a global and is not safe in threads.
    warnings.filterwarnings("ignore", module=r"PIL\.|pillow_heif")
    try:
        return _clean(data, format, limits)
    except TryOnError:
        raise
    except Image.DecompressionBombError:  # Pillow's own bound, should ours be set higher than 179 MP
        raise Unprocessable("too_many_pixels") from None
    except Exception as error:  # somebody else's bytes in C code: any class at all, see the module's docstring
        raise Unprocessable("unreadable_image") from error


def _clean(data: bytes, format: ImageFormat, limits: Limits) -> CleanImage:
    with Image.open(io.BytesIO(data), formats=[format.value]) as image:
        judge(image.width, image.height, limits)
        if format is ImageFormat.JPEG and _too_many_scans(data):
            raise Unprocessable("unreadable_image")
        image.load()  # the first frame; pixels that are missing raise
        subsampling = JpegImagePlugin.get_sampling(image) if format is ImageFormat.JPEG else -1
        upright = _srgb(image)
        turn = _TURNS.get(_orientation(image))
    if turn is not None:
        upright = upright.transpose(turn)
    upright.info = {}  # a comment, a profile or a transparent colour would be written from here
    stored = format.stored_as(alpha=upright.mode == "RGBA")
    out = io.BytesIO()
    match stored:
        case ImageFormat.JPEG:
            # 4:4:4 stays (text on clothes is sharp in it), everything else becomes 4:2:0, as cameras write it
            upright.save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0 if subsampling == 0 else 2)
        case ImageFormat.PNG:
            upright.save(out, "PNG", compress_level=PNG_COMPRESS_LEVEL)
        case _:
            upright.save(out, "WEBP", quality=WEBP_QUALITY, method=0)
    return CleanImage(out.getvalue(), stored, *upright.size)


_JPEG_MARKER: Final = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])", re.DOTALL)
"""Any but RSTn; FF 00 is data, FF FF is fill (ITU-T T.81 B.1.1)."""


def _too_many_scans(data: bytes) -> bool:
    if data.count(b"\xff\xda") <= MAX_JPEG_SCANS:
        return False
    scans = 0
    at = 2
    while (marker := _JPEG_MARKER.search(data, at)) and marker[1] != b"\xd9":
        scans += marker[1] == b"\xda"
        at = marker.end()
        if marker[1] not in b"\x01\xd8":
            at += max(2, int.from_bytes(data[at : at + 2]))
    return scans > MAX_JPEG_SCANS


def _orientation(image: Image.Image) -> int:
    """1 to 8. A picture with broken EXIF is taken as it is: its pixels are fine."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # the same C and struct parsing of foreign bytes as in clean()
        return 1


def _srgb(image: Image.Image) -> Image.Image:
    """As RGB, or as RGBA if any transparency is possible, in sRGB."""
    alpha = image.has_transparency_data
    profile: bytes | None = image.info.get("icc_profile")
    if image.mode == "I;16":  # grey PNG; Pillow's own conversion clips at 255 instead of scaling
        mask = image.convert("RGBA").getchannel("A") if alpha else None
        image = image.point(lambda value: value * (1 / 256)).convert("L")
        if mask is not None:
            image.putalpha(mask)
    if image.mode in ("1", "P", "PA", "LA") or (alpha and image.mode != "RGBA"):
        image = image.convert("RGBA" if alpha else "RGB")
    if profile:
        image = _convert_profile(image, profile)
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGB")
    return image


def _convert_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """From the embedded profile to sRGB; the picture as it is if the profile is broken or made for another kind of pixel."""
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if embedded.profile.xcolor_space.strip() != _PROFILE_SPACES[image.mode]:
            return image
        if "sRGB" in (embedded.profile.profile_description or ""):
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.buildTransform(embedded, _SRGB, image.mode, mode).apply(image)
    except Exception:  # PyCMSError, OSError, ValueError: Little CMS on foreign bytes
        return image
