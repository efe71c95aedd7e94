"""The moving line says what is known, and fits the terminal."""

from __future__ import annotations

import io
import logging

import msgspec

from server.cli.progress import Screen, line_of
from testkit.values import session_view
from tryon.protocol.states import Status

PROCESSING = session_view(status=Status.PROCESSING, seq=2, attempt=1, stage="warping the garment", progress=0.62)


def test_line_says_place_stage_step_and_time() -> None:
    """Whatever a session knows of its way stands in one line."""
    waiting = session_view(queue_position=3, eta_seconds=12.4)
    assert line_of(waiting, columns=80) == "waiting, 3rd in line, about 12 s"
    assert line_of(PROCESSING, columns=80) == "███████████████░░░░░░░░░  62%  warping the garment"
    counted = msgspec.structs.replace(PROCESSING, step=12, steps=20, eta_seconds=4, progress=None)
    assert line_of(counted, columns=80) == "warping the garment, step 12 of 20, about 4 s"
    upstream = session_view(status=Status.PROCESSING, upstream_position=2)
    assert line_of(upstream, columns=80) == "processing, 2nd in line at the model's server"
    requeued = session_view(attempt=1, seq=3)
    assert line_of(requeued, columns=80) == "interrupted, starting again (attempt 2)"
    ended = session_view(status=Status.COMPLETED, terminal=True, progress=1.0)
    assert line_of(ended, columns=80) == "completed"


def test_line_fits_its_terminal() -> None:
    """A narrow one loses the bar, then the end; a plain one shows ASCII."""
    assert line_of(PROCESSING, columns=40) == " 62%  warping the garment"
    assert line_of(PROCESSING, columns=12) == " 62%  warpi"
    assert line_of(PROCESSING, columns=80, blocks=False).startswith("[###############---------]  62%")


def test_screen_without_terminal_shows_each_state_once() -> None:
    """Progress makes no line; the loss of the connection does."""
    stream = io.StringIO()
    screen = Screen(stream)
    with screen.noting_losses():
        for progress in (0.1, 0.2):
            screen.show(msgspec.structs.replace(PROCESSING, progress=progress))
        for _ in range(2):
            logging.getLogger("tryon.client").info("Connection lost: ws 1006, retrying over ws in 0.1 s")
        screen.show(PROCESSING)
    assert stream.getvalue().splitlines() == [
        "warping the garment", "no connection, trying again", "warping the garment",
    ]  # fmt: skip
    assert not logging.getLogger("tryon.client").handlers
