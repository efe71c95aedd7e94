"""The image process of the product, which damages the photos itself.

A million photos one by one would take longer on their way than in a decoder. So a
"photo" here is an order for a batch (:class:`Batch`); the process, its limits and its
cleaner are the product's own (:func:`server.adapters.imaging.template.main`), and what
the result's file holds is a :class:`Report`.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
from collections import Counter
from collections.abc import Callable
from typing import BinaryIO, Final

import msgspec

from server.adapters.imaging.cleaner import clean
from server.adapters.imaging.template import OPEN_FILES, main
from server.domain.images import CleanImage, ImageFormat, Limits
from testkit.clean_photos import assert_nothing_but_pixels
from testkit.mutations import mutated
from testkit.originals import originals
from tryon.protocol.errors import TryOnError

MAGIC: Final = b'{"batch"'


class Batch(msgspec.Struct, frozen=True):
    """An order: damaged files ``first`` to ``first + count`` of a seed.

    ``planted``: how the process misbehaves, so that a test sees it reported.
    """

    batch: int
    first: int
    count: int
    planted: str = ""


class Report(msgspec.Struct):
    """The outcomes of a batch, counted."""

    outcomes: dict[str, int]
    crashes: list[str]
    grown_bytes: int
    """Memory that the process took at most, beyond what it took before the batch."""
    descriptors: int
    """Descriptors that the batch has left open."""


_kept: list[bytes] = []


def clean_batch(source: BinaryIO, limits: Limits) -> CleanImage:
    """Carry out an order; clean any other photo as the product does."""
    source.seek(0)
    order = source.read(4096)
    if not order.startswith(MAGIC):
        return clean(source, limits)
    batch = msgspec.json.decode(order, type=Batch)
    outcomes: Counter[str] = Counter()
    crashes = []
    resident, descriptors = _most_resident(), _descriptors()
    for number in range(batch.first, batch.first + batch.count):
        name, data = mutated(batch.batch, number)
        if batch.planted:
            PLANTS[batch.planted](number)
        try:
            image = clean(io.BytesIO(data), limits)
            assert_nothing_but_pixels(image)
            outcomes[f"cleaned as {image.format.name}"] += 1
        except TryOnError as error:
            outcomes[f"refused: {error.code}"] += 1
        except BaseException as error:
            crashes.append(f"photo {batch.batch}/{number} ({name}): {type(error).__name__}: {error}"[:500])
    report = Report(dict(outcomes), crashes, _most_resident() - resident, _descriptors() - descriptors)
    return CleanImage(msgspec.json.encode(report), ImageFormat.PNG, 1, 1)


def _most_resident() -> int:
    """Return the most memory that this process has had; the sandbox hides its /proc."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _descriptors() -> int:
    """Return the number of open descriptors."""
    found = 0
    for file in range(OPEN_FILES):
        with contextlib.suppress(OSError):
            os.fstat(file)
            found += 1
    return found


def _crash(number: int) -> None:
    if number == 77:
        os.kill(os.getpid(), signal.SIGKILL)


def _leak(number: int) -> None:
    _kept.append(bytes(range(256)) * 2**12)


def _descriptor(number: int) -> None:
    if number % 500 == 0:
        os.dup(1)


PLANTS: Final[dict[str, Callable[[int], None]]] = {"crash": _crash, "memory": _leak, "descriptor": _descriptor}
"""Misbehaviour by its name: a process dies, grows, or keeps descriptors."""

if __name__ == "__main__":
    originals()  # before the process gives up its rights
    main(clean_batch)
