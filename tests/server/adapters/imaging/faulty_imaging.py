"""The image process with a decoder that obeys the photo.

``test_pool`` starts this file instead of the product's own process, which knows none of
these words.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import stat
import time
from typing import BinaryIO

from server.adapters.imaging.cleaner import clean
from server.adapters.imaging.outputs.verifier import Shown, verify
from server.adapters.imaging.template import OPEN_FILES, main
from server.domain.images import CleanImage, ImageFormat, Limits
from server.system import processes
from tests.server.system import attempts
from tryon.protocol.errors import Unprocessable


def obey(source: BinaryIO, limits: Limits) -> CleanImage:
    with contextlib.suppress(OSError):  # a socket
        source.seek(0)
    match source.read(4096).split():
        case [b"crash"]:
            ctypes.string_at(0)  # SIGSEGV
        case [b"loop"]:
            while True:
                pass
        case [b"limit"]:
            raise Unprocessable("unreadable_image", str(resource.getrlimit(resource.RLIMIT_CPU)[0]))
        case [b"burn"]:
            processes.limit_cpu(0.1)
            while True:
                pass
        case [b"eat"]:
            hoard = []
            while True:
                hoard.append(bytearray(2**24))
        case [b"fill"]:
            return CleanImage(bytes(limits.max_result_bytes + 1), ImageFormat.PNG, 100, 100)
        case [b"wait"]:  # the photo is a socket: it hears that this waits, and tells it to go on
            os.write(source.fileno(), b"!")
            source.read(1)
            return CleanImage(b"waited", ImageFormat.PNG, 100, 100)
        case [b"say", *words]:
            os.write(_answers(), b" ".join(words))
            time.sleep(3600)
        case [b"chatter"]:
            os.write(_answers(), b"PNG 1 1")
            return CleanImage(b"", ImageFormat.PNG, 2, 2)
        case [b"attempt", target]:
            found = attempts.outcomes({**attempts.ATTEMPTS, **attempts.ALONE}, attempts.load(target))
            raise Unprocessable(
                "unreadable_image", f"reached {[name for name, how in found.items() if how == 'reached']}"
            )
        case [b"holdings"]:
            raise Unprocessable("unreadable_image", f"{sorted(os.environ)} {_open_files()}")
        case [b"scan", half, other]:  # in halves: the whole word must not stand in this request
            raise Unprocessable("unreadable_image", str(_count_in_memory(half, other)))
        case [b"pid"]:  # the template's: this one ends with its photo
            raise Unprocessable("unreadable_image", str(os.getppid()))
        case _:
            pass
    return clean(source, limits)


def obey_first(source: BinaryIO, type: str, limits: Limits, *, generated: bool) -> Shown:
    """Obey a file that is an order, and verify any other as the product does."""
    orders = (b"crash", b"burn", b"eat", b"say")
    source.seek(0)
    if source.read(5).startswith(orders):
        obey(source, limits)
    return verify(source, type, limits, generated=generated)


def _open_files() -> str:
    """Return a letter for each open descriptor: a device, file, pipe or socket."""
    kinds = {stat.S_IFCHR: "d", stat.S_IFREG: "f", stat.S_IFIFO: "p", stat.S_IFSOCK: "s"}
    found = []
    for file in range(OPEN_FILES):
        with contextlib.suppress(OSError):
            found.append(kinds[stat.S_IFMT(os.fstat(file).st_mode)])
    return "".join(found)


def _count_in_memory(half: bytes, other: bytes) -> int:
    """Return how often a word stands in the memory that a child has from its template.

    The word comes in halves, and is not put together.

    Its own maps are closed to it, but it has those from before; what it has mapped
    itself it has filled itself.
    """
    libc = ctypes.CDLL(None)
    libc.sbrk.restype = ctypes.c_void_p
    pieces = [(start, libc.sbrk(0) if heap else end) for start, end, heap in _MAPS]
    count = 0
    for start, end in pieces:
        memory = ctypes.string_at(start, end - start)
        at = -1
        while (at := memory.find(half, at + 1)) >= 0:
            count += memory.startswith(other, at + len(half))
    return count


_MAPS: list[tuple[int, int, bool]] = []


def _note_maps() -> None:
    with open("/proc/self/maps") as maps:
        for line in maps:
            where, rights, _, _, inode, *name = line.split()
            if rights.startswith("rw") and inode == "0":
                start, end = (int(each, 16) for each in where.split("-"))
                _MAPS.append((start, end, name == ["[heap]"]))


def _answers() -> int:
    """Return the pipe on which a child answers."""
    [pipe] = [file for file in range(3, OPEN_FILES) if _is_pipe(file)]
    return pipe


def _is_pipe(file: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(file).st_mode)
    except OSError:
        return False


if __name__ == "__main__":
    _note_maps()
    main(obey, obey_first)
