"""CPU and memory of a process, read from ``/proc`` (Linux)."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


def tree(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    found, todo = [], [pid]
    while todo:
        each = todo.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{each}/task"):
                todo += map(int, Path(f"/proc/{each}/task/{thread}/children").read_text().split())
            found.append(each)
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, from its own clock.

    It has nanoseconds (clock_getcpuclockid(3)), and other load does not show in it.
    """
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def tree_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and all its descendants.

    Descendants that have ended are included, in ticks of 10 ms.
    """
    total = 0.0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            total += cpu_seconds(each)
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return total


def pss_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants (PSS).

    Shared pages are counted in proportion.
    """
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total
