"""Draws of chance."""

from __future__ import annotations

from server.system.randomness import Randomness, SystemRandomness


def test_draws_stay_within_their_bounds() -> None:
    """Return numbers within the bounds, both ends of whole numbers included."""
    randomness: Randomness = SystemRandomness()
    assert all(2.0 <= randomness.uniform(2.0, 3.0) <= 3.0 for _ in range(100))
    assert {randomness.randint(1, 2) for _ in range(100)} == {1, 2}


def test_bytes_differ_each_time() -> None:
    """Return as many bytes as asked for, never the same."""
    drawn = {SystemRandomness().bytes(10) for _ in range(100)}
    assert len(drawn) == 100
    assert {len(each) for each in drawn} == {10}
