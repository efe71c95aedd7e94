"""Read progress out of what a model prints: the bars of tqdm, and "step 3/10"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

TAIL_CHARACTERS: Final = 4096
"""Characters that are searched at a time; a bar that is longer is not found."""

_BAR: Final = re.compile(
    r"(?:(?P<name>[^\s:|\[\]][^:|\[\]\r\n]{0,59}):\s{0,9})?(?P<percent>\d{1,3})%\|[^|\r\n]{0,200}\|"
    r"\s{0,9}(?P<step>\d{1,9})/(?P<steps>\d{1,9})(?:\s{0,9}\[[\d:]{1,12}<(?P<left>[\d:]{1,12}))?"
)
"""A bar of tqdm: ``Denoising:  40%|████      | 12/30 [00:03<00:05,  3.50it/s]``."""

_STEP: Final = re.compile(
    r"\b(?:step|iteration)\s{0,3}:?\s{0,3}(?P<step>\d{1,9})\s{0,3}(?:/|of)\s{0,3}(?P<steps>\d{1,9})", re.I
)
"""``Step 3/10``, ``iteration: 3 of 10``."""

_SHARE: Final = re.compile(r"\bprogress\s{0,3}[:=]?\s{0,3}(?P<share>\d{1,3}(?:\.\d{1,9})?)(?P<percent>\s?%)?", re.I)
"""``progress: 0.4``, ``Progress 40%``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a model says that it is."""

    share: float
    """From 0 to 1."""
    step: int | None = None
    steps: int | None = None
    stage: str | None = None
    """The name of the bar."""
    eta_seconds: float | None = None


class Printed:
    """The newest part of a model's output."""

    def __init__(self) -> None:
        self._tail = ""
        self._told: Progress | None = None

    def __repr__(self) -> str:
        return f"<Printed {len(self._tail)} characters>"

    def add(self, text: str) -> Progress | None:
        """Return the newest progress of the text; None if it says nothing new.

        The text may begin and end anywhere, also within a line.
        """
        begun = self._tail + text[-TAIL_CHARACTERS:]
        found = newest(begun)
        # tqdm draws over its last line: no line break ends a bar
        self._tail = re.split(r"[\r\n]", begun)[-1][-TAIL_CHARACTERS:]
        if found == self._told:
            return None
        self._told = found or self._told
        return found


def newest(text: str) -> Progress | None:
    """Return what the last line that tells of progress says; None if none does."""
    for line in reversed(re.split(r"[\r\n]+", text)):
        if (found := _read(line)) is not None:
            return found
    return None


def _read(line: str) -> Progress | None:
    if (match := _last(_BAR, line)) is not None:
        step, steps = int(match["step"]), int(match["steps"])
        if not steps:
            return None
        return Progress(
            share=min(1.0, step / steps),
            step=step,
            steps=steps,
            stage=match["name"] and match["name"].strip(),
            eta_seconds=_seconds(match["left"]),
        )
    if (match := _last(_STEP, line)) is not None and int(match["steps"]):
        step, steps = int(match["step"]), int(match["steps"])
        return Progress(share=min(1.0, step / steps), step=step, steps=steps)
    if (match := _last(_SHARE, line)) is not None:
        share = float(match["share"]) / (100 if match["percent"] else 1)
        return Progress(share=share) if share <= 1 else None
    return None


def _last(pattern: re.Pattern[str], line: str) -> re.Match[str] | None:
    found = list(pattern.finditer(line))
    return found[-1] if found else None


def _seconds(clock: str | None) -> float | None:
    """Return the seconds of ``5:03`` or ``1:05:03``."""
    if not clock or not all(part.isdigit() for part in clock.split(":")):
        return None
    seconds = 0
    for part in clock.split(":"):
        seconds = seconds * 60 + int(part)
    return float(seconds)
