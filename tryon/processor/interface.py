"""The interface between the worker and a model.

A processor is a class with an ``info`` and an ``async run(job, report)``. Its
constructor takes the processor's own options by keyword, each with a default; a class
attribute ``options_schema`` (JSON Schema) checks them at the start of the worker. The
setting ``TRYON_PROCESSOR`` names it: a built-in name, an entry point of the group
``tryon.processors``, or ``package.module:Class``.

It runs in a child process: a crash, a loop or a leak there ends the sessions of that
child and no others. Its module is imported once per worker, before the children are
forked from it; the constructor, :meth:`Starts.start` and :meth:`Closes.close` run once
per child. A child that has ended a session in good order runs the next one; a session
that waits for ``start()`` reports the stage ``warming``.

So the module must not start a thread or touch a GPU when it is imported (neither
survives a fork): that belongs in ``start()``. The environment of the child lacks the
product's secrets.

The child cannot open the product's files. Once ``start()`` is done, it has no network,
cannot reach the services and other processes of this machine, and reads nothing but
its code and the system's libraries. It writes in a temporary folder of its own
(``tempfile``). A processor that needs more names it in attributes: :class:`Needs`.

A processor whose work goes on elsewhere (an upstream) saves what it needs to find that
work again with :meth:`Report.checkpoint`, and offers any of three more methods:
:meth:`Resumes.resume` goes on with the work after its worker died,
:meth:`Cancels.cancel` stops it upstream, :meth:`Forgets.forget` deletes it there.
"""

from __future__ import annotations

import builtins
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

VERSION: Final = 2
"""The version of this interface. :attr:`Info.interface` names the one a processor was
written for; the worker refuses to load one that names another.
"""

ROLE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
"""The form of a role's name."""

IMAGE_TYPES: Final = ("image/jpeg", "image/png", "image/webp")
"""Types of the images that a processor is given, and may return."""

OUTPUT_TYPES: Final = (*IMAGE_TYPES, "video/mp4", "video/webm")
"""Types that a processor may return."""

Options: TypeAlias = Mapping[str, Any]
"""The keyword arguments of a processor's constructor."""

Checkpoint: TypeAlias = Mapping[str, Any]
"""What a processor needs to find its work again: a JSON object of at most 16 KiB."""


# -- what a processor says of itself ---------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A kind of input, and the part of the upload that carries it."""

    name: str
    """In the form of :data:`ROLE`; ``person`` and ``garment`` are the usual ones."""
    required: bool = False
    count: int = 1
    """Maximum number of inputs of this role; their indices count from 0."""
    formats: tuple[str, ...] = ()
    """Types that an upload may have; empty: every type that the server takes.

    Whatever was uploaded, a job holds one of :data:`IMAGE_TYPES`.
    """
    max_bytes: int | None = None
    """Maximum bytes of an upload; None: the server's limit."""
    max_pixels: int | None = None
    """Maximum width times height; None: the server's limit."""
    hint: str = ""
    """What a person should upload, in a few words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRole:
    """A kind of output."""

    name: str = "result"
    types: tuple[str, ...] = ("image/jpeg",)
    count: int = 1
    """Maximum number of outputs of this role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What a processor says of itself: uploads are judged by it, and people read it."""

    name: str
    """As sessions and logs show it: at most 64 characters."""
    version: str = "1"
    label: str = ""
    """The processor in a few words for people, such as "overlay, no generative AI"."""
    roles: tuple[Role, ...] = (Role(name="person", required=True), Role(name="garment"))
    """Its inputs; ``image`` in an upload stands for the first one."""
    outputs: tuple[OutputRole, ...] = (OutputRole(),)
    params_schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    """JSON Schema (2020-12) of a job's ``params``."""
    generated: bool = False
    """Whether results are made by generative AI: they are then marked as such."""
    privacy: str = "The photo stays on this server."
    """Where the photo goes, and how long it stays there."""
    typical_seconds: float | None = None
    concurrency: int = 1
    """Runs that one child may do at the same time: more than 1 for a processor that
    only waits for an upstream.
    """
    cancel: bool = False
    """Whether upstream work stops when a session is cancelled."""
    preview: bool = False
    """Whether runs show intermediate pictures."""
    interface: int = VERSION


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


# -- what a run is given, and what it returns ------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One image: upright, in sRGB, without metadata."""

    role: str
    index: int = 0
    type: str
    """One of :data:`IMAGE_TYPES`."""
    path: str
    """A file that can be opened for reading while the run lasts."""
    bytes: int
    sha256: str = ""
    """Of the file, 64 hex digits; empty: unknown."""
    width: int = 0
    """Pixels; 0: unknown."""
    height: int = 0

    def read(self) -> builtins.bytes:
        """Return the file's content. Blocks."""
        return Path(self.path).read_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Work that was begun upstream, after its session has ended or was erased."""

    key: str
    """The :attr:`Job.key` of the run that began it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attempt at a session."""

    session_id: str
    attempt: int = 1
    """The attempt at this session, counted from 1.

    Another attempt is another job. It may run while the last one has not yet noticed
    that it was cancelled.
    """
    attempts_left: int = 0
    """How many attempts may follow this one."""
    inputs: tuple[Input, ...]
    """By role in the order of :attr:`Info.roles`, then by index."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """The client's parameters, valid by :attr:`Info.params_schema`, defaults filled in.
    """
    seed: int = 0
    """A number from 0 to 2**31 - 1, the same at each attempt: a model that draws random
    numbers draws them from it.
    """
    deadline_at: float = float("inf")
    """Unix seconds on this machine's clock; then the session has failed."""
    trace: str | None = None
    """W3C ``traceparent`` for a call to an upstream."""
    number: int = 1
    """The number of this job among all jobs of its worker, counted from 1."""

    @property
    def key(self) -> str:
        """``{session}-{attempt}``: a name for the work upstream."""
        return f"{self.session_id}-{self.attempt}"

    def all(self, role: str) -> tuple[Input, ...]:
        """Return the inputs of this role, in the order of their index."""
        return tuple(each for each in self.inputs if each.role == role)

    def input(self, role: str) -> Input | None:
        """Return the first input of this role, or None."""
        return next(iter(self.all(role)), None)


