"""The parts of a process, as values: built once by :mod:`server.services`."""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis

from server.adapters.database.database import Database
from server.adapters.files.port import Files
from server.adapters.files.threads import StorageThreads
from server.adapters.identity.verifier import TokenVerifier
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.exhausted import ExhaustedSubjects
from server.adapters.redis.limits import RedisLimiter
from server.adapters.redis.presence import Presence
from server.adapters.redis.queue import ArqQueue
from server.config.settings import Config
from server.domain.tokens import Signer
from server.reconciler.chores import Chores
from server.reconciler.cleanup import Cleanup
from server.reconciler.disturbances import Disturbances
from server.reconciler.expiry import Expiry
from server.reconciler.lost_jobs import LostJobs
from server.reconciler.maintenance import Maintenance
from server.reconciler.reconciler import Reconciler
from server.reconciler.usage import UsageReports
from server.reconciler.webhooks import Webhooks
from server.sessions.access import AccessIssuer
from server.sessions.cancelling import Cancelling
from server.sessions.claims import Claims
from server.sessions.crashing import Crashing
from server.sessions.erased_bytes import ErasedBytes
from server.sessions.erasure import Erasure
from server.sessions.operating import Operating
from server.sessions.processors import ProcessorDirectory
from server.sessions.queue_places import QueuePlaces
from server.sessions.queueing import Queueing
from server.sessions.quotas import Quotas
from server.sessions.reads import SessionReads
from server.sessions.requeueing import Requeueing
from server.sessions.submissions import Submissions
from server.sessions.transitions import Transitions
from server.sessions.upstream_cleaning import UpstreamCleaning
from server.system.clock import Clock
from server.system.randomness import Randomness


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """The use cases: everything that can happen to a session, one part per noun.

    Each changes the database first (one transaction), then publishes once, after the
    commit. Web and worker call the same parts; neither knows SQL, Redis or file paths.
    """

    access: AccessIssuer
    reads: SessionReads
    queue_places: QueuePlaces
    submissions: Submissions
    queueing: Queueing
    transitions: Transitions
    claims: Claims
    requeueing: Requeueing
    cancelling: Cancelling
    crashing: Crashing
    erasure: Erasure
    cleaning: UpstreamCleaning
    erased_bytes: ErasedBytes
    processors: ProcessorDirectory
    quotas: Quotas
    operating: Operating


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciling:
    """Everything that happens by the clock alone."""

    reconciler: Reconciler
    disturbances: Disturbances
    lost_jobs: LostJobs
    expiry: Expiry
    cleanup: Cleanup
    webhooks: Webhooks
    usage: UsageReports
    chores: Chores
    maintenance: Maintenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts that a web or worker process is made of."""

    config: Config
    clock: Clock
    randomness: Randomness
    database: Database
    files: Files
    storage_threads: StorageThreads
    redis: Redis
    bus: RedisBus
    queue: ArqQueue
    limiter: RedisLimiter
    wrong_operators: RedisLimiter
    presence: Presence
    signer: Signer
    verifier: TokenVerifier
    sessions: Sessions
    reconciling: Reconciling


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The parts below the use cases, which do not know each other."""

    config: Config
    clock: Clock
    randomness: Randomness
    database: Database
    files: Files
    bus: RedisBus
    queue: ArqQueue
    crashes: RedisLimiter
    exhausted: ExhaustedSubjects
    signer: Signer
