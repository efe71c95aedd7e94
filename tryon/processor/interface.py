"""The interface between the worker and a model.

A processor is a class with a ``name`` and an ``async run(job, report)``. Its
constructor takes the processor's own options by keyword, each with a default. The
setting ``TRYON_PROCESSOR=package.module:Class`` plugs it in.

It runs in a child process, one session at a time: a crash, a loop or a leak there ends
that session and no other. Its module is imported once per worker, before the children
are forked from it; the constructor, :meth:`Starts.start` and :meth:`Closes.close` run
once per child. A child that has ended a session in good order runs the next one; a
session that waits for ``start()`` reports the stage ``warming``.

So the module must not start a thread or touch a GPU when it is imported (neither
survives a fork): that belongs in ``start()``. The environment of the child lacks the
product's secrets.

The child cannot open the product's files. Once ``start()`` is done, it has no network,
cannot reach the services and other processes of this machine, and reads nothing but
its code and the system's libraries. It writes in a temporary folder of its own
(``tempfile``). A processor that needs more names it in attributes: :class:`Needs`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

VERSION: Final = 1
"""The version of this interface. A processor may name the version it was written for in
an attribute ``interface``; the worker refuses to load one that names another.
"""

EXTENSION: Final = re.compile(r"[a-z0-9]{1,8}", re.ASCII)
"""The form of :attr:`Output.extension`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a processor needs while it runs: its attributes of these names."""

    needs_network: bool = False
    """It reaches the internet."""
    needs_gpu: bool = False
    """It opens the devices of GPUs."""
    reads: tuple[str, ...] = ()
    """Files and folders that it reads, such as weights; none lies in the data folder.

    Files in a folder above the data folder must be named by the class, not only by the
    instance; folders there need not.
    """


Options: TypeAlias = Mapping[str, str | int | float | bool | None]
"""The keyword arguments of a processor's constructor."""


@dataclass(frozen=True, slots=True)
class Job:
    """One session's work.

    The images are upright and without metadata; a side has 64 to 8192 pixels unless
    configured otherwise.
    """

    session_id: str
    attempt: int
    """The attempt at this session, counted from 1.

    Another attempt is another job. It may run while the last one has not yet noticed
    that it was cancelled.
    """
    image: bytes = field(repr=False)
    image_type: str
    """``image/jpeg``, ``image/png`` or ``image/webp``."""
    garment: bytes | None = field(default=None, repr=False)
    garment_type: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    """The client's own JSON object of at most 4 KiB. Nothing has checked it."""
    number: int = 1
    """The number of this job among all jobs of its worker, counted from 1."""


@dataclass(frozen=True, slots=True)
class Output:
    """The result: an image file, at most 64 MiB."""

    data: bytes = field(repr=False)
    extension: str
    """The file's extension without a dot: ``jpg``, ``png`` or ``webp``."""


def needs_of(processor: object) -> Needs:
    """Return what the processor's attributes say.

    Raises TypeError: one is malformed.
    """
    # getattr: a wrapper delegates attributes
    flags = {name: getattr(processor, name, False) for name in ("needs_network", "needs_gpu")}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}, not True or False")
    reads = getattr(processor, "reads", ())
    if not isinstance(reads, tuple | list) or not all(isinstance(each, str | Path) for each in reads):
        raise TypeError(f"reads is {reads!r}, not a tuple of paths")
    return Needs(**flags, reads=tuple(os.path.abspath(os.path.expanduser(each)) for each in reads))


class Report(Protocol):
    """Publishes progress to the session's clients.

    Cheap and never raises. The newest report is sent, at most 5 times a second.
    """

    async def __call__(self, progress: float | None, stage: str | None, eta_seconds: float | None = None) -> None:
        """Publish how far the job is.

        ``progress`` is from 0 to 1, or None if unknown; ``stage`` says in a few words
        what happens now; ``eta_seconds`` is the time to the expected end.
        """


class Processor(Protocol):
    """A model, or anything else that makes a picture from a photo.

    One ``run`` at a time, on an event loop of its own. A processor that blocks the loop
    cannot be cancelled, and is killed instead.
    """

    @property
    def name(self) -> str:
        """The processor's name, as sessions and logs show it."""

    async def run(self, job: Job, report: Report) -> Output:
        """Make the picture.

        Cancelled when the result is no longer wanted (cancel, deadline, shutdown):
        clean up and let the cancellation through within 0.3 s. A thread that still
        works then ends with its process, which is replaced.

        Raises :class:`ProcessorError` for a failure that has a name; any other
        exception fails the session as ``processor_error``.
        """


@runtime_checkable
class Starts(Protocol):
    """A processor with something to load before its first job: weights, a GPU."""

    async def start(self) -> None:
        """Load it. An exception stops the worker; it costs no session an attempt."""


@runtime_checkable
class Closes(Protocol):
    """A processor with something to release."""

    async def close(self) -> None:
        """Release it, within 0.3 s.

        Not called when the process crashes or is killed.
        """


class ProcessorError(Exception):
    """A failure with a name.

    ``message`` is shown to the person; None stands for the text of the code in
    ``tryon.protocol.errors.FAILURES``. ``retryable`` tells the person whether trying
    again may help. With ``requeue`` the product itself tries again: after
    ``TRYON_MAX_ATTEMPTS`` attempts the session fails as ``worker_lost``.
    """

    def __init__(
        self, code: str, message: str | None = None, *, retryable: bool | None = None, requeue: bool = False
    ) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.requeue = requeue
