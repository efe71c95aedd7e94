"""The messages between a worker, its fork server and its children.

JSON behind its length, over socket pairs. Each process trusts its parent. A child runs
foreign code: bytes from it that are no message of the expected kind end it.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from tryon.processor import Info

MAX_BYTES: Final = 2**20
"""Size of one message, at most. Pictures travel as files; of a trace or a log line the
end is kept.
"""

MAX_FILES: Final = 250
"""Descriptors that come with one message, at most; the kernel takes 253."""

_LENGTH_BYTES: Final = 4
_READ_BYTES: Final = 65536


# -- from the worker to the fork server ------------------------------------------------


class Setup(msgspec.Struct, tag=True):
    """The first message: how to find the processor, and what its children may use."""

    path: list[str]
    """The worker's ``sys.path``, so that the fork server finds the same modules."""
    processor: str
    options: dict[str, Any]
    """Keyword arguments of the processor's constructor."""
    log_level: str
    cpu_seconds: float | None
    niceness: int
    hidden: list[str]
    """The product's own files, which no child may open."""
    withheld: list[str]
    """Environment variables with secrets of the worker's other processors."""
    temporary: str
    """How the names of the children's temporary folders begin, with their place."""


class Fork(msgspec.Struct, tag=True):
    """Fork a child. Comes with a descriptor: the child's end of its connection."""


# -- from the fork server to the worker ------------------------------------------------


class Loaded(msgspec.Struct, tag=True):
    """The processor's code is loaded: from here on a fork takes milliseconds."""


class Forked(msgspec.Struct, tag=True):
    """A child was forked: the answer to the oldest unanswered :class:`Fork`."""

    pid: int


class NotForked(msgspec.Struct, tag=True):
    """The fork failed: the other answer to the oldest unanswered :class:`Fork`."""

    reason: str


class Ended(msgspec.Struct, tag=True):
    """A child has ended.

    ``status`` is an exit status, or minus the number of a signal.
    """

    pid: int
    status: int


class Refused(msgspec.Struct, tag=True):
    """The processor cannot be loaded, or (from a child) cannot be made.

    ``reason``: a ConfigError's one line.
    """

    reason: str


# -- from the worker to a child --------------------------------------------------------


class File(msgspec.Struct, frozen=True):
    """An input of a job; its content comes as a descriptor."""

    role: str
    index: int
    type: str
    bytes: int
    sha256: str
    width: int
    height: int


class Run(msgspec.Struct, tag=True, kw_only=True):
    """Run a job. Comes with a descriptor for each input."""

    number: int
    session_id: str
    attempt: int
    attempts_left: int
    inputs: list[File]
    params: str
    """JSON in JSON: as the client sent it, whatever size its numbers have."""
    seed: int
    deadline_at: float | None
    """Unix seconds; None: no deadline."""
    trace: str | None
    checkpoint: str | None
    """JSON in JSON: of an earlier attempt, to resume from; None: start anew."""


class CleanUp(msgspec.Struct, tag=True, kw_only=True):
    """Cancel work upstream, or forget it: its session has ended or was erased."""

    number: int
    method: Literal["cancel", "forget"]
    key: str
    checkpoint: str
    """JSON in JSON."""


class Committed(msgspec.Struct, tag=True):
    """The run's oldest unanswered :class:`Checkpoint` is stored, or never will be."""

    number: int
    lost: bool = False
    """The attempt does not count any more."""


class Cancel(msgspec.Struct, tag=True):
    """Cancel the run: its result is no longer wanted."""

    number: int


class End(msgspec.Struct, tag=True):
    """Close the processor and end."""


# -- from a child to the worker --------------------------------------------------------


class Warming(msgspec.Struct, tag=True):
    """The processor is made, and its ``start()`` runs."""


class StartFailed(msgspec.Struct, tag=True):
    """The processor's ``start()`` has failed."""

    trace: str


class Ready(msgspec.Struct, tag=True):
    """The processor can run a job."""

    info: Info
    missing: list[str] = []
    """Layers of the sandbox that this machine lacks."""
    resumes: bool = True
    """Whether it can go on from a checkpoint."""
    forgets: bool = True
    """Whether it can delete what its upstream keeps."""


class Report(msgspec.Struct, tag=True, kw_only=True):
    """Progress of a run."""

    number: int
    progress: float | None = None
    stage: str | None = None
    eta_seconds: float | None = None
    step: int | None = None
    steps: int | None = None
    upstream_position: int | None = None


