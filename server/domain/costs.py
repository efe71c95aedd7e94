"""The cost of an attempt, from what its processor says that it used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

COST_UNIT: Final = "cost_usd"
"""The unit of usage that is a cost already, in US dollars."""

Prices = Mapping[str, float]
"""US dollars for one unit of usage, by ``unit`` or by ``processor:unit``."""

NO_PRICES: Final[Prices] = {}


def cost_usd(usage: Mapping[str, float | None], processor: str, prices: Prices) -> float:
    """Return the cost of an attempt in US dollars; 0 if nothing is known of it.

    What the processor itself calls its cost counts; else each unit's amount times its
    price, that of the processor before that of all.
    """
    said = usage.get(COST_UNIT)
    if said is not None:
        return max(0.0, said)
    return sum(
        max(0.0, amount or 0.0) * prices.get(f"{processor}:{unit}", prices.get(unit, 0.0))
        for unit, amount in usage.items()
    )
