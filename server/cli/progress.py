"""A session on a terminal: one line that moves, or plain lines where nothing moves."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Final, TextIO

from server.cli.wording import clipped, duration, ordinal, printable
from tryon.protocol.states import Status
from tryon.protocol.views import SessionView

BAR_CELLS: Final = 24
COLUMNS: Final = 80
"""Width of a terminal that reports none."""
NARROW: Final = 60
"""Columns below which the bar is left out."""
_CLEAR: Final = "\r\x1b[K"
_SHOWN_SECONDS: Final = 0.05
"""Shortest time between two drawings of the moving line."""


def words_of(session: SessionView) -> str:
    """Return the state of a session in words, without numbers that move."""
    if session.status is Status.CREATED:
        return "waiting" if session.attempt == 0 else f"interrupted, starting again (attempt {session.attempt + 1})"
    if session.status is Status.PROCESSING:
        return printable(session.stage or session.status.value)
    return session.status.value


def line_of(session: SessionView, *, columns: int, blocks: bool = True) -> str:
    """Return the moving line of a session.

    ``blocks``: the terminal can show more than ASCII.
    """
    parts = [words_of(session)]
    if session.queue_position is not None:
        parts.append(f"{ordinal(session.queue_position)} in line")
    if session.upstream_position is not None:
        parts.append(f"{ordinal(session.upstream_position)} in line at the model's server")
    if session.step is not None:
        parts.append(f"step {session.step}" + (f" of {session.steps}" if session.steps else ""))
    if session.eta_seconds is not None:
        parts.append(f"about {duration(max(round(session.eta_seconds), 1))}")
    progress = None if session.terminal else session.progress
    return bar_line(", ".join(parts), progress, columns=columns, blocks=blocks)


def bar_line(words: str, progress: float | None, *, columns: int, blocks: bool = True) -> str:
    """Return words behind a bar, where the share that is done is known."""
    if progress is not None:
        percent = f"{progress:4.0%}"
        words = f"{percent}  {words}" if columns < NARROW else f"{_bar(progress, blocks)} {percent}  {words}"
    return clipped(words, max(columns - 1, 1))


def _bar(share: float, blocks: bool) -> str:
    full = round(min(max(share, 0.0), 1.0) * BAR_CELLS)
    return "█" * full + "░" * (BAR_CELLS - full) if blocks else "[" + "#" * full + "-" * (BAR_CELLS - full) + "]"


class Screen:
    """Standard error, where the progress of one session is shown.

    On a terminal the line moves; elsewhere, and on a terminal that moves no cursor
    (``TERM=dumb``), each new state is one line. There are no colours. ``quiet``: show
    nothing.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._quiet = quiet
        self._moves = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._blocks = (stream.encoding or "").lower().replace("-", "") == "utf8"
        self._clock = clock
        self._shown_at = float("-inf")
        self._words = ""

    def __repr__(self) -> str:
        return f"<Screen {'quiet' if self._quiet else 'moving' if self._moves else 'plain'}>"

    def show(self, session: SessionView) -> None:
        """Show the session as it is now."""
        self._draw(words_of(session), lambda columns: line_of(session, columns=columns, blocks=self._blocks))

    def move(self, words: str, progress: float | None) -> None:
        """Show anything else that makes progress."""
        words = printable(words)
        self._draw(words, lambda columns: bar_line(words, progress, columns=columns, blocks=self._blocks))

    def note(self, text: str) -> None:
        """Show a few words in place of the session, until it is shown again."""
        if text != self._words:
            self._draw(text, lambda columns: bar_line(text, None, columns=columns))

    def end(self) -> None:
        """Remove the moving line."""
        if self._moves:
            self._write(_CLEAR)

    def _draw(self, words: str, line: Callable[[int], str]) -> None:
        if not self._moves:
            if words != self._words:
                self._write(words + "\n")
        elif words != self._words or self._clock() - self._shown_at >= _SHOWN_SECONDS:
            self._shown_at = self._clock()
            self._write(_CLEAR + line(_columns(self._stream)))
        self._words = words

    def _write(self, text: str) -> None:
        if not self._quiet:
            with contextlib.suppress(OSError):  # the terminal was closed; the session goes on
                self._stream.write(text)
                self._stream.flush()


def _columns(terminal: TextIO) -> int:
    """Return the width of a terminal, or the usual one if it reports none."""
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(terminal.fileno()).columns or COLUMNS
    return COLUMNS


@contextlib.contextmanager
def noting_connections(on_change: Callable[[bool], None]) -> Iterator[None]:
    """Call ``on_change`` with whether the client is connected, as its log says."""
    handler, log = _Connections(on_change), logging.getLogger("tryon.client")
    level, passes_on = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = passes_on


class _Connections(logging.Handler):
    """The client logs a lost connection at INFO, and one that is answered at DEBUG."""

    def __init__(self, on_change: Callable[[bool], None]) -> None:
        super().__init__(logging.DEBUG)
        self._on_change = on_change

    def emit(self, record: logging.LogRecord) -> None:
        self._on_change(record.levelno < logging.INFO)
