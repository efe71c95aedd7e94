"""Pillow: an untrusted photo goes in, a clean one comes out.

Clean means: one frame, upright, 8-bit RGB or RGBA in sRGB, and nothing but pixels: no
EXIF, GPS, XMP, profile, comment or further frame. Any exception or warning of Pillow's
about untrusted bytes becomes a domain error here; mutating valid images at random makes
it raise at least eight different classes.

CPU of one clean() on one core, with Pillow 13; in brackets the same decode,
``exif_transpose`` and encode alone::

    JPEG, 196 kB, 1024 x 768, on its side     5.2 ms  (5.2)
    JPEG, 3.9 MB, 12 MP, upright               78 ms  (112, ``exif_transpose`` copies)
    the same in Display P3                    231 ms
    WebP, 2.8 MB, 12 MP                       0.7 s
    PNG,  23 MB, 12 MP                        1.4 s

It takes up to 24 bytes of memory a pixel (lossless WebP; JPEG 8, progressive CMYK 12,
PNG and AVIF 11).

``python -m server.adapters.imaging.cleaner`` is the process that
:mod:`~server.adapters.imaging.pool` starts and speaks to: one request is one message on
the socket that is its standard input, with two file descriptors, the photo's and an
empty one for the result; the answer is one line. It imports Pillow, the pure domain and
``server.system`` alone: 60 ms of CPU to start, 13 MB (PSS).
"""

from __future__ import annotations

import ctypes
import importlib
import io
import logging
import os
import re
import resource
import socket
import sys
import warnings
from collections.abc import Callable
from typing import BinaryIO, Final

from PIL import AvifImagePlugin, Image, ImageCms, JpegImagePlugin, PngImagePlugin, WebPImagePlugin, features

from server.domain.images import MAGIC_BYTES, CleanImage, ImageFormat, Limits, judge, sniff
from server.system import processes
from server.system.memory_files import write_all
from tryon.protocol.errors import TooLarge, TryOnError, Unprocessable, UnsupportedMedia

# Pillow's debug log spells out the EXIF it reads, GPS included, and no log may hold
# that.
logging.getLogger("PIL").setLevel(logging.INFO)

JPEG_QUALITY: Final = 90
WEBP_QUALITY: Final = 90
PNG_COMPRESS_LEVEL: Final = 1
"""Level 6 takes 1.7 times the CPU of level 1 for a file 10 % smaller."""
MAX_JPEG_SCANS: Final = 64
"""Scans of a progressive JPEG, at most; encoders write about 14.

A scan may be 40 bytes and costs 16 ms at 40 MP: 10 MB of them would take an hour.
"""

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

_PROFILE_SPACES: Final = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}
_SRGB: Final = ImageCms.createProfile("sRGB")


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
    if format not in ACCEPTED:
        raise UnsupportedMedia("unsupported_image")
    warnings.filterwarnings("ignore", module=r"PIL\.|pillow_heif")
    try:
        return _clean(data, format, limits)
    except TryOnError:
        raise
    except Image.DecompressionBombError:  # Pillow's own bound, should ours be set higher than 179 MP
        raise Unprocessable("too_many_pixels") from None
    except Exception as error:  # untrusted bytes in C code: any class at all, see the module's docstring
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
    alpha = upright.mode == "RGBA"
    stored = format.stored_as(alpha=alpha)
    if stored is ImageFormat.WEBP:
        out = io.BytesIO()
        try:
            upright.save(out, "WEBP", quality=WEBP_QUALITY, method=0)
            return CleanImage(out.getvalue(), stored, *upright.size)
        except ValueError:  # libwebp's first partition holds 512 KiB: a busy picture of 16 MP may need more
            stored = ImageFormat.PNG if alpha else ImageFormat.JPEG
    out = io.BytesIO()
    if stored is ImageFormat.JPEG:
        # 4:4:4 stays (text on clothes is sharp in it), everything else becomes 4:2:0,
        # as cameras write it
        upright.save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0 if subsampling == 0 else 2)
    else:
        upright.save(out, "PNG", compress_level=PNG_COMPRESS_LEVEL)
    return CleanImage(out.getvalue(), stored, *upright.size)


_JPEG_MARKER: Final = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])", re.DOTALL)
"""Any marker but RSTn; FF 00 is data, FF FF is fill (ITU-T T.81 B.1.1)."""


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
    """Return the EXIF orientation, 1 to 8.

    A picture with broken EXIF counts as upright: its pixels are fine.
    """
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # the same C and struct parsing of foreign bytes as in clean()
        return 1


