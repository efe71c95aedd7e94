"""Values that describe a change of a session (begin, fail, requeue …) and its result.

They name no column. :mod:`server.adapters.database.transitions` turns them into columns
and into the event's data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, TypeAlias

from server.domain.allowance import Allowance
from server.domain.quotas import Quota
from server.domain.session import AuditEvent, Session
from server.domain.stored_files import StoredFile
from tryon.protocol.states import Event, Status
from tryon.protocol.views import Params

Usage: TypeAlias = Mapping[str, float]
"""Amounts by their names: ``credits``, ``cost_usd``, ``gpu_seconds``."""

SavedUsage: TypeAlias = Callable[[str, int], Usage | None]
"""Returns what an attempt had used when it saved its encrypted checkpoint, and None for
the checkpoint of another attempt; it raises nothing.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session that an upload or a retry asks for.

    ``deadline_seconds`` and ``retention_seconds`` count from now on the database's
    clock.
    """

    id: str
    owner: str
    processor: str
    params: Params
    seed: int
    files: tuple[StoredFile, ...]
    """Its photos."""
    request_id: str | None
    deadline_seconds: float
    retention_seconds: float
    seed_chosen: bool = False
    """Whether the client chose the seed: then its retries keep it."""
    address_hash: str | None = None
    """HMAC of the client's address; None: unknown."""
    allowance: Allowance | None = None
    """The most that its owner and its address may have; None: no limit."""
    trace: str | None = None
    """W3C ``traceparent`` of the request."""
    idempotency_key: str | None = None
    """Hash of the client's key; unique per owner."""
    idempotency_fingerprint: str | None = None
    retry_of: str | None = None
    """Id of the session that is retried; unique: each has one retry at most."""
    copy_of: str | None = None
    """Id of the session whose photos it has copied."""
    webhook: str | None = None
    """Address that is called when it ends; empty: that of the settings; None: none."""
    quota: Quota | None = None
    """Its owner's plan; None: no limit."""
    metered: bool = False
    """Whether its end is told to the integrator's accounts."""
    expires_at: datetime | None = None
    """Expiry in place of ``retention_seconds``: a retry lives no longer than the photo
    it shares.
    """


@dataclass(frozen=True, slots=True)
class Begin:
    """A claim by a worker: the attempt goes up, and the lease begins now."""

    event: ClassVar[Event] = Event.PROCESSING
    worker: str
    lease_seconds: float
    processors: Collection[str] | None = None
    """The worker's processors: a session that was judged by another one is not claimed;
    None: any.
    """


@dataclass(frozen=True, slots=True)
class Complete:
    """The end with results; their files are stored already."""

    event: ClassVar[Event] = Event.COMPLETED
    outputs: tuple[StoredFile, ...]
    """At least one, the most important one first."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The end with an error that is shown to the client."""

    event: ClassVar[Event] = Event.FAILED
    code: str
    message: str
    """At most 500 characters."""
    retryable: bool
    burnt: int | None = None
    """Number of burnt attempts, this one included; None leaves it as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeue:
    """The return to the queue, for another worker."""

    event: ClassVar[Event] = Event.REQUEUED
    reason: str
    burnt: int
    """Number of burnt attempts, this one included if it counts."""
    enqueues: int
    """Number of times the session was put into the queue, this time included."""
    processor: str | None = None
    """The processor of the next attempt; None: the same one."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The end that the client asked for."""

    event: ClassVar[Event] = Event.CANCELLED


Outcome = Begin | Complete | Fail | Requeue | Cancel
"""The ways in which a session may move on; one for each event but ``created``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One transition to try: its outcome, and the conditions under which it counts."""

    session_id: str
    outcome: Outcome
    from_status: Status
    actor: str
    seq: int | None = None
    attempt: int | None = None
    """Fencing token: the change counts only while this attempt holds the session."""
    within_deadline: bool = False
    cancelled: bool | None = None
    """Required value of the cancel flag; None accepts either."""
    lease_lapsed: bool = False
    usage: Usage | SavedUsage | None = None
    """Usage of the attempt that ends, for the audit trail; a call returns it by the
    checkpoint of the row that is changed.
    """


@dataclass(frozen=True, slots=True)
class Deleted:
    """Sessions that their owner has deleted."""

    sessions: list[Session]
    """The deleted sessions that could be read until then."""
    cleanups: Mapping[str, str]
    """The encrypted checkpoints of their work upstream, by the ids of its cleanups."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A transition that is committed."""

    session: Session
    event: AuditEvent
