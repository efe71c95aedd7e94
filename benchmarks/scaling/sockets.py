"""The cost of a frame and of a socket against the number of sockets.

The frames stay as many; their clients grow. The largest size has two processes, for one
has 20,000 descriptors here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.scaling.curves import Curve, Goal
from benchmarks.scaling.pushed import running_stream

FULL: Final = 16_000
"""Largest number of sockets of one process here."""


async def measure(*, sockets: Sequence[int], rate: float, seconds: float, repeats: int) -> list[Curve]:
    """Let the clients of a new installation grow through all sizes, in each repeat."""
    frame = Curve("web CPU us of a frame", Goal.FLAT)
    ping = Curve("web CPU us of a ping and its pong, with all that recurs", Goal.FLAT)
    connect = Curve("web CPU us of a connect", Goal.FLAT)
    memory = Curve("web memory, kB of all sockets", Goal.LINEAR)
    each = Curve("web memory, kB of a socket", Goal.FLAT)
    for _ in range(repeats):
        for some in _by_processes(sockets):
            processes = -(-max(some) // FULL)
            async with running_stream(
                processes=processes, sessions=max(some), ping_seconds=seconds, crowds=processes
            ) as stream:
                await stream.grow(processes)  # what is loaded once, is loaded now
                empty = stream.memory_bytes()
                for size in some:
                    before = stream.clients
                    connecting = await stream.costs_of(stream.grow(size))
                    pushed = await stream.measured(rate)
                    kilobytes = (stream.memory_bytes() - empty) / 1024
                    frame.add(size, pushed.frame_us)
                    ping.add(size, pushed.ping_us)
                    connect.add(size, connecting.web / (size - before) * 1e6)
                    memory.add(size, kilobytes)
                    each.add(size, kilobytes / size)
    return [frame, ping, connect, memory, each]


def _by_processes(sockets: Sequence[int]) -> list[list[int]]:
    """Return the sizes of one process, then each larger one for itself."""
    ordered = sorted(sockets)
    some = [size for size in ordered if size <= FULL]
    return [*([some] if some else []), *([size] for size in ordered if size > FULL)]
