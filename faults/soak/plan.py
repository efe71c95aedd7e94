"""The options of a soak."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testkit.production import FORM
from testkit.profiles import UNSHARED


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """The options of a soak; times in seconds, ``rate`` in sessions a second."""

    sessions: int = 10_000
    rate: float = 20.0
    seed: int = 1
    every: float = 12.0
    mock_seconds: float = 0.5
    lease_seconds: float = 5.0
    deadline_seconds: float = 60.0
    retention_seconds: float = 90.0
    stale_seconds: float = 5.0
    stuck_seconds: float = 30.0
    postgres: bool = False
    production: str | None = None
    """The proxy of the production form; None: the smallest form."""
    calm: bool = False
    only: tuple[str, ...] = ()
    record: Path | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of the product that are not its defaults."""
        return {
            "upload_rate": "6000/minute",
            **UNSHARED,
            "connections_per_address": 20000,
            "sockets_per_address": 20000,
            "mock_seconds": self.mock_seconds,
            "mock_failure_rate": 0.1,
            "mock_seed": self.seed,
            "worker_jobs": 20,
            "lease_seconds": self.lease_seconds,
            "deadline_seconds": self.deadline_seconds,
            "retention_seconds": self.retention_seconds,
            "cleanup_seconds": 3,
            "queue_limit": 10_000,
            "log_level": "warning",
            "log_format": "text",
        }

    @property
    def form(self) -> dict[str, Any]:
        """Return what the installation is made of."""
        if self.production is not None:
            return FORM | {"balancer": self.production}
        return {"webs": 2, "workers": 2, "postgres": self.postgres}

    @property
    def quiet_seconds(self) -> float:
        """Return how long after the last deadline every client must have seen the end.

        A client that was cut off waits for up to 30 s.
        """
        return 10 + 20 * self.scale

    @property
    def scale(self) -> float:
        """Return the factor of how long things stay broken.

        The shorter the time between two faults, the shorter they are.
        """
        return self.every / 12