def _srgb(image: Image.Image) -> Image.Image:
    """Return it as RGB, or as RGBA if any transparency is possible, in sRGB."""
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
    """Return the picture in sRGB.

    It is unchanged if its profile is broken or made for another kind of pixel.
    """
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


# The process

CPU_SECONDS: Final = 15
"""CPU time that one image may take: three times the worst honest one, a 40 MP PNG.

A decoder that loops gets SIGXCPU then.
"""
ADDRESS_BYTES: Final = 512 * 2**20
"""Address space beside the pixels: Python and Pillow (40 MB), a decoder's thread, the
fragments that earlier photos left.
"""
ADDRESS_BYTES_PER_PIXEL: Final = 26
"""Address space for each pixel.

Measured at 40 MP: lossless WebP 24, progressive CMYK JPEG 12, PNG and AVIF 11, JPEG
8.3.
"""
OPEN_FILES: Final = 16

KEEP_BYTES: Final = 256 * 2**20
KEEP_SECONDS: Final = 0.5
"""Memory that is kept for the next photo, and how long; then it is 13 MB (PSS) again.
"""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def main(clean: Callable[[BinaryIO, Limits], CleanImage] = clean) -> None:
    """Serve the socket on standard input until the other end is closed.

    Arguments: the parent's process id, niceness and the four limits.
    """
    parent_pid, niceness, max_bytes, min_side, max_side, max_pixels = map(int, sys.argv[1:])
    limits = Limits(max_bytes=max_bytes, min_side=min_side, max_side=max_side, max_pixels=max_pixels)
    processes.ignore_stop_signals()  # they are meant for the server; here they would refuse photos
    processes.die_with_parent(parent_pid)
    processes.forbid_new_privileges()
    _keep_memory()
    processes.step_back(niceness)
    _rehearse(clean)
    _confine(limits)
    with socket.socket(fileno=0) as parent:
        parent.send(b"ready")
        while True:
            parent.settimeout(KEEP_SECONDS)
            try:
                request, files, _, _ = socket.recv_fds(parent, 64, 2)
            except TimeoutError:
                processes.return_memory()
                parent.settimeout(None)
                request, files, _, _ = socket.recv_fds(parent, 64, 2)
            if not request:
                os._exit(0)  # nothing to put in order
            processes.limit_cpu(CPU_SECONDS)
            source, result = files
            parent.send(_serve(clean, source, result, limits).encode())


def _serve(clean: Callable[[BinaryIO, Limits], CleanImage], source: int, result: int, limits: Limits) -> str:
    """Clean a photo, and return the answer.

    Format and size of the picture that now stands in ``result``, or an error's code and
    detail.
    """
    try:
        with open(source, "rb", buffering=0) as file:
            image = clean(file, limits)
        write_all(result, image.data)
    except TryOnError as error:
        return f"{error.code} {error.detail}"
    except (OSError, MemoryError):  # a result beyond all bounds, or no memory left for it
        return "unreadable_image"
    finally:
        os.close(result)
    return f"{image.format.name} {image.width} {image.height}"


def _keep_memory() -> None:
    """Keep memory between photos that follow each other.

    glibc would give a picture's memory back and take it again: 24,000 page faults and
    45 of 135 ms for 12 MP.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most it takes; Pillow's blocks have 16 MiB
        libc.mallopt(_M_TRIM_THRESHOLD, KEEP_BYTES)
        libc.mallopt(_M_ARENA_MAX, 1)


def _rehearse(clean: Callable[[BinaryIO, Limits], CleanImage]) -> None:
    """Clean one small photo, which loads code that is loaded late."""
    photo = io.BytesIO()
    Image.new("RGB", (64, 64)).save(photo, "JPEG")
    clean(photo, Limits())


def _confine(limits: Limits) -> None:
    """Give up every right that cleaning untrusted bytes does not need.

    Standard error is closed, there is no core, few files, and a limit of memory.
    """
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # a library's message about a photo is the person's own
    processes.lower_limit(resource.RLIMIT_CORE, 0)
    processes.lower_limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    processes.lower_limit(resource.RLIMIT_FSIZE, limits.max_result_bytes)
    address_bytes = ADDRESS_BYTES + ADDRESS_BYTES_PER_PIXEL * limits.max_pixels + 4 * limits.max_bytes
    processes.lower_limit(resource.RLIMIT_AS, address_bytes)


if __name__ == "__main__":
    main()
