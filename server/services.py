"""Builds every part once, hands it out, and closes it in order.

The only module that constructs adapters, use cases and the reconciler.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

from redis.asyncio import Redis

from server.adapters.database.database import Database, open_database
from server.adapters.files.local import LocalFiles
from server.adapters.files.port import Files
from server.adapters.files.threads import StorageThreads
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.connect import open_redis
from server.adapters.redis.limits import RedisLimiter
from server.adapters.redis.queue import ArqQueue
from server.adapters.webhooks.sender import WebhookSender
from server.config.settings import Config, make_data_dir
from server.domain.allowance import Allowance
from server.domain.sealing import Sealer
from server.domain.tokens import Signer
from server.reconciler.chores import Chores
from server.reconciler.cleanup import Cleanup
from server.reconciler.disturbances import Disturbances
from server.reconciler.expiry import Expiry
from server.reconciler.failure_guard import FailureGuard
from server.reconciler.lost_jobs import LostJobs
from server.reconciler.lost_leases import LostLeases
from server.reconciler.maintenance import Maintenance
from server.reconciler.reconciler import Reconciler
from server.reconciler.webhooks import Webhooks
from server.sessions.access import AccessIssuer
from server.sessions.cancelling import Cancelling
from server.sessions.checkpoints import Checkpoints
from server.sessions.claims import Claims
from server.sessions.crashing import Crashing
from server.sessions.erased_bytes import ErasedBytes
from server.sessions.erasure import Erasure
from server.sessions.processors import ProcessorDirectory
from server.sessions.queue_places import QueuePlaces
from server.sessions.queueing import Queueing
from server.sessions.reads import SessionReads
from server.sessions.requeueing import Requeueing
from server.sessions.shared_reads import SharedReads
from server.sessions.submissions import Submissions
from server.sessions.transitions import Transitions
from server.sessions.upstream_cleaning import UpstreamCleaning
from server.system.clock import Clock, SystemClock
from server.system.randomness import Randomness, SystemRandomness
from tryon.protocol.errors import TryOnError

log = logging.getLogger("tryon.services")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciling:
    """Everything that happens by the clock alone."""

    reconciler: Reconciler
    disturbances: Disturbances
    lost_jobs: LostJobs
    expiry: Expiry
    cleanup: Cleanup
    webhooks: Webhooks
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
    signer: Signer
    sessions: Sessions
    reconciling: Reconciling


@dataclass(frozen=True, slots=True, kw_only=True)
class _Adapters:
    """The parts below the use cases, which do not know each other."""

    config: Config
    clock: Clock
    randomness: Randomness
    database: Database
    files: Files
    bus: RedisBus
    queue: ArqQueue
    crashes: RedisLimiter
    signer: Signer


@contextlib.asynccontextmanager
async def open_services(
    config: Config, *, clock: Clock | None = None, randomness: Randomness | None = None
) -> AsyncIterator[Services]:
    """Build all parts of a process, and close them at the end.

    No part connects before it is used, so the database and Redis may be unavailable at
    the start. ``clock`` and ``randomness``: those of this machine unless given.
    """
    make_data_dir(config.data_dir)
    clock, randomness = clock or SystemClock(), randomness or SystemRandomness()
    async with contextlib.AsyncExitStack() as stack:
        database = open_database(config.database, clock=clock)
        stack.push_async_callback(database.close)
        redis = open_redis(config.redis)
        stack.push_async_callback(redis.connection_pool.disconnect)
        queue = ArqQueue(config.redis, config.queue_name, config.key_prefix, clock=clock)
        stack.push_async_callback(queue.close)
        storage_threads = StorageThreads()
        files = LocalFiles(config.uploads_dir, storage_threads)
        try:
            await files.make_folders()
        except TryOnError as error:
            log.warning("The storage in %s cannot be used now: %s", files.root, error.__cause__ or error.detail)
        adapters = _Adapters(
            config=config,
            clock=clock,
            randomness=randomness,
            database=database,
            files=files,
            bus=RedisBus(redis, key_prefix=config.key_prefix),
            queue=queue,
            crashes=RedisLimiter(redis, config.crash_rate, key_prefix=config.key_prefix, clock=clock, counts="crashes"),
            signer=Signer(config.signing_keys()),
        )
        sessions = _sessions(adapters)
        yield Services(
            config=config,
            clock=clock,
            randomness=randomness,
            database=database,
            files=adapters.files,
            storage_threads=storage_threads,
            redis=redis,
            bus=adapters.bus,
            queue=queue,
            limiter=RedisLimiter(redis, config.upload_rate, key_prefix=config.key_prefix, clock=clock),
            signer=adapters.signer,
            sessions=sessions,
            reconciling=_reconciling(adapters, sessions),
        )


def _sessions(adapters: _Adapters) -> Sessions:
    config, database, bus, queue = adapters.config, adapters.database, adapters.bus, adapters.queue
    access = AccessIssuer(
        signer=adapters.signer,
        database_clock=database.clock,
        link_seconds=config.link_seconds,
        ticket_seconds=config.ticket_seconds,
    )
    queue_places = QueuePlaces(
        queue=queue, processor=config.processors[0], queue_limit=config.queue_limit, worker_jobs=config.worker_jobs
    )
    queueing = Queueing(queue=queue, reader=database.reader)
    transitions = Transitions(writer=database.writer, bus=bus, access=access)
    checkpoints = _checkpoints(adapters)
    requeueing = Requeueing(
        transitions=transitions, queueing=queueing, checkpoints=checkpoints, max_attempts=config.max_attempts
    )
    erased_bytes = ErasedBytes()
    processors = ProcessorDirectory(rows=database.processors, setting=config.processor, clock=adapters.clock)
    cleaning = UpstreamCleaning(cleanups=database.cleanups, checkpoints=checkpoints, queue=queue, processors=processors)
    reads = SessionReads(
        reader=database.reader,
        shared_reads=SharedReads(reader=database.reader, bus=bus),
        bus=bus,
        queue_places=queue_places,
        access=access,
        signer=adapters.signer,
        database_clock=database.clock,
    )
    return Sessions(
        access=access,
        reads=reads,
        queue_places=queue_places,
        submissions=_submissions(adapters, queueing, queue_places),
        queueing=queueing,
        transitions=transitions,
        claims=_claims(adapters, access, transitions, requeueing),
        requeueing=requeueing,
        cancelling=Cancelling(
            reader=database.reader, writer=database.writer, transitions=transitions, queue=queue, reads=reads
        ),
        crashing=Crashing(reader=database.reader, queue=queue, limiter=adapters.crashes, demo=config.demo),
        erasure=_erasure(adapters, erased_bytes, cleaning),
        cleaning=cleaning,
        erased_bytes=erased_bytes,
        processors=processors,
    )


def _submissions(adapters: _Adapters, queueing: Queueing, queue_places: QueuePlaces) -> Submissions:
    return Submissions(
        files=adapters.files,
        writer=adapters.database.writer,
        reader=adapters.database.reader,
        commits=adapters.database.commits,
        queueing=queueing,
        queue_places=queue_places,
        clock=adapters.clock,
        randomness=adapters.randomness,
        signer=adapters.signer,
        allowance=_allowance(adapters.config),
        processor=adapters.config.processors[0],
        deadline_seconds=adapters.config.deadline_seconds,
        retention_seconds=adapters.config.retention_seconds,
        webhook="" if adapters.config.webhook_url else None,
    )


def _allowance(config: Config) -> Allowance:
    """Return what one owner and one address may have; a share is one place at least."""

    def places(share: float | None) -> int | None:
        return None if share is None else max(1, math.ceil(share * config.queue_limit))

    return Allowance(
        owner_bytes=config.stored_bytes_per_owner,
        owner_waiting=places(config.queue_share_per_owner),
        address_bytes=config.stored_bytes_per_address,
        address_waiting=places(config.queue_share_per_address),
    )


def _claims(adapters: _Adapters, access: AccessIssuer, transitions: Transitions, requeueing: Requeueing) -> Claims:
    return Claims(
        reader=adapters.database.reader,
        writer=adapters.database.writer,
        attempts=adapters.database.attempts,
        checkpoints=_checkpoints(adapters),
        access=access,
        files=adapters.files,
        bus=adapters.bus,
        queue=adapters.queue,
        transitions=transitions,
        requeueing=requeueing,
        database_clock=adapters.database.clock,
        lease_seconds=adapters.config.lease_seconds,
    )


def _checkpoints(adapters: _Adapters) -> Checkpoints:
    return Checkpoints(
        attempts=adapters.database.attempts,
        sealer=Sealer(adapters.config.signing_keys()),
        randomness=adapters.randomness,
    )


def _erasure(adapters: _Adapters, erased_bytes: ErasedBytes, cleaning: UpstreamCleaning) -> Erasure:
    return Erasure(
        reader=adapters.database.reader,
        writer=adapters.database.writer,
        files=adapters.files,
        bus=adapters.bus,
        queue=adapters.queue,
        signer=adapters.signer,
        database_clock=adapters.database.clock,
        erased_bytes=erased_bytes,
        cleaning=cleaning,
    )


def _reconciling(adapters: _Adapters, sessions: Sessions) -> Reconciling:
    config, clock, database = adapters.config, adapters.clock, adapters.database
    disturbances = _disturbances(adapters)
    failure_guard = FailureGuard(reader=database.reader, disturbances=disturbances)
    lost_leases = LostLeases(
        due=database.due,
        transitions=sessions.transitions,
        requeueing=sessions.requeueing,
        disturbances=disturbances,
        failure_guard=failure_guard,
    )
    lost_jobs = LostJobs(
        due=database.due,
        writer=database.writer,
        queue=adapters.queue,
        queueing=sessions.queueing,
        disturbances=disturbances,
        clock=clock,
    )
    expiry = Expiry(
        due=database.due, files=adapters.files, erasure=sessions.erasure, failure_guard=failure_guard, clock=clock
    )
    reconciler = Reconciler(
        due=database.due,
        upkeep=database.upkeep,
        database_clock=database.clock,
        disturbances=disturbances,
        lost_leases=lost_leases,
        lost_jobs=lost_jobs,
        expiry=expiry,
        cleaning=sessions.cleaning,
    )
    cleanup = _cleanup(adapters, sessions)
    webhooks = _webhooks(adapters, sessions)
    chores = Chores(
        leases=database.chore_leases,
        database_clock=database.clock,
        disturbances=disturbances,
        process_name=f"{socket.gethostname()}:{os.getpid()}:{adapters.randomness.bytes(2).hex()}",
    )
    maintenance = Maintenance(
        chores=chores,
        reconciler=reconciler,
        cleanup=cleanup,
        webhooks=webhooks,
        submissions=sessions.submissions,
        queueing=sessions.queueing,
        erased_bytes=sessions.erased_bytes,
        cleanup_seconds=config.cleanup_seconds,
    )
    return Reconciling(
        reconciler=reconciler,
        disturbances=disturbances,
        lost_jobs=lost_jobs,
        expiry=expiry,
        cleanup=cleanup,
        webhooks=webhooks,
        chores=chores,
        maintenance=maintenance,
    )


def _disturbances(adapters: _Adapters) -> Disturbances:
    return Disturbances(
        writer=adapters.database.writer,
        database_clock=adapters.database.clock,
        clock=adapters.clock,
        lease_seconds=adapters.config.lease_seconds,
        deadline_seconds=adapters.config.deadline_seconds,
        retention_seconds=adapters.config.retention_seconds,
    )


def _webhooks(adapters: _Adapters, sessions: Sessions) -> Webhooks:
    return Webhooks(
        deliveries=adapters.database.deliveries,
        reader=adapters.database.reader,
        sender=WebhookSender(private_allowed=adapters.config.webhook_private),
        access=sessions.access,
        database_clock=adapters.database.clock,
        url=adapters.config.webhook_url,
        secrets=adapters.config.webhook_secrets,
    )


def _cleanup(adapters: _Adapters, sessions: Sessions) -> Cleanup:
    return Cleanup(
        reader=adapters.database.reader,
        upkeep=adapters.database.upkeep,
        files=adapters.files,
        bus=adapters.bus,
        queue=adapters.queue,
        erasure=sessions.erasure,
        erased_bytes=sessions.erased_bytes,
    )
