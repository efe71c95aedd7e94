"""The process that works on photos: a template, and a fresh copy of it for each photo.

``python -m server.adapters.imaging.template`` is what
:mod:`~server.adapters.imaging.pool` starts and speaks to: one request is one message on
the socket that is its standard input, with two file descriptors, the photo's and an
empty one for the result; the answer is one line. A photo is cleaned, a result of a
processor verified.

The template loads the decoders, closes the sandbox (:mod:`server.system.sandbox`) and
never looks at a photo. For each it forks a child, which cleans that photo alone and
starts no process itself; the child's answer counts once the child has ended. So a
decoder that was taken over reaches no file, no network and no other process, and holds
nothing of the photo before: it ends with its own.

It imports Pillow, the pure domain and ``server.system`` alone: 60 ms of CPU to start,
13 MB (PSS). A child costs 800 page faults more than a photo in a process that is there
already: 2 to 4 ms of CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import BinaryIO, Final, Protocol

from PIL import Image

from server.adapters.imaging import cleaner
from server.adapters.imaging.outputs import verifier
from server.domain.images import STORED, CleanImage, ImageFormat, Limits
from server.system import processes
from server.system.memory_files import memory_file, write_all
from server.system.sandbox import PHOTOS, Sandbox
from tryon.protocol.errors import TryOnError

Clean = Callable[[BinaryIO, Limits], CleanImage]


class Verify(Protocol):
    """The signature of :func:`.verifier.verify`."""

    def __call__(self, source: BinaryIO, type: str, limits: Limits, *, generated: bool) -> verifier.Shown: ...


CPU_SECONDS: Final = 3.0
CPU_SECONDS_PER_MEGAPIXEL: Final = 0.175
"""CPU time that one image may take, for each megapixel that is allowed: 10 s at 40 MP.

A decoder that loops gets SIGXCPU then. Measured at 40 MP: JPEG 0.3 s, AVIF 0.6, WebP
0.9, PNG 0.6 to 2.8, transparent AVIF 2.6; noise that must be encoded twice 3.2.
"""
ADDRESS_BYTES: Final = 512 * 2**20
"""Address space beside the pixels: Python and Pillow (40 MB), a decoder's thread."""
ADDRESS_BYTES_PER_PIXEL: Final = 26
"""Address space for each pixel.

Measured at 40 MP: lossless WebP 24, progressive CMYK JPEG 12, PNG and AVIF 11, JPEG
8.3.
"""
OPEN_FILES: Final = 16
NEEDS_THREADS: Final = ImageFormat.HEIC in cleaner.ACCEPTED
"""Whether a child may start threads: libde265 decodes HEIC in one of its own."""
KEEP_BYTES: Final = 256 * 2**20
"""Memory that a child keeps from one step of its work for the next."""

CLEAN: Final = "clean"
"""The request to clean a photo; any other is to verify a result (``photo_job``)."""
READY: Final = "ready"
"""The first line, before the names of missing layers of the sandbox."""
LOST: Final = "lost"
"""The answer for a photo whose child has ended without one, before how it ended."""

_EXIF: Final = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
"""An orientation: Pillow loads its reader of TIFF with the first EXIF of an AVIF."""

_ANSWER_BYTES: Final = 4096
_BROKEN: Final = 70  # EX_SOFTWARE of sysexits.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def main(clean: Clean = cleaner.clean, verify: Verify = verifier.verify) -> None:
    """Serve the socket on standard input until the other end is closed.

    Arguments: the parent's process id, niceness and the four limits.
    """
    parent_pid, niceness, max_bytes, min_side, max_side, max_pixels = map(int, sys.argv[1:])
    limits = Limits(max_bytes=max_bytes, min_side=min_side, max_side=max_side, max_pixels=max_pixels)
    processes.ignore_stop_signals()  # they are meant for the server; here they would refuse photos
    signal.signal(signal.SIGQUIT, lambda *_: processes.kill_group(0))  # the server has ended: no child stays
    _keep_memory()
    processes.step_back(niceness)
    _rehearse(clean, verify)
    _limit(limits)
    sandbox = Sandbox(PHOTOS)
    sandbox.enter(die_with=(parent_pid, signal.SIGQUIT))
    gc.collect()
    gc.freeze()  # or a child's collection would copy all of it
    template = _Template(clean, verify, limits, sandbox)
    template.try_out()
    with socket.socket(fileno=0) as parent:
        parent.send(" ".join([READY, *sandbox.missing]).encode())
        while True:
            request, files, _, _ = socket.recv_fds(parent, 64, 2)
            if not request:
                os._exit(0)  # nothing to put in order
            source, result = files
            parent.send(template.work(request.decode(), source, result, parent))


