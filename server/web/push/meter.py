"""The metrics of the push: counts frames by kind, and measures the age of events."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

import msgspec

from server.adapters.database.clock import DatabaseClock
from server.domain.bus_message import EVENT, GONE, PROGRESS, TERMINAL, WAITING
from server.telemetry import metrics

FLUSH_SECONDS: Final = 1.0
"""Maximum delay of ``tryon_frames``, in seconds."""

MEASURE_SECONDS: Final = 0.001
"""Minimum time between two measured events.

Reading the time out of the JSON costs as much as sending it.
"""

_FRAMES: Final = {
    kind: metrics.frames.labels(name)
    for kind, name in (
        (EVENT, "event"),
        (WAITING, "event"),
        (TERMINAL, "event"),
        (PROGRESS, "progress"),
        (GONE, "gone"),
    )
}


class _Timed(msgspec.Struct):
    at: str


class PushMeter:
    """Counts that are not in the metrics yet."""

    __slots__ = ("_database_clock", "handed", "measure_at")

    def __init__(self, database_clock: DatabaseClock) -> None:
        self._database_clock = database_clock
        self.handed = dict.fromkeys(_FRAMES, 0)
        """Frames by the kind of their bus message; the hub adds to it.

        Counting each in the metrics would cost as much as handing it over.
        """
        self.measure_at = 0.0
        """Monotonic time from which on the next event is measured."""

    def __repr__(self) -> str:
        return f"<PushMeter handed={sum(self.handed.values())}>"

    def measure(self, frame: bytes, now: float) -> None:
        """Observe the time from an event's commit until now (monotonic: ``now``)."""
        self.measure_at = now + MEASURE_SECONDS
        metrics.push_seconds.observe(max(0.0, self._database_clock.now() - _unix(frame)))

    async def next_flush(self) -> None:
        """Wait for :data:`FLUSH_SECONDS`, measure by how much that was late, flush."""
        loop = asyncio.get_running_loop()
        due = loop.time() + FLUSH_SECONDS
        await asyncio.sleep(FLUSH_SECONDS)
        metrics.loop_lag_seconds.observe(max(0.0, loop.time() - due))
        self.flush()

    def flush(self) -> None:
        """Bring ``tryon_frames`` up to date."""
        for kind, number in self.handed.items():
            if number:
                self.handed[kind] = 0
                _FRAMES[kind].inc(number)


def _unix(frame: bytes) -> float:
    return datetime.fromisoformat(msgspec.json.decode(frame, type=_Timed).at).timestamp()
