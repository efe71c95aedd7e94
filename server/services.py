"""Builds every part once, hands it out, and closes it in order.

The only module that constructs adapters, use cases and the reconciler.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator

from server.adapters.database.database import open_database
from server.adapters.files.measured import MeasuredFiles
from server.adapters.files.opening import open_files
from server.adapters.files.threads import StorageThreads
from server.adapters.identity.verifier import TokenVerifier
from server.adapters.redis.bus import RedisBus
from server.adapters.redis.connect import open_redis
from server.adapters.redis.exhausted import ExhaustedSubjects
from server.adapters.redis.limits import RedisLimiter
from server.adapters.redis.presence import Presence
from server.adapters.redis.queue import ArqQueue
from server.adapters.webhooks.sender import WebhookSender
from server.config.operator_settings import WRONG_OPERATORS
from server.config.settings import Config
from server.config.sources import make_data_dir
from server.domain.identities import OwnerIds
from server.domain.sealing import Sealer
from server.domain.tokens import SecretKey, Signer
from server.parts import Adapters, Reconciling, Services, Sessions
from server.reconciler.chores import Chores
from server.reconciler.cleanup import Cleanup
from server.reconciler.disturbances import Disturbances
from server.reconciler.expiry import Expiry
from server.reconciler.failure_guard import FailureGuard
from server.reconciler.lost_jobs import LostJobs
from server.reconciler.lost_leases import LostLeases
from server.reconciler.maintenance import Maintenance
from server.reconciler.reconciler import Reconciler
from server.reconciler.usage import UsageReports
from server.reconciler.webhooks import Webhooks
from server.sessions.access import AccessIssuer
from server.sessions.allowances import allowance_of, plans_of
from server.sessions.cancelling import Cancelling
from server.sessions.checkpoints import Checkpoints
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
from server.sessions.shared_reads import SharedReads
from server.sessions.submissions import Submissions
from server.sessions.transitions import Transitions
from server.sessions.upstream_cleaning import UpstreamCleaning
from server.system.clock import Clock, SystemClock
from server.system.randomness import Randomness, SystemRandomness

__all__ = ["Services", "Sessions", "open_services"]


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
        database = open_database(config.database, clock=clock, settings=config)
        stack.push_async_callback(database.close)
        redis = open_redis(config.redis)
        stack.push_async_callback(redis.connection_pool.disconnect)
        queue = ArqQueue(config.queue_redis, config.queue_name, config.key_prefix, clock=clock)
        stack.push_async_callback(queue.close)
        storage_threads = StorageThreads()
        adapters = Adapters(
            config=config,
            clock=clock,
            randomness=randomness,
            database=database,
            files=MeasuredFiles(await open_files(config, storage_threads)),
            bus=RedisBus(redis, key_prefix=config.key_prefix),
            queue=queue,
            crashes=RedisLimiter(redis, config.crash_rate, key_prefix=config.key_prefix, clock=clock, counts="crashes"),
            exhausted=ExhaustedSubjects(redis, key_prefix=config.key_prefix),
            signer=Signer(config.signing_keys()),
        )
        sessions = _sessions(adapters)
        verifier = _verifier(config, clock)
        stack.push_async_callback(verifier.close)
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
            wrong_operators=RedisLimiter(
                redis, WRONG_OPERATORS, key_prefix=config.key_prefix, clock=clock, counts="wrong-operators"
            ),
            presence=Presence(redis, key_prefix=config.key_prefix),
            signer=adapters.signer,
            verifier=verifier,
            sessions=sessions,
            reconciling=_reconciling(adapters, sessions),
        )


def _verifier(config: Config, clock: Clock) -> TokenVerifier:
    """Return the judge of users' tokens, which asks no issuer before the first one."""
    own_key = None if config.owner_key is None else config.owner_key.encode()
    return TokenVerifier(
        issuers=config.jwt_issuer,
        key_urls=config.jwt_jwks_url,
        audiences=config.jwt_audience,
        algorithms=config.jwt_algorithms,
        scope=config.jwt_scope,
        owner_ids=OwnerIds(own_key or SecretKey.of(config.signing_keys()[0]).subkey("owner")),
        clock=clock,
    )


def _sessions(adapters: Adapters) -> Sessions:
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
    checkpoints = _checkpoints(adapters)
    transitions = Transitions(
        writer=database.writer, bus=bus, access=access, checkpoints=checkpoints, prices=dict(config.usage_prices)
    )
    requeueing = Requeueing(
        transitions=transitions, queueing=queueing, checkpoints=checkpoints, max_attempts=config.max_attempts
    )
    erased_bytes = ErasedBytes()
    processors = ProcessorDirectory(rows=database.processors, setting=config.processor, clock=adapters.clock)
    cleaning = UpstreamCleaning(cleanups=database.cleanups, checkpoints=checkpoints, queue=queue, processors=processors)
    reads = _reads(adapters, access, queue_places)
    submissions = _submissions(adapters, queueing, queue_places)
    cancelling = Cancelling(
        reader=database.reader, writer=database.writer, transitions=transitions, queue=queue, reads=reads
    )
    erasure = _erasure(adapters, erased_bytes, cleaning, checkpoints)
    return Sessions(
        access=access,
        reads=reads,
        queue_places=queue_places,
        submissions=submissions,
        queueing=queueing,
        transitions=transitions,
        claims=_claims(adapters, access, transitions, requeueing),
        requeueing=requeueing,
        cancelling=cancelling,
        crashing=Crashing(reader=database.reader, queue=queue, limiter=adapters.crashes, demo=config.demo),
        erasure=erasure,
        cleaning=cleaning,
        erased_bytes=erased_bytes,
        processors=processors,
        quotas=_quotas(adapters),
        operating=Operating(
            reader=database.overview,
            writer=database.writer,
            actions=database.operator_actions,
            queue=queue,
            signer=adapters.signer,
            queueing=queueing,
            requeueing=requeueing,
            submissions=submissions,
            cancelling=cancelling,
            erasure=erasure,
        ),
    )


