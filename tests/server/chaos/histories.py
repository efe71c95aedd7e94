"""Records of sessions that went well, made up: the checker must find nothing in them.

Tests spoil them in one place each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from server.chaos.checker import check
from server.chaos.records import (
    Accepted,
    Asked,
    Audit,
    Closed,
    Did,
    Heard,
    Listed,
    Progressed,
    Quiet,
    Refused,
    Result,
    Snapshot,
    Stranger,
    Transition,
)
from server.chaos.verdict import Kind
from tryon.protocol.states import TRANSITIONS, Event, Status

START = 1_800_000_000.0
LIFE_SECONDS = 100.0

_numbers = itertools.count(1)


def stamp(t: float) -> str:
    return datetime.fromtimestamp(t, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class SessionHistory:
    """One session: what really happened to it, and what its clients saw.

    Time passes with every call.
    """

    def __init__(self, *, owner: str = "", retry_of: str | None = None) -> None:
        number = next(_numbers)
        self.session = f"s{number}"
        self.owner = owner or f"o{number}"
        self.t = START
        self.truth: list[Transition] = []
        self.records: list[Any] = []
        self._cursors: dict[str, int] = {}
        self.happens(Event.CREATED)
        self.records.append(
            Accepted(
                t=self.now(),
                owner=self.owner,
                key=f"k{number}",
                session=self.session,
                expires_at=stamp(START + LIFE_SECONDS),
                retry_of=retry_of,
            )
        )

    def now(self, seconds: float = 0.01) -> float:
        self.t += seconds
        return self.t

    @property
    def status(self) -> str:
        return self.truth[-1].status

    @property
    def clients(self) -> list[str]:
        return list(self._cursors)

    def happens(self, event: Event) -> SessionHistory:
        before = Status(self.truth[-1].status) if self.truth else None
        after = TRANSITIONS[before, event]
        self.truth.append(Transition(len(self.truth) + 1, event.value, before, after.value, stamp(self.now())))
        return self

    def shown(self, client: str = "a", over: str = "ws") -> SessionHistory:
        """Show the client a snapshot, as if it connected or asked again."""
        name = f"{self.session}.{client}"
        since = self._cursors.setdefault(name, 0)
        self.records.append(
            Asked(t=self.now(), client=name, owner=self.owner, session=self.session, over=over, since=since)
        )
        seq = len(self.truth)
        self.records.append(
            Snapshot(
                t=self.now(),
                client=name,
                session=self.session,
                seq=seq,
                status=self.status,
                missed=self.truth[since:],
            )
        )
        self._cursors[name] = seq
        return self

    def pushed(self, client: str = "a") -> SessionHistory:
        """Push everything that happened since to the client, one by one."""
        name = f"{self.session}.{client}"
        for event in self.truth[self._cursors[name] :]:
            self.records.append(Heard(t=self.now(), client=name, session=self.session, event=event))
            self._cursors[name] = event.seq
        return self

    def progress(self, client: str = "a") -> SessionHistory:
        name = f"{self.session}.{client}"
        self.records.append(Progressed(t=self.now(), client=name, session=self.session, seq=self._cursors[name]))
        return self

    def closed(self, client: str = "a", code: int = 1006, reason: str = "") -> SessionHistory:
        self.records.append(
            Closed(t=self.now(), client=f"{self.session}.{client}", session=self.session, code=code, reason=reason)
        )
        return self

    def deleted(self, *, told: bool = True) -> SessionHistory:
        self.records.append(Did(t=self.now(), owner=self.owner, session=self.session, call="delete"))
        if told:
            for name in self.clients:
                self.closed(name.partition(".")[2], 4510, "deleted")
        self.records.append(Did(t=self.now(), owner=self.owner, session=self.session, call="delete", status=200))
        return self

    def told(self) -> list[Any]:
        """Return the records with the audit trail, and what else is known at the end.

        Nothing is left of an erased session.
        """
        erased = any(isinstance(record, Did) and record.call == "delete" for record in self.records)
        rest: list[Any] = [Audit(t=self.now(), session=self.session, events=self.truth)] if not erased else []
        return [*self.records, *rest, Quiet(t=self.now())]


def completed() -> SessionHistory:
    """Return a session that one client saw whole over a socket."""
    history = SessionHistory().shown()
    history.happens(Event.PROCESSING).pushed().progress()
    return history.happens(Event.COMPLETED).pushed().closed(code=1000, reason="completed")


def eventful() -> SessionHistory:
    """Return a session with lost connections and a worker that died.

    A second screen polls; there are a stranger, refusals and a result.
    """
    history = SessionHistory().shown("a").shown("b", "poll")
    history.records.append(Refused(t=history.now(), owner=history.owner, call="upload", status=503))
    history.happens(Event.PROCESSING).pushed("a").progress("a").closed("a")
    history.happens(Event.REQUEUED).happens(Event.PROCESSING)
    history.shown("a", "sse").shown("b", "poll")
    history.records.append(Stranger(t=history.now(), owner="x", session=history.session, call="get", answer=404))
    history.records.append(Stranger(t=history.now(), owner="x", session=history.session, call="ws", answer=4504))
    history.records.append(Stranger(t=history.now(), owner="x", session=history.session, call="ws", answer=1006))
    history.happens(Event.COMPLETED).pushed("a").closed("a", 1000, "completed").shown("b", "poll")
    for role, size in (("input", (160, 167)), ("output", (613, 640))):
        result = Result(
            t=history.now(), session=history.session, status=200, role=role, bytes=1000, size=size, own=(160, 167)
        )
        history.records.append(result)
    history.records.append(Listed(t=history.now(), owner=history.owner, sessions=[history.session]))
    return history


def cancelled() -> SessionHistory:
    history = SessionHistory().shown()
    history.records.append(Did(t=history.now(), owner=history.owner, session=history.session, call="cancel"))
    return history.happens(Event.CANCELLED).pushed().closed(code=1000, reason="cancelled")


def deleted() -> SessionHistory:
    history = SessionHistory().shown("a").shown("b", "long-poll")
    history.happens(Event.PROCESSING).pushed("a").shown("b", "long-poll")
    return history.deleted()


def deleted_later() -> SessionHistory:
    history = completed().deleted(told=False)
    return history


def expired() -> SessionHistory:
    """Return a session that expired after its end, before a client asked again."""
    history = completed()
    history.now(LIFE_SECONDS)
    history.records.append(
        Asked(
            t=history.now(),
            client=f"{history.session}.a",
            owner=history.owner,
            session=history.session,
            over="poll",
            since=3,
        )
    )
    return history.closed("a", 404, "not_found")


GOOD = [completed, eventful, cancelled, deleted, deleted_later, expired]


Records = list[Any]


def kinds(records: Records, **limits: float) -> set[Kind]:
    """Return the kinds of finding in these records."""
    return {finding.kind for finding in check(records, **limits).findings}


def replaced(records: Records, index: int, **fields: Any) -> Records:
    """Return the records with fields of one of them changed."""
    return [*records[:index], msgspec.structs.replace(records[index], **fields), *records[index + 1 :]]


def where(records: Records, kind: type[Any], true: Callable[[Any], bool] = lambda record: True) -> list[int]:
    """Return the positions of records of a kind."""
    return [index for index, record in enumerate(records) if isinstance(record, kind) and true(record)]


def of_event(record: Any, **fields: Any) -> Transition:
    """Return a record's transition with fields of it changed."""
    changed: Transition = msgspec.structs.replace(record.event, **fields)
    return changed
