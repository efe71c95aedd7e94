"""The cost of a frame against the number of web processes.

Each process brings its own clients and its own frames, as a load balancer spreads them.
Besides: what a transition costs all processes together, for each of them reads every
transition, its own or not, when it sweeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from benchmarks.scaling.curves import Curve, Goal
from benchmarks.scaling.pushed import running_stream
from testkit.crowds import add_events

FOREIGN: Final = 2**30
"""Number of the first session that no client follows."""


async def measure(
    *, processes: Sequence[int], clients: int, rate: float, seconds: float, events: int, repeats: int
) -> list[Curve]:
    """Measure with each number of processes in turn; ``clients`` and ``rate``: of each.

    ``seconds``: between two pings; twice as long must suffice for a sweep. ``events``:
    transitions of sessions without a follower, committed at once.
    """
    frame = Curve("web CPU us of a frame", Goal.FLAT)
    valkey = Curve("Valkey CPU us of a frame", Goal.FLAT)
    swept = Curve("web CPU us of a transition without a follower, all processes", Goal.FLAT)
    for repeat in range(repeats):
        for count in processes:
            async with running_stream(processes=count, sessions=count * clients, ping_seconds=seconds) as stream:
                await stream.grow(count * clients)
                pushed = await stream.measured(count * rate)
                frame.add(count, pushed.frame_us)
                valkey.add(count, pushed.valkey_us)
                calm = await stream.costs_of(asyncio.sleep(2 * seconds))
                await add_events(stream.services.database, first=FOREIGN + repeat * events, count=events)
                busy = await stream.costs_of(asyncio.sleep(2 * seconds))
                swept.add(count, (busy.web - calm.web) / events * 1e6)
    return [frame, valkey, swept]