def _reads(adapters: Adapters, access: AccessIssuer, queue_places: QueuePlaces) -> SessionReads:
    database, bus = adapters.database, adapters.bus
    return SessionReads(
        reader=database.reader,
        shared_reads=SharedReads(reader=database.reader, bus=bus),
        bus=bus,
        queue_places=queue_places,
        access=access,
        signer=adapters.signer,
        database_clock=database.clock,
    )


def _submissions(adapters: Adapters, queueing: Queueing, queue_places: QueuePlaces) -> Submissions:
    return Submissions(
        files=adapters.files,
        writer=adapters.database.writer,
        reader=adapters.database.reader,
        commits=adapters.database.commits,
        bus=adapters.bus,
        queueing=queueing,
        queue_places=queue_places,
        clock=adapters.clock,
        randomness=adapters.randomness,
        signer=adapters.signer,
        allowance=allowance_of(adapters.config),
        processor=adapters.config.processors[0],
        deadline_seconds=adapters.config.deadline_seconds,
        retention_seconds=adapters.config.retention_seconds,
        webhook="" if adapters.config.webhook_url else None,
        metered=adapters.config.usage_webhook_url is not None,
    )


def _claims(adapters: Adapters, access: AccessIssuer, transitions: Transitions, requeueing: Requeueing) -> Claims:
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


def _quotas(adapters: Adapters) -> Quotas:
    return Quotas(
        plans=plans_of(adapters.config),
        counts=adapters.database.quotas,
        exhausted=adapters.exhausted,
        signer=adapters.signer,
        database_clock=adapters.database.clock,
        processor=adapters.config.processors[0],
    )


def _checkpoints(adapters: Adapters) -> Checkpoints:
    return Checkpoints(
        attempts=adapters.database.attempts,
        sealer=Sealer(adapters.config.signing_keys()),
        randomness=adapters.randomness,
    )


def _erasure(
    adapters: Adapters, erased_bytes: ErasedBytes, cleaning: UpstreamCleaning, checkpoints: Checkpoints
) -> Erasure:
    return Erasure(
        reader=adapters.database.reader,
        writer=adapters.database.writer,
        connections=adapters.database.connections,
        files=adapters.files,
        bus=adapters.bus,
        queue=adapters.queue,
        signer=adapters.signer,
        database_clock=adapters.database.clock,
        erased_bytes=erased_bytes,
        cleaning=cleaning,
        checkpoints=checkpoints,
    )


def _reconciling(adapters: Adapters, sessions: Sessions) -> Reconciling:
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
    webhooks, usage = _webhooks(adapters, sessions), _usage(adapters)
    chores = _chores(adapters, disturbances)
    maintenance = Maintenance(
        chores=chores,
        reconciler=reconciler,
        cleanup=cleanup,
        webhooks=webhooks,
        usage=usage,
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
        usage=usage,
        chores=chores,
        maintenance=maintenance,
    )


def _disturbances(adapters: Adapters) -> Disturbances:
    return Disturbances(
        connections=adapters.database.connections,
        writer=adapters.database.writer,
        database_clock=adapters.database.clock,
        clock=adapters.clock,
        lease_seconds=adapters.config.lease_seconds,
        deadline_seconds=adapters.config.deadline_seconds,
        retention_seconds=adapters.config.retention_seconds,
    )


def _webhooks(adapters: Adapters, sessions: Sessions) -> Webhooks:
    return Webhooks(
        deliveries=adapters.database.deliveries,
        reader=adapters.database.reader,
        sender=WebhookSender(private_allowed=adapters.config.webhook_private),
        access=sessions.access,
        database_clock=adapters.database.clock,
        url=adapters.config.webhook_url,
        secrets=adapters.config.webhook_secrets,
    )


def _usage(adapters: Adapters) -> UsageReports:
    return UsageReports(
        outbox=adapters.database.usage_outbox,
        sender=WebhookSender(private_allowed=adapters.config.webhook_private),
        database_clock=adapters.database.clock,
        url=adapters.config.usage_webhook_url,
        secrets=adapters.config.webhook_secrets,
        keep_seconds=adapters.config.usage_days * 86400,
    )


def _chores(adapters: Adapters, disturbances: Disturbances) -> Chores:
    return Chores(
        leases=adapters.database.chore_leases,
        database_clock=adapters.database.clock,
        disturbances=disturbances,
        process_name=f"{socket.gethostname()}:{os.getpid()}:{adapters.randomness.bytes(2).hex()}",
    )


def _cleanup(adapters: Adapters, sessions: Sessions) -> Cleanup:
    return Cleanup(
        reader=adapters.database.reader,
        upkeep=adapters.database.upkeep,
        quotas=adapters.database.quotas,
        operator_actions=adapters.database.operator_actions,
        files=adapters.files,
        bus=adapters.bus,
        queue=adapters.queue,
        erasure=sessions.erasure,
        erased_bytes=sessions.erased_bytes,
    )
