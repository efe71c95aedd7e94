"""The place of a waiting session, and its expected end."""

from __future__ import annotations

import pytest

from server.domain.queue_place import Waiting, expected_seconds, worth_announcing


@pytest.mark.parametrize(
    ("position", "run_seconds", "slots", "expected"),
    [
        (1, 3.0, 10, 3.0),
        (10, 3.0, 10, 3.0),
        (11, 3.0, 10, 6.0),
        (5, 2.0, 1, 10.0),
        (1, None, 10, None),
        (1, 3.0, 0, None),
    ],
)
def test_expected_seconds_count_rounds_ahead(
    position: int, run_seconds: float | None, slots: int, expected: float | None
) -> None:
    """Each full round of the slots ahead takes one run."""
    assert expected_seconds(position, run_seconds=run_seconds, slots=slots) == expected


@pytest.mark.parametrize(
    ("announced", "now", "worth"),
    [
        (None, (3, None), True),
        ((3, 6.0), (3, 6.0), False),
        ((4, 6.0), (3, 6.0), True),
        ((99, 60.0), (98, 60.0), True),
        ((509, 60.0), (500, 60.0), False),
        ((510, 60.0), (500, 60.0), True),
        ((3, 60.0), (3, 55.0), False),
        ((3, 60.0), (3, 54.0), True),
        ((3, 6.0), (3, 5.2), False),
        ((3, 6.0), (3, 5.0), True),
        ((3, None), (3, 6.0), True),
        ((3, 6.0), (3, None), True),
    ],
)
def test_place_is_announced_when_it_matters(
    announced: tuple[int, float] | None, now: tuple[int, float | None], worth: bool
) -> None:
    """A small move far back in the queue, or a small change of time, is not."""
    assert worth_announcing(None if announced is None else Waiting(*announced), Waiting(*now)) is worth
