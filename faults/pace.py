"""How long a fault lasts and how large it is."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Pace:
    """Lengths and sizes of a row: in full, or scaled down for the tests.

    In full they are those of the product's own defaults. ``slack``: factor by which a
    promised time may be exceeded before a row fails; tests share their machine with
    others.
    """

    settings: dict[str, Any]
    outage_seconds: float
    frozen_seconds: float
    locked_seconds: float
    lease_seconds: float
    ping_seconds: float
    sockets: int
    stalled: int
    slack: float
    seed: int = 1

    def rng(self) -> random.Random:
        return random.Random(self.seed)

    @property
    def steady_lease_seconds(self) -> float:
        """Lease for rows in which no session may be taken back.

        The scaled one lapses when the machine of the tests stands still for two
        seconds. This one outlasts a renewal that fails, after 2 s, and the next one.
        """
        return max(6.0, self.lease_seconds)


FULL: Final = Pace(
    settings={},
    outage_seconds=10.0,
    frozen_seconds=30.0,
    locked_seconds=10.0,
    lease_seconds=12.0,
    ping_seconds=25.0,
    sockets=1000,
    stalled=50,
    slack=1.0,
)
SCALED: Final = Pace(
    settings={"lease_seconds": 2, "ping_seconds": 3, "drain_seconds": 1},
    outage_seconds=4.0,
    frozen_seconds=8.0,
    locked_seconds=3.0,
    lease_seconds=2.0,
    ping_seconds=3.0,
    sockets=200,
    stalled=10,
    slack=3.0,
)
