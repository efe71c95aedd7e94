"""The records of a run: one JSON line for every request, frame and answer.

They are in the order of time. ``t`` is the observer's clock, in Unix seconds; ``at``
the server's, as it wrote it. ``client`` names one screen: it follows one session and
has one cursor, over any number of connections. The checker knows nothing but these
lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import BinaryIO, Final

import msgspec


class Transition(msgspec.Struct, frozen=True, array_like=True):
    """One event of a session, from an event frame, ``missed`` or the audit trail."""

    seq: int
    event: str
    before: str | None
    status: str
    at: str

    @property
    def unix(self) -> float:
        return datetime.fromisoformat(self.at).timestamp()


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    t: float


class Accepted(Record, frozen=True, kw_only=True, tag="accepted"):
    """A 201: from now on the session may not get lost.

    ``key``: names the upload or retry that it answers, repeats included.
    """

    owner: str
    key: str
    session: str
    expires_at: str
    retry_of: str | None = None


class Refused(Record, frozen=True, kw_only=True, tag="refused"):
    """Any other answer to a call. ``status`` 0: there was none."""

    owner: str
    call: str
    status: int
    code: str = ""
    session: str | None = None


class GaveUp(Record, frozen=True, kw_only=True, tag="gave_up"):
    """A call that was refused or unanswered until this person gave up."""

    owner: str
    call: str


class Asked(Record, frozen=True, kw_only=True, tag="asked"):
    """A client's request for a session, from its cursor on.

    It connects, polls, or (``sync``) asks over an open socket.
    """

    client: str
    owner: str
    session: str
    over: str
    since: int


class Snapshot(Record, frozen=True, kw_only=True, tag="snapshot"):
    """The answer to the last ``asked``: the session, and events after that cursor."""

    client: str
    session: str
    seq: int
    status: str
    missed: list[Transition]
    pictures: list[str] = []
    """Paths of its links to files, without signatures."""


class Heard(Record, frozen=True, kw_only=True, tag="event"):
    """A pushed transition."""

    client: str
    session: str
    event: Transition
    pictures: list[str] = []


class Progressed(Record, frozen=True, kw_only=True, tag="progress"):
    """Pushed progress of the transition ``seq``."""

    client: str
    session: str
    seq: int


class Closed(Record, frozen=True, kw_only=True, tag="closed"):
    """The end of a connection.

    ``code``: of the close, or 204, 401, 404, 503 of HTTP; 1006 without either.
    ``reason``: that of ``bye``.
    """

    client: str
    session: str
    code: int
    reason: str = ""


class Did(Record, frozen=True, kw_only=True, tag="did"):
    """An owner's call about a session: cancel, retry or delete.

    Once it is sent it may have happened; ``status`` 0: sent, and not answered yet.
    """

    owner: str
    session: str
    call: str
    status: int = 0


class Stranger(Record, frozen=True, kw_only=True, tag="stranger"):
    """A stranger's attempt to see or change a session.

    ``answer``: HTTP status or close code; ``saw``: any of its content.
    """

    owner: str
    session: str
    call: str
    answer: int
    saw: bool = False


class Result(Record, frozen=True, kw_only=True, tag="result"):
    """An answer to a request for a session's picture, by its fresh link.

    ``role``: ``input`` or ``output``; ``size``: its width and height, if it is a
    picture; ``own``: those of its owner's photo, where photos differ.
    """

    session: str
    status: int
    role: str = "output"
    bytes: int = 0
    size: tuple[int, int] | None = None
    own: tuple[int, int] | None = None


class Audit(Record, frozen=True, kw_only=True, tag="audit"):
    """The audit trail of a session, or a part of it; later records add to it."""

    session: str
    events: list[Transition]


class Listed(Record, frozen=True, kw_only=True, tag="listed"):
    """All sessions of an owner, after the last of its uploads was answered."""

    owner: str
    sessions: list[str]


class Remains(Record, frozen=True, kw_only=True, tag="remains"):
    """A remnant that should have been erased: a file, row, key or link."""

    what: str
    name: str


class Fault(Record, frozen=True, kw_only=True, tag="fault"):
    """A fault that was brought about at this time."""

    name: str
    detail: str = ""


class Clock(Record, frozen=True, kw_only=True, tag="clock"):
    """A comparison of clocks.

    The server's is ahead of the observer's by ``offset`` seconds, give or take half of
    ``round_trip``.
    """

    offset: float
    round_trip: float


class Trouble(Record, frozen=True, kw_only=True, tag="trouble"):
    """A sign that the system does not work: an unreadable answer, a logged stack trace.

    ``who``: the person, screen or process that has it.
    """

    who: str
    what: str


class Quiet(Record, frozen=True, kw_only=True, tag="quiet"):
    """The end: no client follows any more, every deadline has passed."""


AnyRecord = (
    Accepted
    | Refused
    | GaveUp
    | Asked
    | Snapshot
    | Heard
    | Progressed
    | Closed
    | Did
    | Stranger
    | Result
    | Audit
    | Listed
    | Remains
    | Fault
    | Clock
    | Trouble
    | Quiet
)

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(AnyRecord)


def read(lines: Iterable[bytes]) -> Iterator[AnyRecord]:
    """Yield the records of a file.

    Raises ValueError with the number of a line that is no record.
    """
    for number, line in enumerate(lines, 1):
        try:
            yield _decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number}: {error}") from None


class Recorder:
    """The records of a run; ``file`` gets each as a line."""

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.records: list[AnyRecord] = []
        self._file = file

    def __call__(self, record: AnyRecord) -> None:
        self.records.append(record)
        if self._file is not None:
            self._file.write(_encoder.encode(record) + b"\n")
