"""What the app's queue says while a call waits and runs, as values.

The stream of ``/queue/data`` carries JSON objects with a ``msg``. Protocols ``sse_v1``
to ``sse_v3`` (Gradio 4.0 to 6) differ in the intermediate results of generators alone:
since ``sse_v2`` each after the first is a list of edits of the one before.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from worker.processors.gradio.templates import Json

PROTOCOLS: Final = ("sse_v1", "sse_v2", "sse_v2.1", "sse_v3")
"""The protocols that are spoken here."""

STAGE_LENGTH: Final = 80
"""Maximum characters of a stage that the app names."""


@dataclass(frozen=True, slots=True)
class Queued:
    """The call waits; ``position`` 1 is next."""

    position: int
    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class Started:
    """The call runs."""

    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class Progressed:
    """The function's own progress."""

    progress: float | None
    stage: str | None
    step: int | None
    steps: int | None


@dataclass(frozen=True, slots=True)
class Generated:
    """An intermediate result of a generator."""

    values: Sequence[Json]


@dataclass(frozen=True, slots=True)
class Completed:
    """The result."""

    values: Sequence[Json]


@dataclass(frozen=True, slots=True)
class Failed:
    """The function raised, or refused; the text is empty if the app hides it."""

    text: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Something cancelled the call: it has ended with success and no result."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The app's server stopped, or does not know the stream any more."""

    text: str


Word: TypeAlias = Queued | Started | Progressed | Generated | Completed | Failed | Cancelled | Lost


class Conversation:
    """The messages of one call; it keeps the generator's last result."""

    def __init__(self, event_id: str, protocol: str) -> None:
        self._event_id = event_id
        self._edits = protocol != "sse_v1"
        self._last: list[Json] | None = None

    def __repr__(self) -> str:
        return f"<Conversation {self._event_id}>"

    def read(self, message: Json) -> Word | None:
        """Return what a message says, or None if it says nothing of this call.

        Raises ValueError: it is malformed.
        """
        if not isinstance(message, Mapping):
            raise ValueError("a message that is no object")
        kind = message.get("msg")
        if kind in ("unexpected_error", "server_stopped"):
            return Lost(_text(message.get("message")))
        if message.get("event_id") != self._event_id:
            return None
        match kind:
            case "estimation":
                rank = _number(message.get("rank"))
                return None if rank is None else Queued(int(rank) + 1, _seconds(message.get("rank_eta")))
            case "process_starts":
                return Started(_seconds(message.get("eta")))
            case "progress":
                return progressed(message.get("progress_data"))
            case "process_generating" | "process_streaming":
                return self._generated(message)
            case "process_completed":
                return _completed(message)
        return None  # heartbeat, log, and what later versions may add

    def _generated(self, message: Mapping[str, Json]) -> Word | None:
        output = message.get("output")
        values = output.get("data") if isinstance(output, Mapping) else None
        if not isinstance(values, list):
            return None  # an error: process_completed tells it too
        if self._last is None or not self._edits or len(values) != len(self._last):
            self._last = values
        else:
            self._last = [edited(old, edits) for old, edits in zip(self._last, values, strict=True)]
        return Generated(self._last)


def _completed(message: Mapping[str, Json]) -> Word:
    output = message.get("output")
    output = output if isinstance(output, Mapping) else {}
    if not message.get("success"):
        title, text = _text(output.get("title") or message.get("title")), _text(output.get("error"))
        return Failed(": ".join(part for part in (title if title != "Error" else "", text) if part))
    values = output.get("data")
    return Completed(values) if isinstance(values, list) else Cancelled()


def progressed(units: Json) -> Progressed:
    """Return the progress of nested loops, the outermost first.

    An inner loop counts as a part of the step that the outer one is at.
    """
    progress, share, stage, step, steps = 0.0, 1.0, None, None, None
    known = False
    for unit in units if isinstance(units, list) else ():
        if not isinstance(unit, Mapping):
            continue
        stage = _text(unit.get("desc"))[:STAGE_LENGTH] or stage
        part, index, length = (_number(unit.get(name)) for name in ("progress", "index", "length"))
        if part is not None:
            progress, share, known = progress + share * min(max(part, 0.0), 1.0), 0.0, True
        elif index is not None and length is not None and length > 0:
            index = min(max(index, 0.0), length)
            progress, share, known = progress + share * index / length, share / length, True
            if index.is_integer() and length.is_integer():
                step, steps = int(index), int(length)
    return Progressed(min(progress, 1.0) if known else None, stage, step, steps)


def edited(value: Json, edits: Json) -> Json:
    """Return the value after these edits: ``[action, path, value]`` each.

    Raises ValueError: an edit is malformed, or fits no part of the value.
    """
    whole = [copy.deepcopy(value)]
    try:
        for action, path, new in edits:
            keys: tuple[Json, ...] = (0, *path)
            last = keys[-1]
            holder = whole
            for key in keys[:-1]:
                holder = holder[key]
            if action == "replace":
                holder[last] = new
            elif action == "append":
                holder[last] += new
            elif action == "add" and isinstance(holder, list):
                holder.insert(last, new)
            elif action == "add":
                holder[last] = new
            elif action == "delete":
                del holder[last]
            else:
                raise ValueError(f"an edit {action!r}")
        return whole[0]
    except (LookupError, TypeError) as error:
        raise ValueError(f"an edit that fits no value ({type(error).__name__})") from error


def _text(value: Json) -> str:
    return value.strip() if isinstance(value, str) else ""


def _number(value: Json) -> float | None:
    """Return a finite number, or None."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _seconds(value: Json) -> float | None:
    number = _number(value)
    return None if number is None or number < 0 else number