class Preview(msgspec.Struct, tag=True):
    """An intermediate picture of a run. Comes with a descriptor."""

    number: int
    media_type: str


class Usage(msgspec.Struct, tag=True, kw_only=True):
    """What a run has used so far."""

    number: int
    credits: float | None = None
    cost_usd: float | None = None
    gpu_seconds: float | None = None


class Checkpoint(msgspec.Struct, tag=True):
    """What another attempt needs to resume; the run waits for :class:`Committed`."""

    number: int
    checkpoint: str
    """JSON in JSON."""


class Log(msgspec.Struct, tag=True):
    """A line for the worker's log, which knows the request."""

    level: int
    logger: str
    text: str
    trace: str | None
    number: int | None = None
    """The run that wrote it; None: none did."""


class Answer(msgspec.Struct, kw_only=True):
    """The end of a run."""

    number: int
    left_over: bool
    """Threads of the run are still at work; they end with their process."""


class Made(msgspec.Struct, frozen=True):
    """An output of a run."""

    role: str
    type: str


class Done(Answer, tag=True):
    """The run returned its outputs. Comes with a descriptor for each."""

    outputs: list[Made]


class Failed(Answer, tag=True):
    """The run raised a ``ProcessorError``."""

    code: str
    message: str | None
    retryable: bool | None
    requeue: bool
    retry_after: float | None = None


class Raised(Answer, tag=True):
    """The run raised any other exception."""

    trace: str


class Cancelled(Answer, tag=True):
    """The run ended by its cancellation."""


FromWorker: TypeAlias = Run | CleanUp | Committed | Cancel | End
FromServer: TypeAlias = Loaded | Forked | NotForked | Ended | Refused
OfRun: TypeAlias = Report | Preview | Usage | Checkpoint | Done | Failed | Raised | Cancelled
"""The messages that name their run."""
FromChild: TypeAlias = Refused | Warming | StartFailed | Ready | Log | OfRun


class BadMessage(Exception):
    """Bytes that are no message of the expected kind."""


class LostFiles(Exception):
    """Descriptors that were sent, and for which this process has no room."""


def send(to: socket.socket, message: msgspec.Struct, files: Sequence[int] = ()) -> None:
    """Send all of a message, with descriptors; raise OSError if that fails."""
    data = msgspec.json.encode(message)
    data = len(data).to_bytes(_LENGTH_BYTES) + data
    sent = socket.send_fds(to, [data], files) if files else to.send(data)
    if sent < len(data):
        if not to.getblocking():
            raise BlockingIOError("it does not read")
        to.sendall(data[sent:])


def receive(connection: socket.socket, inbox: Inbox, files: list[int] | None = None) -> list[Any] | None:
    """Return the messages that have arrived whole; None without new bytes.

    Descriptors that came with them are added to ``files``; without a list none is
    accepted. Raises ConnectionError when the other end is closed,
    :class:`BadMessage`, and :class:`LostFiles`.
    """
    try:
        if files is None:
            data = connection.recv(_READ_BYTES)
        else:
            flags = socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            data, received, got, _ = socket.recv_fds(connection, _READ_BYTES, MAX_FILES, flags)
            files += received
            if got & socket.MSG_CTRUNC and len(received) < MAX_FILES:
                raise LostFiles("no descriptor is left")
    except BlockingIOError:
        return None
    except OSError as error:
        raise ConnectionResetError from error
    if not data:
        raise ConnectionResetError
    return inbox.take(data)


class Inbox:
    """Cuts a stream into messages of ``types``."""

    def __init__(self, types: Any) -> None:
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(types)
        self._bytes = bytearray()

    def __repr__(self) -> str:
        return f"<Inbox {len(self._bytes)} bytes>"

    def take(self, data: bytes) -> list[Any]:
        """Return the messages that ``data`` completes. Raises :class:`BadMessage`."""
        self._bytes += data
        messages = []
        while len(self._bytes) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._bytes[:_LENGTH_BYTES])
            if end > MAX_BYTES:
                raise BadMessage(f"a message of {end} bytes")
            if len(self._bytes) < end:
                break
            try:
                messages.append(self._decoder.decode(self._bytes[_LENGTH_BYTES:end]))
            except (msgspec.MsgspecError, ValueError) as error:
                raise BadMessage(str(error)) from None
            del self._bytes[:end]
        return messages
