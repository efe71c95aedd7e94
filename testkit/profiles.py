"""Settings of the product that faults and benchmarks change.

They are in small letters, without ``TRYON_``.
"""

from __future__ import annotations

from typing import Any, Final

UNSHARED: Final[dict[str, Any]] = {
    "queue_share_per_owner": "off",
    "queue_share_per_address": "off",
    "stored_bytes_per_owner": "off",
    "stored_bytes_per_address": "off",
}
"""No shares of an owner or an address: a load comes from few of either."""

FAULTS: Final[dict[str, Any]] = {
    "upload_rate": "6000/minute",
    "mock_failure_rate": 0,
    "connections_per_address": 20000,
    "uploads_per_address": 20000,
    "spooled_bytes_per_address": 2**30,
    **UNSHARED,
    "sockets_per_address": 20000,
    "log_level": "info",
    "log_format": "text",
}
"""Of every fault row: the load comes from few addresses, and no session fails by
chance.
"""

BENCHMARK: Final[dict[str, Any]] = {
    "upload_rate": "off",
    "connections_per_address": 20000,
    "uploads_per_address": 20000,
    "spooled_bytes_per_address": 2**30,
    **UNSHARED,
    "sockets_per_address": 20000,
    "queue_limit": 100000,
    "log_level": "error",
}
"""Of every benchmark: a load generator has few addresses."""

QUIET: Final[dict[str, Any]] = {"lease_seconds": 3600, "deadline_seconds": 86000, "ticket_seconds": 86000}
"""Sessions that keep their state for the whole of a run."""


def variables(settings: dict[str, Any]) -> dict[str, str]:
    """Return settings as environment variables."""
    return {f"TRYON_{name.upper()}": str(value) for name, value in settings.items()}
