"""Plans of people, drawn from a seed, so that a run can be repeated."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tryon.protocol.backoff import TRANSPORTS

SHARES: Final = {
    "second screen": 0.2,
    "ticket": 0.3,
    "sync": 0.15,
    "upload cut": 0.06,
    "cancel": 0.08,
    "delete": 0.06,
    "delete at the end": 0.1,
    "retry": 0.5,
    "stranger": 0.15,
    "history": 0.3,
}
"""Share of the people who do it.

``retry``: of those whose session failed or was cancelled.
"""

MOST_SECONDS: Final = 1.5
"""Longest time from the upload to a cancel, delete or second screen."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of one person.

    Times in seconds after the upload was accepted; None: does not.
    """

    number: int
    seed: int
    over: tuple[str, ...]
    """The transport of each screen; the second one comes later."""
    by_ticket: bool
    syncs: bool
    cut_upload: bool
    """The first attempt breaks in the middle."""
    cancel_after: float | None
    delete_after: float | None
    delete_at_end: bool
    retries: bool
    strangers: bool
    looks_back: bool
    """Reads the history and the list at the end."""
    second_after: float


def plans(seed: int, *, everybody_looks_back: bool = False) -> Iterator[Plan]:
    """Yield one plan after the other, without end."""
    number = 0
    while True:
        choice = random.Random(f"{seed} {number}")

        def does(what: str, choice: random.Random = choice) -> bool:
            return choice.random() < SHARES[what]

        def when(choice: random.Random = choice) -> float:
            return choice.random() * MOST_SECONDS

        yield Plan(
            number=number,
            seed=choice.getrandbits(32),
            over=(
                TRANSPORTS[number % len(TRANSPORTS)],
                *([choice.choice(TRANSPORTS)] if does("second screen") else []),
            ),
            by_ticket=does("ticket"),
            syncs=does("sync"),
            cut_upload=does("upload cut"),
            cancel_after=when() if does("cancel") else None,
            delete_after=when() if does("delete") else None,
            delete_at_end=does("delete at the end"),
            retries=does("retry"),
            strangers=does("stranger"),
            looks_back=does("history") or everybody_looks_back,
            second_after=when(),
        )
        number += 1


def photos(seed: int, count: int = 8, side: int = 160) -> Sequence[bytes]:
    """Return small pictures that differ, in their shape too, as JPEG."""
    from PIL import Image

    made = []
    for number in range(count):
        choice = random.Random(f"{seed} photo {number}")
        colours = [tuple(choice.randrange(256) for _ in range(3)) for _ in range(16)]
        picture = Image.new("RGB", (4, 4))
        picture.putdata(colours)
        out = io.BytesIO()
        picture.resize((side, side + number), Image.Resampling.BICUBIC).save(out, "JPEG", quality=80)
        made.append(out.getvalue())
    return made


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of an upright picture, None for other data."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as picture:
            return ImageOps.exif_transpose(picture).size
    except OSError:
        return None
