"""A job, and a report that can be waited for, for tests that call a processor."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tryon.processor import Checkpoint, Input, Job
from tryon.processor.conformance import Reports


class Recorder(Reports):
    """Keeps everything that a run reports, in the order of its calls."""

    def __init__(self, on_checkpoint: Callable[[Checkpoint], object] = lambda checkpoint: None) -> None:
        super().__init__()
        self._on_checkpoint = on_checkpoint
        self._changed = asyncio.Event()

    async def __call__(self, *progress: Any, **more: Any) -> None:
        await super().__call__(*progress, **more)
        self._changed.set()

    async def preview(self, data: bytes, type: str = "image/jpeg") -> None:
        await super().preview(data, type)
        self._changed.set()

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        await super().checkpoint(checkpoint)
        self._on_checkpoint(checkpoint)
        self._changed.set()

    async def until(self, met: Callable[[Recorder], object]) -> None:
        """Wait until what was reported meets a condition."""
        async with asyncio.timeout(30):
            while not met(self):
                self._changed.clear()
                await self._changed.wait()

    @property
    def stages(self) -> list[str | None]:
        """Return the stages, each as often as it was entered."""
        found = [each.stage for each in self.all]
        return [stage for before, stage in zip([None, *found], found, strict=False) if stage != before]


def make_job(folder: Path, photos: dict[str, bytes], *, attempt: int = 1, seed: int = 7, **params: Any) -> Job:
    """Return a job with these photos by role, all PNG, written into ``folder``."""
    inputs = []
    for role, data in photos.items():
        path = folder / f"{role}.png"
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        inputs.append(Input(role=role, type="image/png", path=str(path), bytes=len(data), sha256=digest))
    return Job(session_id=str(uuid.uuid4()), attempt=attempt, inputs=tuple(inputs), params=params, seed=seed)
