"""The one source of chance: jitter and identifiers, so that a test can seed them.

Secrets (tokens, keys) do not: they always come from :mod:`secrets`.
"""

from __future__ import annotations

import os
import random
from typing import Protocol


class Randomness(Protocol):
    """Draws of chance. Implementations never block and never raise for valid bounds."""

    def uniform(self, low: float, high: float) -> float:
        """Return a number from ``low`` to ``high``."""

    def randint(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both included."""

    def bytes(self, count: int) -> bytes:
        """Return ``count`` random bytes."""


class SystemRandomness:
    """Jitter from this process's generator, and bytes from the system."""

    __slots__ = ()

    uniform = staticmethod(random.uniform)
    randint = staticmethod(random.randint)
    bytes = staticmethod(os.urandom)
