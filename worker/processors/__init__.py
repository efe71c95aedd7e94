"""The plug for the AI part:

API, database and clients stay the same whatever makes the picture.

A processor is a class with a constructor that takes the
:class:`~server.config.settings.Config`, a ``name`` and :meth:`Processor.run`.
``TRYON_PROCESSOR=package.module:Class`` plugs it in. It runs in a child process
(:mod:`~worker.isolation.child`), one session at a time: whatever it does there, it does
to that session alone. Its module is imported once per worker, before the children are
forked from it; the constructor, ``start()`` and ``close()``, where it has them, run
once per child. A child that has ended a session in good order does the next one; a
session that meets one whose ``start()`` is not done says ``warming``.

So the module must not start a thread or touch a GPU when it is imported (neither
survives a fork): that belongs in ``start()``. The Config comes without the product's
secrets, and so does the environment.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from server.config.settings import Config, ConfigError

BUILT_IN: Final[dict[str, str]] = {"mock": "worker.processors.mock:MockProcessor"}

EXTENSION: Final = re.compile(r"[a-z0-9]{1,8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Job:
    """What to do.

    The images are upright and without metadata; a side has 64 to 8192 pixels unless
    configured otherwise.
    """

    session_id: str
    attempt: int
    """Counts from 1.

    Another attempt at the same session is another job; it may run while the last one
    has not yet noticed.
    """
    image: bytes = field(repr=False)
    image_type: str
    """``image/jpeg``, ``image/png`` or ``image/webp``."""
    garment: bytes | None = field(default=None, repr=False)
    garment_type: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    """As the client sent them: any JSON object of at most 4 KiB, checked by nobody."""
    number: int = 1
    """Counts the jobs of this worker from 1, whichever child they fall to."""


@dataclass(frozen=True, slots=True)
class Output:
    """The result: an image file and its extension without a dot (``jpg``, ``png``,
    ``webp``).
    """

    data: bytes = field(repr=False)
    extension: str


class Report(Protocol):
    """Tells whoever watches.

    Cheap, never raises, may be called as often as there is something to say (5 a second
    go out).
    """

    async def __call__(self, progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
        """``progress`` from 0 to 1 or None (unknown); ``stage`` in a few words;
        ``eta_seconds`` to the expected end.
        """


class Processor(Protocol):
    """One ``run`` at a time on an event loop of its own.

    One that blocks it is deaf to a cancel, and is killed for it.
    """

    @property
    def name(self) -> str: ...

    async def run(self, job: Job, report: Report) -> Output:
        """Make the picture.

        Cancelled when nobody wants the result any more (cancel, deadline, shutdown):
        clean up and let it through, within ``children.STOP_SECONDS``. A thread that is
        still at work then ends with its process, which is replaced. Raises
        :class:`ProcessorError` for a failure it can name; any other exception fails the
        session as ``processor_error``.
        """


class ProcessorError(Exception):
    """A failure with a name.

    ``message`` is shown to the person (None: the code's own, see
    ``tryon.protocol.errors.FAILURES``), ``retryable`` tells them that trying again may
    help. ``requeue`` is for us: the same job may work on another attempt; after
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


Make = Callable[[Config], Processor]


def find(name: str) -> Make:
    """What makes the processor of ``TRYON_PROCESSOR``.

    Raises :class:`ConfigError`: one line that says what is wrong.
    """
    path = BUILT_IN.get(name, name)
    if ":" not in path:
        known = ", ".join(BUILT_IN)
        raise ConfigError(f"TRYON_PROCESSOR: there is no processor {name!r}; it is {known}, or package.module:Class")
    module_name, _, class_name = path.partition(":")
    try:
        found: Make = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        raise _unusable(name, error) from error
    return found


def make(found: Make, config: Config) -> Processor:
    """One processor. Raises :class:`ConfigError` as :func:`find` does."""
    name = config.processor
    try:
        processor = found(config)
    except ConfigError:
        raise
    except Exception as error:
        raise _unusable(name, error) from error
    if not callable(getattr(processor, "run", None)) or not isinstance(getattr(processor, "name", None), str):
        raise ConfigError(f"TRYON_PROCESSOR: {name!r} is no processor: it needs a name and an async run(job, report)")
    return processor


def _unusable(name: str, error: Exception) -> ConfigError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return ConfigError(f"TRYON_PROCESSOR: {name!r} cannot be loaded ({reason})")
