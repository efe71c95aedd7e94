"""Records of sessions that went well, made up: what the checker must find nothing in,
until somebody spoils them.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

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
from tryon.protocol.states import TRANSITIONS, Event, Status

START = 1_800_000_000.0
LIFE_SECONDS = 100.0

_numbers = itertools.count(1)


def stamp(t: float) -> str:
    return datetime.fromtimestamp(t, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Story:
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

    def happens(self, event: Event) -> Story:
        before = Status(self.truth[-1].status) if self.truth else None
        after = TRANSITIONS[before, event]
        self.truth.append(Transition(len(self.truth) + 1, event.value, before, after.value, stamp(self.now())))
        return self

    def shown(self, client: str = "a", over: str = "ws") -> Story:
        """The client connects, or asks again, and gets a snapshot."""
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

    def pushed(self, client: str = "a") -> Story:
        """Everything that happened since is pushed to the client, one by one."""
        name = f"{self.session}.{client}"
        for event in self.truth[self._cursors[name] :]:
            self.records.append(Heard(t=self.now(), client=name, session=self.session, event=event))
            self._cursors[name] = event.seq
        return self

    def progress(self, client: str = "a") -> Story:
        name = f"{self.session}.{client}"
        self.records.append(Progressed(t=self.now(), client=name, session=self.session, seq=self._cursors[name]))
        return self

    def closed(self, client: str = "a", code: int = 1006, reason: str = "") -> Story:
        self.records.append(
            Closed(t=self.now(), client=f"{self.session}.{client}", session=self.session, code=code, reason=reason)
        )
        return self

    def deleted(self, *, told: bool = True) -> Story:
        self.records.append(Did(t=self.now(), owner=self.owner, session=self.session, call="delete"))
        if told:
            for name in self.clients:
                self.closed(name.partition(".")[2], 4510, "deleted")
        self.records.append(Did(t=self.now(), owner=self.owner, session=self.session, call="delete", status=200))
        return self

    def told(self) -> list[Any]:
        """With the audit trail and what else is known at the end; without what is
        erased by then.
        """
        erased = any(isinstance(record, Did) and record.call == "delete" for record in self.records)
        rest: list[Any] = [Audit(t=self.now(), session=self.session, events=self.truth)] if not erased else []
        return [*self.records, *rest, Quiet(t=self.now())]


def completed() -> Story:
    """One client over a socket sees it all."""
    story = Story().shown()
    story.happens(Event.PROCESSING).pushed().progress()
    return story.happens(Event.COMPLETED).pushed().closed(code=1000, reason="completed")


def eventful() -> Story:
    """Lost connections, a worker that died, a second screen that polls, a stranger,
    refusals, a result.
    """
    story = Story().shown("a").shown("b", "poll")
    story.records.append(Refused(t=story.now(), owner=story.owner, call="upload", status=503))
    story.happens(Event.PROCESSING).pushed("a").progress("a").closed("a")
    story.happens(Event.REQUEUED).happens(Event.PROCESSING)
    story.shown("a", "sse").shown("b", "poll")
    story.records.append(Stranger(t=story.now(), owner="x", session=story.session, call="get", answer=404))
    story.records.append(Stranger(t=story.now(), owner="x", session=story.session, call="ws", answer=4504))
    story.records.append(Stranger(t=story.now(), owner="x", session=story.session, call="ws", answer=1006))
    story.happens(Event.COMPLETED).pushed("a").closed("a", 1000, "completed").shown("b", "poll")
    for role, size in (("input", (160, 167)), ("output", (613, 640))):
        result = Result(
            t=story.now(), session=story.session, status=200, role=role, bytes=1000, size=size, own=(160, 167)
        )
        story.records.append(result)
    story.records.append(Listed(t=story.now(), owner=story.owner, sessions=[story.session]))
    return story


def cancelled() -> Story:
    story = Story().shown()
    story.records.append(Did(t=story.now(), owner=story.owner, session=story.session, call="cancel"))
    return story.happens(Event.CANCELLED).pushed().closed(code=1000, reason="cancelled")


def deleted() -> Story:
    story = Story().shown("a").shown("b", "long-poll")
    story.happens(Event.PROCESSING).pushed("a").shown("b", "long-poll")
    return story.deleted()


def deleted_later() -> Story:
    story = completed().deleted(told=False)
    return story


def expired() -> Story:
    """It had ended; one client came again too late."""
    story = completed()
    story.now(LIFE_SECONDS)
    story.records.append(
        Asked(
            t=story.now(), client=f"{story.session}.a", owner=story.owner, session=story.session, over="poll", since=3
        )
    )
    return story.closed("a", 404, "not_found")


GOOD = [completed, eventful, cancelled, deleted, deleted_later, expired]
