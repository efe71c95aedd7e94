"""The times of the process pool, in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long the parts of the pool wait; tests shorten or lengthen a wait."""

    stop_seconds: float = 0.3
    """For a cancelled processor to clean up; then its process is killed."""
    close_seconds: float = 0.3
    """For the ``close()`` of the processors in a stopping worker's idle children."""
    clean_up_seconds: float = 30.0
    """For a processor's ``cancel()`` or ``forget()`` of work upstream."""
    idle_seconds: float = 2.0
    """Without work, until all children but one are ended: a full worker's next session
    comes within milliseconds.
    """
    watch_seconds: float = 0.1
    """Between two looks at the memory of children at work, 15 us each; 0.4 GB can be
    taken meanwhile.
    """
    fork_seconds: float = 10.0
    """For a fork, once the fork server has loaded the processor's code; a fork server
    that takes longer hangs, and is killed.
    """
    status_seconds: float = 1.0
    """For the fork server to report how a child ended."""
    restart_seconds: float = 1.0
    """Least time between two starts of the fork server, and before a fork is retried.
    """
