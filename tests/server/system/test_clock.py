"""The clock of this machine."""

from __future__ import annotations

import time

import pytest

from server.system.clock import Clock, SystemClock


def test_clock_reads_this_machine() -> None:
    """Return Unix time, and two times that do not go back."""
    clock: Clock = SystemClock()
    before, wall, after = time.time(), clock.wall(), time.time()
    assert before <= wall <= after
    assert clock.monotonic() <= clock.monotonic()
    assert clock.steady() <= clock.steady()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="Linux alone has CLOCK_BOOTTIME")
def test_steady_clock_counts_sleep() -> None:
    """Read the clock that goes on while the machine sleeps."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= SystemClock().steady() <= time.clock_gettime(time.CLOCK_BOOTTIME)
