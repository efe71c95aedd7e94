"""The steps of a check, one line each; progress moves below them on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TextIO

import msgspec

from server.cli.progress import Screen

WIDTH: Final = 12
"""Columns of a step's name."""


class Line(msgspec.Struct, frozen=True):
    """A line that a check prints: a step, or progress (without a name)."""

    name: str = ""
    ok: bool = True
    text: str = ""
    mend: str = ""
    trace: str = ""
    progress: float | None = None
    stage: str | None = None


class Steps:
    """Shows the lines of a check on standard output, its progress on ``beside``."""

    def __init__(self, stream: TextIO, beside: TextIO) -> None:
        self._stream = stream
        self._screen = Screen(beside)

    def __repr__(self) -> str:
        return f"<Steps on {self._screen!r}>"

    def show(self, lines: Iterable[str]) -> None:
        """Show each line as it comes."""
        for text in lines:
            line = msgspec.json.decode(text, type=Line)
            if not line.name:
                self._screen.move(line.stage or "running", line.progress)
                continue
            self._screen.end()
            self._stream.write(step_lines(line))
            self._stream.flush()
        self._screen.end()


def step_lines(line: Line) -> str:
    """Return a step in words, with its trace and how to mend it."""
    marks = {True: "ok", False: "FAILED"}
    text = f"{marks[line.ok]:7} {line.name:{WIDTH}} {line.text}\n"
    if line.trace:
        text += line.trace.rstrip() + "\n"
    return text + (f"{'':8}{'':{WIDTH}} {line.mend}\n" if line.mend else "")
