"""The slowest pace of a body, on a clock that the tests move."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.web.api.pace import SLOWEST_RATE, WINDOW_BYTES, WINDOW_SECONDS, Pace


def refused_at(arrivals: Iterator[tuple[float, int]]) -> float | None:
    """Return when a body is refused; arrivals are a pause and the bytes after it."""
    pace, now = Pace(), 0.0
    for pause, count in arrivals:
        if now + pause >= pace.deadline:
            return pace.deadline
        now += pause
        pace.note(now, count)
    return None


def steady(pause: float, count: int, seconds: float) -> Iterator[tuple[float, int]]:
    """Return arrivals of ``count`` bytes every ``pause`` seconds."""
    return ((pause, count) for _ in range(int(seconds / pause)))


@pytest.mark.parametrize(
    ("pause", "count"), [(20.0, 10**6), (5.0, 1), (0.9, 1), (0.001, 1), (1.0, SLOWEST_RATE // 2), (14.0, 16_000)]
)
def test_slow_body_ends_after_one_window(pause: float, count: int) -> None:
    """A pause, a byte every 5 s and a trickle are refused alike."""
    assert refused_at(steady(pause, count, 3600)) == WINDOW_SECONDS


@pytest.mark.parametrize(("pause", "count"), [(1.0, 5000), (0.01, 50), (12.0, WINDOW_BYTES), (14.9, 2 * WINDOW_BYTES)])
def test_body_at_the_pace_goes_on(pause: float, count: int) -> None:
    """Also with pauses, if as much comes between them."""
    assert refused_at(steady(pause, count, 7200)) is None


@pytest.mark.parametrize(("pause", "count"), [(20.0, 1), (5.0, 1), (0.5, 1), (0.25, 512)])
def test_quick_beginning_is_no_credit(pause: float, count: int) -> None:
    """A body that was quick for an hour is refused within a window of its stall."""

    def arrivals() -> Iterator[tuple[float, int]]:
        yield from steady(0.1, 100_000, 3600)
        yield from steady(pause, count, 60)

    end = refused_at(arrivals())
    assert end is not None
    assert 3600 + 0.9 * WINDOW_SECONDS <= end <= 3600 + WINDOW_SECONDS


def test_pace_keeps_few_marks() -> None:
    """Single bytes leave as few marks as anything else."""
    pace = Pace()
    for at in range(50_000):
        pace.note(at * 0.0002, 1)
    assert len(pace._marks) < 20
