"""The operator's page as data: its paths, and the values that it sends.

The web process makes them, the page and ``tryon top`` read them. None names a client, a
photo or a link: docs/ops.md says what is left out, and why.
"""

from __future__ import annotations

from typing import Final

import msgspec

PAGE: Final = "/ops"
LOGIN: Final = f"{PAGE}/login"
LOGOUT: Final = f"{PAGE}/logout"
EVENTS: Final = f"{PAGE}/events"
API: Final = f"{PAGE}/api"
OVERVIEW: Final = f"{API}/overview"
SESSION: Final = f"{API}/sessions/{{session_id}}"
REDRIVE: Final = f"{SESSION}/redrive"
CANCEL: Final = f"{SESSION}/cancel"
ERASE: Final = f"{SESSION}/erase"
OPENAPI: Final = f"{API}/openapi.json"

MAX_SESSIONS: Final = 200
"""Maximum sessions that the page lists; a search by id finds any other."""

MAX_STEPS: Final = 24
"""Maximum transitions shown of one session; of more, the newest."""

MAX_ACTIONS: Final = 50
"""Maximum actions of operators that the page lists, the newest."""

LATELY_SECONDS: Final = 3600
"""Time that failures and durations are counted over."""

ACTION_DAYS: Final = 30
"""Days after which the cleanup deletes an action."""

REASON: Final = "operator"
"""Reason of a requeue that an operator asked for."""


class Step(msgspec.Struct, frozen=True):
    """One transition of a session. ``reason``: that of a requeue."""

    seq: int
    event: str
    status: str
    at: str
    attempt: int
    reason: str | None = None


class SessionRow(msgspec.Struct, frozen=True):
    """A session as operators see it: neither its owner nor its pictures nor its params.

    ``worker`` and ``lease_expires_at`` are those of the claim, null unless it runs.
    """

    session_id: str
    status: str
    seq: int
    attempt: int
    burnt: int
    processor: str
    created_at: str
    finished_at: str | None
    deadline_at: str
    cancel_requested: bool
    worker: str | None
    lease_expires_at: str | None
    error_code: str | None
    request_id: str | None
    retry_of: str | None
    steps: list[Step]


class Place(msgspec.Struct, frozen=True):
    """The state of a living session that moves without a transition.

    ``position``: in the queue, from 1; ``progress`` and ``stage``: of a running one.
    """

    position: int | None = None
    progress: float | None = None
    stage: str | None = None


class QueueState(msgspec.Struct, frozen=True):
    """The queue. ``jobs``: those in Redis, null while it is unavailable.

    ``waiting`` and ``oldest_at`` come from the database, which decides.
    """

    waiting: int
    running: int
    oldest_at: str | None
    jobs: int | None
    limit: int
    by_processor: dict[str, int]


class WorkerState(msgspec.Struct, frozen=True):
    """A worker. ``seen_seconds``: since its last heartbeat in Redis, null without one.

    ``jobs``: the claims that it holds; ``lease_expires_at``: the first of them to end.
    """

    worker: str
    seen_seconds: float | None
    jobs: int
    lease_expires_at: str | None
    processor: str | None
    version: str | None


class ChoreLease(msgspec.Struct, frozen=True):
    """The lease of a chore that one process at a time does."""

    name: str
    owner: str
    expires_at: str


class WebState(msgspec.Struct, frozen=True):
    """A web process, and its followers by transport."""

    process: str
    version: str
    sockets: dict[str, int]
    operators: int
    seen_seconds: float


class FailureCount(msgspec.Struct, frozen=True):
    """The number of sessions that failed lately with this code."""

    code: str
    count: int


class ProcessorState(msgspec.Struct, frozen=True):
    """The sessions of one processor that ended lately, and how long they took.

    Seconds: of waiting until the last claim, and of the run after it. Null without one.
    """

    processor: str
    completed: int
    failed: int
    wait_p50: float | None
    wait_p95: float | None
    run_p50: float | None
    run_p95: float | None


class State(msgspec.Struct, frozen=True):
    """Everything but the sessions; sent once a second.

    ``places``: by session id. ``troubles``: sentences about what could not be read.
    ``sampled``: failures and durations are those of the newest sessions alone.
    """

    now: str
    queue: QueueState
    workers: list[WorkerState]
    chores: list[ChoreLease]
    webs: list[WebState]
    failures: list[FailureCount]
    processors: list[ProcessorState]
    places: dict[str, Place]
    troubles: list[str]
    sampled: bool


class Action(msgspec.Struct, frozen=True):
    """One act of an operator. ``session_id`` is null once the session is not listed.

    ``operator``: the first characters of the hash of the token. ``session``: those of
    a hash of the session's id. ``outcome``: ``asked`` until it is known.
    """

    id: int
    at: str
    operator: str
    action: str
    session: str
    session_id: str | None
    outcome: str
    request_id: str | None


class Overview(msgspec.Struct, frozen=True, tag_field="type", tag="overview"):
    """The whole page; the first frame of the stream."""

    operator: str
    version: str
    state: State
    sessions: list[SessionRow]
    actions: list[Action]


class StateFrame(msgspec.Struct, frozen=True, tag_field="type", tag="state"):
    """The state, once a second."""

    state: State


class SessionsFrame(msgspec.Struct, frozen=True, tag_field="type", tag="sessions"):
    """Sessions that are new or have changed, and the ids that are not listed now."""

    changed: list[SessionRow]
    gone: list[str]


class ActionsFrame(msgspec.Struct, frozen=True, tag_field="type", tag="actions"):
    """Actions that are new or whose outcome is known now, the newest first."""

    actions: list[Action]


class ByeFrame(msgspec.Struct, frozen=True, tag_field="type", tag="bye"):
    """The end of the stream: ``draining``, ``too_slow`` or ``signed_out``."""

    reason: str


Frame = Overview | StateFrame | SessionsFrame | ActionsFrame | ByeFrame


class Done(msgspec.Struct, frozen=True):
    """The answer to an action. ``session``: null once it is erased.

    ``new_session_id``: the session that a retry made.
    """

    action: str
    outcome: str
    session_id: str
    session: SessionRow | None
    new_session_id: str | None = None
