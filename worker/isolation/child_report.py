"""A run's words in its child: what :class:`tryon.processor.Report` becomes."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from server.system.memory_files import memory_file
from tryon.processor import AttemptLost
from tryon.processor import Checkpoint as CheckpointMapping
from tryon.processor.validation import checkpoint_text, is_preview
from worker.isolation.messages import Checkpoint, FromChild, Log, Preview, Report, Usage

REPORT_SECONDS: Final = 0.05
"""Least time between two reports that are sent; of those between, the newest is sent.
"""

PREVIEW_SECONDS: Final = 0.25
"""Least time between two previews that are sent, likewise."""

T = TypeVar("T")

_TEXT_CHARACTERS: Final = 32768
_STAGE_CHARACTERS: Final = 200
_MAX_COUNT: Final = 10**9


class Send(Protocol):
    """Sends a message to the worker, with descriptors."""

    def __call__(self, message: FromChild, files: Sequence[int] = ()) -> None: ...


class ChildReport:
    """The ``Report`` of one run."""

    def __init__(self, number: int, send: Send) -> None:
        self._number = number
        self._send = send
        self._progress: _Newest[Report] = _Newest(REPORT_SECONDS, send)
        self._preview: _Newest[tuple[bytes, str]] = _Newest(PREVIEW_SECONDS, self._send_preview)
        self._commits: deque[asyncio.Future[bool]] = deque()
        self._closed = False

    def __repr__(self) -> str:
        return f"<ChildReport {self._number} closed={self._closed}>"

    async def __call__(
        self,
        progress: float | None = None,
        stage: str | None = None,
        eta_seconds: float | None = None,
        *,
        step: int | None = None,
        steps: int | None = None,
        upstream_position: int | None = None,
    ) -> None:
        if not self._closed:
            self._progress.put(
                Report(
                    number=self._number,
                    progress=_number(progress),
                    stage=None if stage is None else text_of(stage)[:_STAGE_CHARACTERS],
                    eta_seconds=_number(eta_seconds),
                    step=_count(step),
                    steps=_count(steps),
                    upstream_position=_count(upstream_position),
                )
            )
        await asyncio.sleep(0)  # a processor that reports in a loop is cancelled here

    async def preview(self, data: bytes, type: str = "image/jpeg") -> None:
        if not self._closed and is_preview(data, type):
            self._preview.put((bytes(data), type))
        await asyncio.sleep(0)

    async def log(self, text: str) -> None:
        if not self._closed:
            self._send(Log(logging.INFO, "tryon.processor", text_of(text), None, self._number))
        await asyncio.sleep(0)

    async def usage(
        self, *, credits: float | None = None, cost_usd: float | None = None, gpu_seconds: float | None = None
    ) -> None:
        if not self._closed:
            used = (_number(each) for each in (credits, cost_usd, gpu_seconds))
            amounts = [each if each is not None and each >= 0 else None for each in used]
            self._send(Usage(number=self._number, credits=amounts[0], cost_usd=amounts[1], gpu_seconds=amounts[2]))
        await asyncio.sleep(0)

    async def checkpoint(self, checkpoint: CheckpointMapping) -> None:
        text = checkpoint_text(checkpoint)
        if self._closed:
            raise AttemptLost
        committed = asyncio.get_running_loop().create_future()
        self._commits.append(committed)
        self._send(Checkpoint(self._number, text))
        if not await committed:
            raise AttemptLost

    def committed(self, *, lost: bool) -> None:
        """Take the worker's answer to the oldest checkpoint."""
        if self._commits:
            future = self._commits.popleft()
            if not future.done():  # the run was not cancelled meanwhile
                future.set_result(not lost)

    def close(self) -> None:
        """Send no more: the run has ended."""
        self._closed = True
        self._progress.close()
        self._preview.close()

    def _send_preview(self, preview: tuple[bytes, str]) -> None:
        data, type = preview
        try:
            file = memory_file(data)
        except OSError:  # no memory or no descriptor is left: the run is worth more
            return
        try:
            self._send(Preview(self._number, type), [file])
        finally:
            os.close(file)


class _Newest(Generic[T]):
    """Hands the newest of its values on, at most one every ``seconds``."""

    def __init__(self, seconds: float, send: Callable[[T], None]) -> None:
        self._seconds = seconds
        self._send_value = send
        self._values: list[T] = []
        self._timer: asyncio.TimerHandle | None = None
        self._at = float("-inf")

    def __repr__(self) -> str:
        return f"<_Newest waiting={len(self._values)}>"

    def put(self, value: T) -> None:
        self._values = [value]
        loop = asyncio.get_running_loop()
        if loop.time() >= self._at + self._seconds:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_at(self._at + self._seconds, self._send)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self) -> None:
        self.close()
        if self._values:
            self._at = asyncio.get_running_loop().time()
            self._send_value(self._values.pop())


def text_of(value: object) -> str:
    """Return the end of its text, in characters that can be encoded."""
    return str(value)[-_TEXT_CHARACTERS:].encode(errors="replace").decode()


def _number(value: Any) -> float | None:
    """Return a reported number; None for anything that is no finite number."""
    try:
        number = float(value) if not isinstance(value, str) else math.nan
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _count(value: Any) -> int | None:
    """Return a reported count; None for anything that is none."""
    number = _number(value)
    return int(number) if number is not None and 0 <= number <= _MAX_COUNT else None
