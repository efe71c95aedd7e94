"""The plug for the AI part: API, database and clients stay the same whatever makes the picture.

A processor is a class with a constructor that takes the :class:`~server.config.Config`, a ``name`` and :meth:`Processor.run`.
``TRYON_PROCESSOR=package.module:Class`` plugs it in; ``start()`` and ``close()``, where it has them, are awaited once per
worker process.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from server.config import Config, ConfigError

BUILT_IN: Final[dict[str, str]] = {"mock": "worker.processors.mock:MockProcessor"}

EXTENSION: Final = re.compile(r"[a-z0-9]{1,8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Job:
    """What to do. The images are upright and without metadata; a side has 64 to 8192 pixels unless configured otherwise."""

    session_id: str
    attempt: int
    """Counts from 1. Another attempt at the same session is another job; it may run while the last one has not yet noticed."""
    image: bytes = field(repr=False)
    image_type: str
    """``image/jpeg``, ``image/png`` or ``image/webp``."""
    garment: bytes | None = field(default=None, repr=False)
    garment_type: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    """As the client sent them: any JSON object of at most 4 KiB, checked by nobody."""


@dataclass(frozen=True, slots=True)
class Output:
    """The result: an image file and its extension without a dot (``jpg``, ``png``, ``webp``)."""

    data: bytes = field(repr=False)
    extension: str


class Report(Protocol):
    """Tells whoever watches. Cheap, never raises, may be called as often as there is something to say (5 a second go out)."""

    async def __call__(self, progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
        """``progress`` from 0 to 1 or None (unknown); ``stage`` in a few words; ``eta_seconds`` to the expected end."""


class Processor(Protocol):
    """Several ``run`` at once on one event loop: CPU work belongs in a thread or elsewhere."""

    @property
    def name(self) -> str: ...

    async def run(self, job: Job, report: Report) -> Output:
        """Make the picture.

        Cancelled when nobody wants the result any more (cancel, deadline, shutdown): clean up and let it through.
        Raises :class:`ProcessorError` for a failure it can name; any other exception fails the session as ``processor_error``.
        """


class ProcessorError(Exception):
    """A failure with a name.

    ``message`` is shown to the person (None: the code's own, see ``server.domain.errors.FAILURES``), ``retryable`` tells them
    that trying again may help. ``requeue`` is for us: the same job may work on another attempt; after
    ``TRYON_MAX_ATTEMPTS`` of those the session fails as ``worker_lost``.
    """

    def __init__(
        self, code: str, message: str | None = None, *, retryable: bool | None = None, requeue: bool = False
    ) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.requeue = requeue


def load(name: str, config: Config) -> Processor:
    """The processor of ``TRYON_PROCESSOR``. Raises :class:`ConfigError`: one line that says what is wrong."""
    path = BUILT_IN.get(name, name)
    if ":" not in path:
        known = ", ".join(BUILT_IN)
        raise ConfigError(f"TRYON_PROCESSOR: there is no processor {name!r}; it is {known}, or package.module:Class")
    module_name, _, class_name = path.partition(":")
    try:
        make: Callable[[Config], Processor] = getattr(importlib.import_module(module_name), class_name)
        processor = make(config)
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"TRYON_PROCESSOR: {name!r} cannot be loaded ({reason})") from error
    if not callable(getattr(processor, "run", None)) or not isinstance(getattr(processor, "name", None), str):
        raise ConfigError(f"TRYON_PROCESSOR: {name!r} is no processor: it needs a name and an async run(job, report)")
    return processor
