"""The phases of a connection: each waits for one thing, for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Final

from server.web.serving.pace import WINDOW_SECONDS

IDLE_SECONDS: Final = 15.0
"""Seconds that a connection may wait for a request."""

PROXY_IDLE_SECONDS: Final = 90.0
"""Seconds that a trusted proxy's connection may wait for a request.

Load balancers keep connections for 60 s and answer 502 when one ends under a request.
"""

HEAD_SECONDS: Final = 10.0
"""Seconds from the first byte of a head, of a chunk's size or of trailers to the end
of it.
"""


class Phase(Enum):
    """A phase of a connection, named after the bytes it waits for."""

    IDLE = "request"
    HEAD = "head"
    ANSWER = "answer"
    LINE = "body"
    """A chunk's size, or trailers, have begun and not ended."""
    REST = "rest of a body whose request is answered"
    END = "end"


class PhaseTimer:
    """The timer of a phase in which no answer is due.

    Nothing that a client sends within the phase extends it.
    """

    __slots__ = ("_loop", "_over", "_part", "_timer", "phase")

    def __init__(self, over: Callable[[Phase], None], loop: asyncio.AbstractEventLoop) -> None:
        self._over = over
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._part = 0
        self.phase = Phase.ANSWER

    def __repr__(self) -> str:
        return f"<PhaseTimer {self.phase.name}>"

    def enter(self, phase: Phase, part: int = 0, *, seconds: float | None = None) -> None:
        """Begin a phase; one that goes on, with the same part, keeps its time.

        END is the last one.
        ``seconds``: for how long, instead of the phase's own time.
        """
        if phase is self.phase and part == self._part:
            return
        self.phase, self._part = phase, part
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if phase is Phase.END:
            del self._over  # its connection refers to this object: without the cycle it needs no collector
        if phase is Phase.IDLE:
            usual = IDLE_SECONDS
        elif phase in (Phase.HEAD, Phase.LINE):
            usual = HEAD_SECONDS
        elif phase is Phase.REST:
            usual = WINDOW_SECONDS
        else:
            return
        self._timer = self._loop.call_later(usual if seconds is None else seconds, self._end)

    def _end(self) -> None:
        phase, self.phase, self._timer = self.phase, Phase.ANSWER, None
        self._over(phase)
