"""Disturbances, after which a lapsed lease proves nothing."""

from __future__ import annotations

import pytest

from server.domain.disturbances import Disturbance, Use, disturbance

HOUR = 3600.0


@pytest.mark.parametrize(
    ("passed", "clock_passed", "failed", "found"),
    [
        pytest.param(2.0, 2.0, False, None, id="a quiet pass"),
        pytest.param(3.9, 3.9, False, None, id="a busy machine"),
        pytest.param(2.0, 2.9, False, None, id="a clock that is put right a little"),
        pytest.param(2.0, 1.1, False, None, id="and back a little"),
        pytest.param(2.0, 2.0, True, "outage", id="a read failed"),
        pytest.param(9.0, 9.0, True, "outage", id="reads failed for long"),
        pytest.param(9.0, 9.0, False, "late", id="a read took long, or the process was stopped"),
        pytest.param(2.0, 2.0 + 25 * HOUR, False, "clock", id="the clock was set ahead"),
        pytest.param(2.0, 2.0 - 25 * HOUR, False, "clock", id="the clock was set back"),
        pytest.param(0.0, 1.5, False, "clock", id="the machine slept"),
    ],
)
def test_disturbance_is_found_between_two_uses(
    passed: float, clock_passed: float, failed: bool, found: Disturbance | None
) -> None:
    """An outage, a set clock or a pause may have kept workers from renewing leases."""
    last = Use(at=1000.0, clock=5e9)
    now = Use(at=1000.0 + passed, clock=5e9 + clock_passed)
    assert disturbance(last, now, failed=failed, calm_seconds=4.0) == found


def test_first_use_finds_only_outages() -> None:
    """A process that has just started has nothing to compare its clock with."""
    now = Use(at=1000.0, clock=5e9)
    assert disturbance(None, now, failed=False, calm_seconds=4.0) is None
    assert disturbance(None, now, failed=True, calm_seconds=4.0) == "outage"
