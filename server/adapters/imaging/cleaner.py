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
import resource
import socket
import sys
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
from server.system import processes
from server.system.memory_files import write_all
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


# The process

CPU_SECONDS: Final = 3.0
CPU_SECONDS_PER_MEGAPIXEL: Final = 0.175
"""CPU time that one image may take, for each megapixel that is allowed: 10 s at 40 MP.

A decoder that loops gets SIGXCPU then. Measured at 40 MP: JPEG 0.3 s, AVIF 0.6, WebP
0.9, PNG 0.6 to 2.8, transparent AVIF 2.6; noise that must be encoded twice 3.2.
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
            processes.limit_cpu(cpu_seconds(limits))
            source, result = files
            parent.send(_serve(clean, source, result, limits).encode())


def cpu_seconds(limits: Limits) -> float:
    """Return the CPU time that one image may take."""
    return CPU_SECONDS + CPU_SECONDS_PER_MEGAPIXEL * limits.max_pixels / 1e6


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
