"""Named pipes by which a process of a test reports where it is."""

from __future__ import annotations

import asyncio

READABLE_SECONDS = 10.0
"""Longest wait for a report: the machine may be busy."""


async def readable(file: int) -> None:
    """Wait until there is something to read. Raises TimeoutError."""
    loop, reached = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(file, reached.set)
    try:
        await asyncio.wait_for(reached.wait(), READABLE_SECONDS)
    finally:
        loop.remove_reader(file)
