"""A report that goes nowhere: of work without a session."""

from __future__ import annotations

from tryon.processor import Checkpoint


class Silence:
    """A ``Report`` that drops what it is told."""

    async def __call__(
        self,
        progress: float | None = None,
        stage: str | None = None,
        eta_seconds: float | None = None,
        *,
        step: int | None = None,
        steps: int | None = None,
        upstream_position: int | None = None,
    ) -> None: ...

    async def preview(self, data: bytes, type: str = "image/jpeg") -> None: ...

    async def log(self, text: str) -> None: ...

    async def usage(
        self, *, credits: float | None = None, cost_usd: float | None = None, gpu_seconds: float | None = None
    ) -> None: ...

    async def checkpoint(self, checkpoint: Checkpoint) -> None: ...
