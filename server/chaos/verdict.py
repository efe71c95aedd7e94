"""The judgement of a run: the kinds of finding, and everything the report prints."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """A kind of broken promise; :data:`KINDS` describes each."""

    LOST = "lost"
    STUCK = "stuck"
    GAP = "gap"
    REPEAT = "repeat"
    STEP_BACK = "step back"
    CHANGED = "changed"
    WRONG = "wrong"
    FOREIGN = "foreign"
    REMAINS = "remains"
    DUPLICATED = "duplicated"
    STALE = "stale"
    UNSERVED = "unserved"
    ERROR = "error"


KINDS: Final[dict[Kind, str]] = {
    Kind.LOST: "an accepted session whose end a client was never shown, or that vanished unasked",
    Kind.STUCK: "a session that never ended, or stood still in one state for longer than allowed",
    Kind.GAP: "a client was shown a transition without the one before it",
    Kind.REPEAT: "a client was shown a transition that it had seen",
    Kind.STEP_BACK: "a client was shown an older state than before",
    Kind.CHANGED: "something followed a terminal event",
    Kind.WRONG: "a client was shown something else than the audit trail holds, or the audit trail contradicts itself",
    Kind.FOREIGN: "a stranger saw, or could change, a session or learn that it exists",
    Kind.REMAINS: "a file, row, key or answer of a session that was erased",
    Kind.DUPLICATED: "one upload made more than one session",
    Kind.STALE: "a connected client was shown a transition later than allowed",
    Kind.UNSERVED: "a call that was not answered, or refused until the client gave up",
    Kind.ERROR: "an answer that no well-behaved client should get",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise. ``t``: when it showed, on the observer's clock."""

    kind: Kind
    detail: str
    session: str | None = None
    client: str | None = None
    t: float | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """One transition on one screen, in seconds after its commit.

    ``stale``: the longest time that the client was connected over one connection and
    was not shown it: from the commit or, if that was later, from the request for the
    connection, until it was shown or the connection was over. A poll counts from the
    first request after the commit, until the next that was not answered. ``late``:
    since the commit, whatever happened in between.
    """

    stale: float
    late: float
    over: str
    fault: str
    session: str
    client: str
    status: str
    t: float


@dataclass(frozen=True, slots=True)
class Loss:
    """A connection that was lost.

    ``code``: of its close, of HTTP, or 1006. ``live``: it was answered before; else it
    was refused. Polls count as one connection while they are answered.
    """

    over: str
    code: int
    live: bool


@dataclass(slots=True)
class Verdict:
    """Findings and figures of one run."""

    findings: list[Finding] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    sessions: int = 0
    screens: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """Sessions by their end: a terminal status, deleted, expired."""
    refused: Counter[str] = field(default_factory=Counter)
    """Calls by their refusal: ``upload 503``."""
    losses: Counter[Loss] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    strangers: int = 0
    clocks: int = 0
    """Number of comparisons of the clocks."""

    def found(
        self, kind: Kind, detail: str, session: str | None = None, client: str | None = None, t: float | None = None
    ) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind, detail, session, client, t))

    def count(self, kind: Kind) -> int:
        """Return the number of findings of a kind."""
        return sum(finding.kind is kind for finding in self.findings)