@dataclass(frozen=True, slots=True)
class Output:
    """One file of the result, at most 64 MiB.

    It is decoded and freed of private metadata before a client sees it: a file that is
    no picture of its type fails the session.
    """

    data: bytes = field(repr=False)
    type: str = "image/jpeg"
    """One of :data:`OUTPUT_TYPES`."""
    role: str = "result"
    """Outputs of one role have the indices 0, 1, … in the order they are returned."""


Result: TypeAlias = Output | Sequence[Output]
"""What a run returns: one output or several, the most important one first."""


class Report(Protocol):
    """A run's words to the session's clients and to the worker.

    All but :meth:`checkpoint` are cheap and never raise.
    """

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
        """Publish how far the job is; the newest report is sent, at most 5 a second.

        ``progress`` is from 0 to 1, or None if unknown; ``stage`` says in a few words
        what happens now; ``eta_seconds`` is the time to the expected end. ``step`` of
        ``steps`` is the model's own count; ``upstream_position`` is the place in an
        upstream's queue, 1 is next.
        """

    async def preview(self, data: bytes, type: str = "image/jpeg") -> None:
        """Show an intermediate picture, at most 4 MiB, in place of the one before."""

    async def log(self, text: str) -> None:
        """Write a line to the worker's log; it must hold nothing personal."""

    async def usage(
        self, *, credits: float | None = None, cost_usd: float | None = None, gpu_seconds: float | None = None
    ) -> None:
        """Say what this attempt has used so far, in place of what it said before.

        The next :meth:`checkpoint` keeps it, also if the worker is lost after that.
        """

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Commit what :meth:`Resumes.resume` needs; it is stored when this returns.

        Call it after the upstream has accepted the work, or before with a key of its
        own choice. Raises :class:`AttemptLost`: the session is another worker's now, or
        has ended; TypeError, ValueError: no JSON object of at most 16 KiB.
        """


class AttemptLost(Exception):
    """Nothing that this attempt does counts any more; its run will be cancelled."""


# -- the processor ---------------------------------------------------------------------


class Processor(Protocol):
    """A model, or anything else that makes pictures from pictures.

    At most ``info.concurrency`` runs at a time, on an event loop of its own. A
    processor that blocks the loop cannot be cancelled, and is killed instead.
    """

    @property
    def info(self) -> Info:
        """What the processor is; read once, when :meth:`Starts.start` has returned."""

    async def run(self, job: Job, report: Report) -> Result:
        """Make the result.

        Cancelled when it is no longer wanted (cancel, deadline, shutdown): clean up and
        let the cancellation through within 0.3 s. A thread that still works then ends
        with its process, which is replaced.

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


@runtime_checkable
class Checks(Protocol):
    """A processor that knows whether it could run a job now."""

    async def health(self) -> None:
        """Return within 5 s if it could; else raise a :class:`ProcessorError`."""


@runtime_checkable
class Resumes(Protocol):
    """A processor that goes on with work that an earlier attempt has begun."""

    async def resume(self, job: Job, checkpoint: Checkpoint, report: Report) -> Result:
        """As :meth:`Processor.run`, from the last checkpoint of an earlier attempt.

        That attempt's worker has died or was stopped. Without this method the job is
        run anew.
        """


@runtime_checkable
class Cancels(Protocol):
    """A processor whose upstream work can be stopped."""

    async def cancel(self, job: Reference, checkpoint: Checkpoint) -> None:
        """Stop the work that the checkpoint names; return if there is none any more.

        Called for at most 30 s, after the run was stopped, and again later if it
        raises: in an idle child, which may run other sessions meanwhile, or in a new
        one.
        """


@runtime_checkable
class Forgets(Protocol):
    """A processor whose upstream keeps a photo or a result that can be deleted."""

    async def forget(self, job: Reference, checkpoint: Checkpoint) -> None:
        """Delete what the upstream keeps, stopping its work first if it still runs.

        Called as :meth:`Cancels.cancel`, when the session is erased. Without this
        method ``cancel`` is called, and the receipt of an erased session says that the
        upstream keeps what it was given: ``info.privacy`` should say for how long.
        """


class ProcessorError(Exception):
    """A failure with a name.

    ``message`` is shown to the person; None stands for the text of the code in
    ``tryon.protocol.errors.FAILURES``. ``retryable`` tells the person whether trying
    again may help. With ``requeue`` the product itself tries again, at most
    ``TRYON_MAX_ATTEMPTS`` times; then the session fails with the code of the last
    attempt. With ``retry_after`` (seconds) it tries again after that time, as often as
    the deadline allows, and no attempt is burnt: for an upstream that is busy.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        retryable: bool | None = None,
        requeue: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.requeue = requeue
        self.retry_after = retry_after
