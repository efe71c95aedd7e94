"""Exit statuses of commands; the module loads nothing of the client."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tryon.client.problems import Problem

_GATEWAY: Final = frozenset({502, 503, 504})
"""Statuses of a proxy whose server is unavailable; they come without a code."""

_ENDED: Final = frozenset({"deleted", "expired", "erased"})
"""Codes of a session that ended while it was followed."""


class Exit(IntEnum):
    """Exit status of a command."""

    DONE = 0
    FAILED = 1
    """The session failed, was cancelled or is gone, its picture could not be saved, or
    a check found something.
    """
    USAGE = 2
    """Wrong arguments or settings; nothing was sent."""
    UNREACHABLE = 3
    REFUSED = 4
    """The server refused, or would refuse: then nothing was sent."""
    INTERRUPTED = 130
    """Ctrl-C, as shells count it: 128 and the signal's number."""


def exit_of(problem: Problem) -> Exit:
    """Return the status of a command that ended with a problem."""
    if problem.code in _ENDED:
        return Exit.FAILED
    if problem.code == "network" or (
        problem.code == "unknown" and (problem.status in _GATEWAY or problem.status < 300)
    ):
        return Exit.UNREACHABLE
    return Exit.REFUSED
