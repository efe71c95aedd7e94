"""What a worker, its fork server and its children say to each other:

JSON behind its length, over socket pairs.

Everybody trusts their parent; of a child, where somebody else's code runs, nothing is
believed that is not one of these.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec

MAX_BYTES: Final = 2**20
"""Of one message. Photos travel as files; of a trace or a log line the end is kept."""

_LENGTH_BYTES: Final = 4


# From the worker to the fork server


class Setup(msgspec.Struct, tag=True):
    """The first word: how to find a processor, and what its children may."""

    path: list[str]
    """The worker's ``sys.path``: what it finds, the processor's process finds."""
    processor: str
    options: dict[str, str | int | float | bool | None]
    """Keyword arguments of the processor's constructor."""
    log_level: str
    cpu_seconds: float | None
    niceness: int


class Fork(msgspec.Struct, tag=True):
    """Comes with a socket, the child's."""


# From the fork server to the worker


class Loaded(msgspec.Struct, tag=True):
    """The processor's code is there: from here on a fork takes milliseconds."""


class Forked(msgspec.Struct, tag=True):
    """The answer to the first :class:`Fork` that has none yet."""

    pid: int


class NotForked(msgspec.Struct, tag=True):
    """The other answer."""

    reason: str


class Ended(msgspec.Struct, tag=True):
    """``status`` is an exit status, or minus the number of a signal."""

    pid: int
    status: int


class Refused(msgspec.Struct, tag=True):
    """Also from a child: the processor cannot be loaded or made.

    ``reason``: a ConfigError's one line.
    """

    reason: str


# From the worker to a child


class Run(msgspec.Struct, tag=True):
    """A job, with the image, the garment (if it has a type) and an empty file for the
    result.
    """

    number: int
    session_id: str
    attempt: int
    image_type: str
    garment_type: str | None
    params: str
    """JSON in JSON: as the person sent it, whatever size its numbers have."""


class Cancel(msgspec.Struct, tag=True):
    """Nobody wants the result any more."""


class End(msgspec.Struct, tag=True):
    """Close the processor and go."""


# From a child to the worker


class Warming(msgspec.Struct, tag=True):
    """The processor is made and has a ``start()`` to wait for."""


class Cold(msgspec.Struct, tag=True):
    """Its ``start()`` has failed."""

    trace: str


class Ready(msgspec.Struct, tag=True):
    """Give me work."""


class Report(msgspec.Struct, tag=True):
    progress: float | None
    stage: str | None
    eta_seconds: float | None


class Log(msgspec.Struct, tag=True):
    """A line for the worker's log, which knows the request."""

    level: int
    logger: str
    text: str
    trace: str | None


class Answer(msgspec.Struct, kw_only=True):
    """How a run ended."""

    number: int
    left_over: bool
    """Threads of it are still at work; they end with their process."""


class Done(Answer, tag=True):
    """The picture stands in the file."""

    extension: str


class Failed(Answer, tag=True):
    """By a ``ProcessorError``."""

    code: str
    message: str | None
    retryable: bool | None
    requeue: bool


class Raised(Answer, tag=True):
    """By any other exception."""

    trace: str


class Cancelled(Answer, tag=True):
    """As it was told."""


FromWorker: TypeAlias = Run | Cancel | End
FromServer: TypeAlias = Loaded | Forked | NotForked | Ended | Refused
FromChild: TypeAlias = Refused | Warming | Cold | Ready | Report | Log | Done | Failed | Raised | Cancelled


class Nonsense(Exception):
    """Not a message."""


def send(to: socket.socket, message: msgspec.Struct, files: Sequence[int] = ()) -> None:
    """All of it or an OSError."""
    data = msgspec.json.encode(message)
    data = len(data).to_bytes(_LENGTH_BYTES) + data
    sent = socket.send_fds(to, [data], files) if files else to.send(data)
    if sent < len(data):
        if not to.getblocking():
            raise BlockingIOError("it does not read")
        to.sendall(data[sent:])


class Inbox:
    """Cuts what a stream brings into messages of ``types``."""

    def __init__(self, types: Any) -> None:
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(types)
        self._bytes = bytearray()

    def __repr__(self) -> str:
        return f"<Inbox {len(self._bytes)} bytes>"

    def take(self, data: bytes) -> list[Any]:
        """The messages that are complete with it. Raises :class:`Nonsense`."""
        self._bytes += data
        messages = []
        while len(self._bytes) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._bytes[:_LENGTH_BYTES])
            if end > MAX_BYTES:
                raise Nonsense(f"a message of {end} bytes")
            if len(self._bytes) < end:
                break
            try:
                messages.append(self._decoder.decode(self._bytes[_LENGTH_BYTES:end]))
            except (msgspec.MsgspecError, ValueError) as error:
                raise Nonsense(str(error)) from None
            del self._bytes[:end]
        return messages