class _Template:
    """Forks a child for each photo."""

    def __init__(self, clean: Clean, verify: Verify, limits: Limits, sandbox: Sandbox) -> None:
        self._clean = clean
        self._verify = verify
        self._limits = limits
        self._sandbox = sandbox

    def __repr__(self) -> str:
        return f"<_Template {self._limits} {self._sandbox}>"

    def try_out(self) -> None:
        """Clean a small photo in a child: the first stranger's must not be the trial.

        Raises OSError.
        """
        answer = self.work(CLEAN, memory_file(_sample("JPEG")), memory_file())
        if not answer.startswith(b"JPEG "):
            raise OSError(f"a child answered {answer!r}")

    def work(self, request: str, source: int, result: int, parent: socket.socket | None = None) -> bytes:
        """Work on a photo in a child, and return its answer when it has ended.

        Closes both files.
        """
        ours, theirs = os.pipe()
        try:
            pid = os.fork()
        except OSError:  # no process or memory is left
            return b"unavailable"
        else:
            if pid == 0:
                try:
                    os.close(ours)
                    if parent is not None:
                        parent.close()
                    gc.disable()  # its memory ends with it
                    self._sandbox.stay_alone(threads=NEEDS_THREADS)
                    processes.limit_cpu(cpu_seconds(self._limits))
                    os.write(theirs, self._serve(request, source, result).encode())
                finally:
                    os._exit(_BROKEN)
            os.close(theirs)
            theirs = -1
            answer = os.read(ours, _ANSWER_BYTES)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            return answer or f"{LOST} {processes.exit_text(os.waitstatus_to_exitcode(status))}".encode()
        finally:
            for file in (ours, theirs, source, result):
                if file >= 0:
                    os.close(file)

    def _serve(self, request: str, source: int, result: int) -> str:
        """Clean or verify a photo, and return the answer.

        Kind and size of the picture that now stands in ``result``, or an error's code
        and detail.
        """
        try:
            with open(source, "rb", buffering=0, closefd=False) as file:
                if request == CLEAN:
                    image = self._clean(file, self._limits)
                    kind, data, size = image.format.name, image.data, (image.width, image.height)
                else:
                    _, type, generated = request.split()
                    shown = self._verify(file, type, self._limits, generated=generated == "1")
                    kind, data, size = shown.type, shown.data, (shown.width, shown.height)
            write_all(result, data)
        except TryOnError as error:
            return f"{error.code} {error.detail}"
        except (OSError, MemoryError):  # a result beyond all bounds, or no memory left for it
            return "unreadable_image"
        return f"{kind} {size[0]} {size[1]}"


def cpu_seconds(limits: Limits) -> float:
    """Return the CPU time that one image may take."""
    return CPU_SECONDS + CPU_SECONDS_PER_MEGAPIXEL * limits.max_pixels / 1e6


def _keep_memory() -> None:
    """Keep memory between the steps of cleaning a photo.

    glibc would give a picture's memory back and take it again: 24,000 page faults and
    45 of 135 ms for 12 MP.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most it takes; Pillow's blocks have 16 MiB
        libc.mallopt(_M_TRIM_THRESHOLD, KEEP_BYTES)
        libc.mallopt(_M_ARENA_MAX, 1)


def _rehearse(clean: Clean, verify: Verify) -> None:
    """Clean and verify a small photo of each kind, which loads what is loaded late.

    The sandbox lets nothing be loaded.
    """
    for format in cleaner.ACCEPTED:
        with contextlib.suppress(TryOnError, OSError, KeyError):  # HEIC may have no encoder
            clean(io.BytesIO(_sample(format.value)), Limits())
    with contextlib.suppress(TryOnError):
        clean(io.BytesIO(b"GIF89a"), Limits())
    for format, (_, type) in STORED.items():
        verify(io.BytesIO(_sample(format.value)), type, Limits(), generated=True)


def _sample(format: str) -> bytes:
    photo = io.BytesIO()
    Image.new("RGB", (64, 64)).save(photo, format, exif=_EXIF)
    return photo.getvalue()


def _limit(limits: Limits) -> None:
    """Lower what a process may use: no core, few files, and a limit of memory.

    Standard error is closed.
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
