"""The image process with a decoder that obeys the photo.

``test_pool`` starts this file instead of the product's own process, which knows none of
these words.

``test_imaging_pool`` starts this file instead.

The product's own process knows none of these words.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import BinaryIO

from server.adapters.imaging.cleaner import clean, main
from server.domain.images import CleanImage, ImageFormat, Limits
from tryon.protocol.errors import Unprocessable


def obey(source: BinaryIO, limits: Limits) -> CleanImage:
    source.seek(0)
    match source.read(4096).split():
        case [b"crash"]:
            ctypes.string_at(0)  # SIGSEGV
        case [b"loop"]:
            while True:
                pass
        case [b"eat"]:
            hoard = []
            while True:
                hoard.append(bytearray(2**24))
        case [b"fill"]:
            return CleanImage(bytes(limits.max_result_bytes + 1), ImageFormat.PNG, 100, 100)
        case [b"wait", reached, opened]:  # two pipes: one to say that it waits, one to be told to go on
            with open(reached, "wb", buffering=0) as pipe:
                pipe.write(b"!")
            with open(opened, "rb", buffering=0) as pipe:
                pipe.read(1)
            return CleanImage(b"waited", ImageFormat.PNG, 100, 100)
        case [b"say", *words]:
            os.write(0, b" ".join(words))
            time.sleep(3600)
        case [b"chatter"]:
            os.write(0, b"PNG 1 1")
            return CleanImage(b"", ImageFormat.PNG, 2, 2)
        case [b"pid"]:
            raise Unprocessable("unreadable_image", str(os.getpid()))
        case _:
            pass
    return clean(source, limits)


if __name__ == "__main__":
    main(obey)
