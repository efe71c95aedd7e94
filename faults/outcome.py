"""The outcome of one run of a row, and the row itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from faults.pace import Pace
from server.chaos.verdict import Loss, Sight
from tryon.protocol.backoff import TRANSPORTS

PUSHED: Final = frozenset({"ws", "sse"})
POLLED: Final = frozenset(TRANSPORTS) - PUSHED


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to upload.

    Its start (Unix seconds), its length, the status of the answer (0: none) and its
    Retry-After.
    """

    began: float
    seconds: float
    status: int
    why: str = ""
    retry_after: float | None = None


@dataclass
class Outcome:
    """Figures and broken promises of one run.

    ``wrong``: every promise that was broken, in words; empty is good.
    """

    stale_seconds: float = 0.0
    stalest: str = ""
    recovery_seconds: float | None = None
    losses: Counter[Loss] = field(default_factory=Counter)
    sessions: int = 0
    uploads: list[Attempt] = field(default_factory=list)
    cancels: Counter[int] = field(default_factory=Counter)
    """By HTTP status; 0: no answer."""
    sights: list[Sight] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        return sum(each.status == 201 for each in self.uploads)

    @property
    def refused(self) -> int:
        return sum(each.status not in (0, 201) for each in self.uploads)

    @property
    def unanswered(self) -> int:
        return sum(each.status == 0 for each in self.uploads)

    @property
    def slowest_upload(self) -> float:
        return max((each.seconds for each in self.uploads if each.status == 201), default=0.0)

    @property
    def cut(self) -> int:
        """Number of streams that ended before their session."""
        return sum(count for loss, count in self.losses.items() if loss.over in PUSHED and loss.live)

    @property
    def told_to_wait(self) -> int:
        """Number of polls that were not answered with the session."""
        return sum(count for loss, count in self.losses.items() if loss.over in POLLED)

    def recovered_after(self, seconds: float) -> None:
        """Note a time to recover; the longest one counts."""
        self.recovery_seconds = max(self.recovery_seconds or 0.0, seconds)

    def summary(self) -> str:
        """Return what the clients met with, in a few words."""
        parts = [f"{self.cut} streams cut" if self.cut else "no stream cut"]
        if self.told_to_wait:
            parts.append(f"{self.told_to_wait} polls refused")
        if self.uploads:
            parts.append(f"{self.accepted} uploads 201, the slowest after {self.slowest_upload:.2f} s")
        if self.refused:
            answers = {f"{each.status} {each.why}" for each in self.uploads if each.status not in (0, 201)}
            parts.append(f"{self.refused} uploads refused with {', '.join(sorted(answers))}")
        if self.unanswered:
            parts.append(f"{self.unanswered} uploads cut off and sent again")
        return "; ".join([*parts, *self.notes])


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the fault matrix.

    ``fault``: what happens, for the table. ``sample``: part of every ``./test``; the
    others run with ``--all`` only.
    """

    fault: str
    run: Callable[[Pace], Awaitable[Outcome]]
    sample: bool = False
