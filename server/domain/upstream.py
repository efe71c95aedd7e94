"""Work that a processor has begun elsewhere, and what finds it again."""

from __future__ import annotations

from typing import Any, Final

import msgspec

MAX_CHECKPOINT_BYTES: Final = 16 * 1024
"""Maximum bytes of a checkpoint as JSON."""


class UpstreamWork(msgspec.Struct, frozen=True):
    """Work that an attempt has begun upstream."""

    processor: str
    """Name of the processor that began it, and alone can go on with it."""
    key: str
    """``{session}-{attempt}`` of the run that began it."""
    checkpoint: dict[str, Any]
    """The processor's own words by which it finds the work again."""
    deletable: bool = True
    """Whether the processor can delete what is kept there."""
    attempt: int = 0
    """The attempt that has committed it."""
    usage: dict[str, float] | None = None
    """Usage of that attempt by then; it counts if its worker is lost."""

    def __repr__(self) -> str:
        return f"<UpstreamWork of {self.processor} {self.key}>"  # a checkpoint may name what is secret
