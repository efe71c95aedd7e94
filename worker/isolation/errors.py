"""How a session on a child fails when its processor has not failed it by name.

::

    NotStarted       no processor could be started: not the session's fault
    Evicted          this worker ended the child of a session: neither is that
    NotStartedAgain  of a worker: its processor has worked, and cannot be started now
    RaisedInChild    the processor raised; the text is the traceback in the child
    Loss             a value, not an exception: the child ended before it answered
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Reason = Literal["crashed", "memory", "cpu", "evicted", "unheard"]

LOSS_CODES: Final[dict[Reason, str]] = {"crashed": "processor_crashed", "memory": "processor_crashed", "cpu": "timeout"}
"""The code that a session fails with, by the reason why its child was lost.

A session that was evicted, because this worker ended its child, does not fail: it is
handed back. One that could not be heard, for lack of a descriptor, is run again: its
work may have been paid for, so each time counts as an attempt.
"""


class NotStarted(Exception):
    """No processor.

    It cannot be made, its ``start()`` failed, or no process could be started for it.
    """


class Evicted(NotStarted):
    """The child of a session was ended for another reason than this session."""


class NotStartedAgain(Exception):
    """A processor that was ready before cannot be started; the cause says why."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.__cause__ = cause


class RaisedInChild(Exception):
    """An exception that was raised in a child; its text is the traceback there."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A child that ended before it answered."""

    reason: Reason
    how: str
    """The end of a process, in words that follow "the process" in a log line."""
