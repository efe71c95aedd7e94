"""The moving line shows the state of a session, and fits the terminal."""

from __future__ import annotations

import io
import logging

import msgspec
import pytest

from server.cli.progress import Screen, line_of, noting_connections
from testkit.values import session_view
from tryon.protocol.states import Status

PROCESSING = session_view(status=Status.PROCESSING, seq=2, attempt=1, stage="warping the garment", progress=0.62)


def test_line_says_place_stage_step_and_time() -> None:
    """Place, stage, step and time stand in one line."""
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
    wide = msgspec.structs.replace(PROCESSING, stage="服を変形しています")
    assert line_of(wide, columns=16) == " 62%  服を変形"
    assert line_of(PROCESSING, columns=1) == " "


def test_stage_cannot_command_the_terminal() -> None:
    """Control characters of a processor's text are spaces."""
    hostile = msgspec.structs.replace(PROCESSING, stage="\x1b]0;title\x07 warping\u202e", progress=None)
    assert line_of(hostile, columns=80) == " ]0;title  warping "


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_terminal_without_cursor_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """TERM=dumb moves nothing; any other terminal does."""
    for term, shown in (("dumb", "warping the garment\n"), ("xterm", "\r\x1b[K" + line_of(PROCESSING, columns=80))):
        monkeypatch.setenv("TERM", term)
        terminal = Terminal()
        Screen(terminal).show(PROCESSING)
        assert terminal.getvalue() == shown


def test_screen_without_terminal_shows_each_state_once() -> None:
    """Progress makes no line; a note does, once."""
    stream = io.StringIO()
    screen = Screen(stream)
    for progress in (0.1, 0.2):
        screen.show(msgspec.structs.replace(PROCESSING, progress=progress))
    for _ in range(2):
        screen.note("no connection, trying again")
    screen.show(PROCESSING)
    screen.end()
    assert stream.getvalue().splitlines() == [
        "warping the garment", "no connection, trying again", "warping the garment",
    ]  # fmt: skip


def test_quiet_screen_shows_nothing() -> None:
    """With --json, standard error has objects only."""
    stream = io.StringIO()
    screen = Screen(stream, quiet=True)
    screen.show(PROCESSING)
    screen.note("no connection, trying again")
    screen.end()
    assert stream.getvalue() == ""


def test_connections_are_noted_from_the_log() -> None:
    """A loss and its end; the log is as before afterwards."""
    log = logging.getLogger("tryon.client")
    seen: list[bool] = []
    with noting_connections(seen.append):
        log.info("Connection lost: ws 1006, retrying over ws in 0.1 s")
        log.debug("Following a over ws")
    assert seen == [False, True]
    assert (log.handlers, log.level, log.propagate) == ([], logging.NOTSET, True)
