"""How a benchmark prints: the machine and the settings first, then one table."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Row = Sequence[str | float | int | None]


def heading(what: str, settings: Mapping[str, Any]) -> None:
    """Print the subject, the machine, and the settings that are not the defaults."""
    print(f"# {what}")
    print(f"# {machine()}")
    print(
        "# settings: " + (" ".join(f"TRYON_{name.upper()}={value}" for name, value in settings.items()) or "defaults")
    )


def machine() -> str:
    """One line about where and when a figure was measured."""
    model = "unknown processor"
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        model = found[1] if found else model
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {model}, load {os.getloadavg()[0]:.1f}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def table(columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Left-aligned first column, right-aligned figures.

    A float is printed with three significant digits at least.
    """
    texts = [list(columns), *([_text(value) for value in row] for row in rows)]
    widths = [max(len(row[n]) for row in texts) for n in range(len(columns))]
    for row in texts:
        cells = [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip(), flush=True)


def _text(value: str | float | int | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile; not a number if there are no values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
