"""When a lapsed lease proves nothing: its worker may live and have had no way to renew
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

JUMP_SECONDS: Final = 1.0
"""How far the database's clock may go ahead of or fall behind a steady one between two
uses; clocks that are slewed do 0.5 ms a second.
"""

Disturbance = Literal["outage", "late", "clock"]


@dataclass(frozen=True, slots=True)
class Use:
    """One successful use of the database: when, by a steady clock of this process, and
    what the database's clock said then. Both in seconds.
    """

    at: float
    clock: float


def disturbance(last: Use | None, now: Use, *, failed: bool, calm_seconds: float) -> Disturbance | None:
    """What happened since the last use that may have kept workers from renewing their
    leases; None: nothing did.

    ``failed``: the database could not be used in between. Longer than ``calm_seconds``
    between two uses: it hung, or this process stood still, and perhaps everything else
    did with it. A process that has just begun knows of nothing.
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
