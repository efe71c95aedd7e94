"""A session on a terminal: one line that moves, or plain lines where nothing moves."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Final, TextIO

from server.cli.wording import duration, ordinal
from tryon.protocol.states import Status
from tryon.protocol.views import SessionView

BAR_CELLS: Final = 24
COLUMNS: Final = 80
"""Width of a terminal that does not tell its own."""
NARROW: Final = 60
"""Columns below which the bar is left out."""
_CLEAR: Final = "\r\x1b[K"
_SHOWN_SECONDS: Final = 0.05
"""Shortest time between two drawings of the moving line."""


def words_of(session: SessionView) -> str:
    """Return what happens to the session now, without numbers that move."""
    if session.status is Status.CREATED:
        return "waiting" if session.attempt == 0 else f"interrupted, starting again (attempt {session.attempt + 1})"
    if session.status is Status.PROCESSING:
        return session.stage or session.status.value
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
    return words[: max(columns - 1, 1)]


def _bar(share: float, blocks: bool) -> str:
    full = round(min(max(share, 0.0), 1.0) * BAR_CELLS)
    return "█" * full + "░" * (BAR_CELLS - full) if blocks else "[" + "#" * full + "-" * (BAR_CELLS - full) + "]"


class Screen:
    """Standard error, where the progress of one session is shown.

    On a terminal the line moves; elsewhere each new state is one line.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._moves = stream.isatty()
        self._blocks = (stream.encoding or "").lower().replace("-", "") == "utf8"
        self._clock = clock
        self._shown_at = float("-inf")
        self._words = ""

    def __repr__(self) -> str:
        return f"<Screen {'moving' if self._moves else 'plain'}>"

    def show(self, session: SessionView) -> None:
        """Show the session as it is now."""
        self._draw(words_of(session), lambda columns: line_of(session, columns=columns, blocks=self._blocks))

    def move(self, words: str, progress: float | None) -> None:
        """Show anything else that makes progress."""
        self._draw(words, lambda columns: bar_line(words, progress, columns=columns, blocks=self._blocks))

    def note(self, text: str) -> None:
        """Show a few words in place of the session, until it is heard of again."""
        if text != self._words:
            self._write(_CLEAR + text if self._moves else text + "\n")
        self._words = text

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

    @contextlib.contextmanager
    def noting_losses(self) -> Iterator[None]:
        """Note each loss of the connection, which the client's log tells."""
        handler, log = _Losses(self.note), logging.getLogger("tryon.client")
        level, passes_on = log.level, log.propagate
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
            log.propagate = passes_on
            self.end()

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal was closed; the session goes on
            self._stream.write(text)
            self._stream.flush()


def _columns(terminal: TextIO) -> int:
    """Return the width of a terminal; some tell none."""
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(terminal.fileno()).columns or COLUMNS
    return COLUMNS


class _Losses(logging.Handler):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note("no connection, trying again")
