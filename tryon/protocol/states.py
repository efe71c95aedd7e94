"""The states of a session and the one table of its transitions.

Everything else derives from :data:`TRANSITIONS`: the database's compare-and-set, the
diagram in the documentation (:func:`mermaid`) and the tests. A transition that the
table does not hold changes nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """The state of a session; ``completed``, ``failed`` and ``cancelled`` are final."""

    CREATED = "created"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


class Event(StrEnum):
    """One transition, one ``seq`` and one row of the audit trail."""

    CREATED = "created"
    PROCESSING = "processing"
    REQUEUED = "requeued"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: Final[dict[tuple[Status | None, Event], Status]] = {
    (None, Event.CREATED): Status.CREATED,
    (Status.CREATED, Event.PROCESSING): Status.PROCESSING,
    (Status.CREATED, Event.FAILED): Status.FAILED,
    (Status.CREATED, Event.CANCELLED): Status.CANCELLED,
    (Status.PROCESSING, Event.COMPLETED): Status.COMPLETED,
    (Status.PROCESSING, Event.FAILED): Status.FAILED,
    (Status.PROCESSING, Event.CANCELLED): Status.CANCELLED,
    (Status.PROCESSING, Event.REQUEUED): Status.CREATED,
}
"""The status after, by status before and event.

``requeued``: the lease was lost, the worker drained, or the error was retryable.
"""

TERMINAL: Final = frozenset(set(Status) - {before for before, _ in TRANSITIONS})


class GoneReason(StrEnum):
    """The reason why a session is gone: its row, events and files are erased."""

    DELETED = "deleted"
    EXPIRED = "expired"


def mermaid() -> str:
    """Return the state diagram of the documentation, drawn from the table."""
    lines = ["stateDiagram-v2"]
    for (before, event), after in TRANSITIONS.items():
        label = "" if event.value == after.value else f" : {event}"
        lines.append(f"    {before or '[*]'} --> {after}{label}")
    lines += [f"    {status} --> [*]" for status in Status if status.terminal]
    return "\n".join(lines)
