"""The cost of an attempt, from its usage and the prices."""

from __future__ import annotations

import pytest

from server.domain.costs import cost_usd

PRICES = {"gpu_seconds": 0.001, "credits": 0.05, "cog:gpu_seconds": 0.002}


@pytest.mark.parametrize(
    ("usage", "processor", "cost"),
    [
        ({"gpu_seconds": 10.0}, "overlay", 0.01),
        ({"gpu_seconds": 10.0}, "cog", 0.02),
        ({"gpu_seconds": 10.0, "credits": 2.0}, "overlay", 0.11),
        ({"gpu_seconds": 10.0, "cost_usd": 0.5}, "cog", 0.5),
        ({"gpu_seconds": 10.0, "cost_usd": None}, "cog", 0.02),
        ({"cost_usd": 0.0, "credits": 1.0}, "cog", 0.0),
        ({"tokens": 10.0, "credits": None}, "cog", 0.0),
        ({"credits": -3.0}, "cog", 0.0),
    ],
)
def test_cost_prefers_word_of_processor(usage: dict[str, float | None], processor: str, cost: float) -> None:
    """Else its units are priced, by its own price before that of all."""
    assert cost_usd(usage, processor, PRICES) == pytest.approx(cost)
