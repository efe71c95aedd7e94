"""The place of a waiting session in the queue: when a move is worth a frame, and the
expected time to the end.
"""

from __future__ import annotations

from typing import NamedTuple


class Waiting(NamedTuple):
    """Where a session stands in the queue, from 1, and the time to its expected end
    (None: nobody can say).
    """

    queue_position: int
    eta_seconds: float | None


def worth_telling(told: Waiting | None, now: Waiting) -> bool:
    """Whether who waits should hear of this place: at position 500 each tenth move, in
    the first hundred every one; a time that has changed by a tenth and a second.
    """
    if told is None or told == now:
        return told is None
    if abs(told.queue_position - now.queue_position) >= max(1, now.queue_position // 50):
        return True
    if told.eta_seconds is None or now.eta_seconds is None:
        return told.eta_seconds is not now.eta_seconds
    return abs(told.eta_seconds - now.eta_seconds) >= max(1.0, told.eta_seconds / 10)


def expected_seconds(position: int, *, run_seconds: float | None, slots: int) -> float | None:
    """The time to the end of a session that waits at ``position`` while ``slots``
    sessions run at once.

    As if everybody took the recent usual time and all slots were free now: each full
    round in front of it takes one such time, then it runs itself. None without workers
    or experience.
    """
    if run_seconds is None or slots < 1:
        return None
    rounds_ahead = (position - 1) // slots
    return round(run_seconds * (rounds_ahead + 1), 1)
