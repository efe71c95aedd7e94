"""The place of a waiting session in the queue, and which moves its clients hear of."""

from __future__ import annotations

from typing import NamedTuple


class Waiting(NamedTuple):
    """The place of a session in the queue, from 1, and the seconds to its expected end.

    ``eta_seconds`` is None while there is no estimate.
    """

    queue_position: int
    eta_seconds: float | None


def worth_announcing(announced: Waiting | None, now: Waiting) -> bool:
    """Return whether the clients of a waiting session should be sent this place.

    A move counts from 2 % of the position: in the first hundred places every move, at
    position 500 every tenth. A time counts when it has changed by a tenth, and by a
    second at least.
    """
    if announced is None or announced == now:
        return announced is None
    if abs(announced.queue_position - now.queue_position) >= max(1, now.queue_position // 50):
        return True
    if announced.eta_seconds is None or now.eta_seconds is None:
        return announced.eta_seconds is not now.eta_seconds
    return abs(announced.eta_seconds - now.eta_seconds) >= max(1.0, announced.eta_seconds / 10)


def expected_seconds(position: int, *, run_seconds: float | None, slots: int) -> float | None:
    """Return the seconds to the end of a session that waits at ``position``.

    It assumes that every session runs for ``run_seconds`` and that all ``slots`` are
    free now: each full round ahead takes one run, then the session itself runs. None
    without slots, or before any run has been measured.
    """
    if run_seconds is None or slots < 1:
        return None
    rounds_ahead = (position - 1) // slots
    return round(run_seconds * (rounds_ahead + 1), 1)
