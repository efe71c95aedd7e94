"""Disturbances, after which a lapsed lease proves nothing.

Its worker may live, and may have had no way to renew it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

JUMP_SECONDS: Final = 1.0
"""Most seconds that the database's clock may gain or lose on ours between two
uses. A clock that is being slewed gains or loses 0.5 ms a second.
"""

Disturbance = Literal["outage", "late", "clock"]


@dataclass(frozen=True, slots=True)
class Use:
    """One successful use of the database, in seconds by two clocks.

    ``at``: by the monotonic clock of this process. ``clock``: by the database's clock.
    """

    at: float
    clock: float


def disturbance(last: Use | None, now: Use, *, failed: bool, calm_seconds: float) -> Disturbance | None:
    """Return what may have kept workers from renewing leases since the last use.

    ``outage``: the database could not be used in between (``failed``). ``clock``: its
    clock was set, or the machine slept. ``late``: more than ``calm_seconds`` lie
    between the two uses; the database hung, or this process was stopped and perhaps the
    workers with it. None: nothing happened, or there was no earlier use to compare to.
    """
    if failed:
        return "outage"
    if last is None:
        return None
    passed = now.at - last.at
    if abs(now.clock - last.clock - passed) > JUMP_SECONDS:
        return "clock"
    if passed > calm_seconds:
        return "late"
    return None
