"""Prometheus metrics; docs/operations.md explains each.

Labels have few values: templates of routes, codes of the protocol, names that the
settings give. Never an id, an address or a client's text: :func:`known` bounds what an
upstream or a processor may have made up.

A counter whose label values are known beforehand is made with all of them at once
(:data:`_BEGUN`): a rate of Prometheus needs the zero before the first event. What is
one fact of the whole installation (the depth of the queue) is no metric here: the web
process that is asked measures it for its answer (``web.api.metrics_page``).
"""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from server.telemetry import metric_files
from server.telemetry.metric_files import FOLDER_VARIABLE
from server.telemetry.shared_values import share_values

share_values()

OTHER: Final = "other"
"""The value of a label whose true one is not among those that are known."""

_CALLS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Bounds of calls that usually take milliseconds, in seconds."""
_PUSHES: Final = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Bounds of the way from a commit to a client, in seconds."""
_WORK: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
"""Bounds of what people wait for, in seconds."""

# -- requests --------------------------------------------------------------------------

http_requests: Final = Counter("tryon_http_requests", "HTTP requests answered.", ["method", "route", "status"])
http_seconds: Final = Histogram(
    "tryon_http_request_seconds", "Time from the first byte of a request to the end of its answer.", ["route"]
)
uploads: Final = Counter("tryon_uploads", "Uploads and retries accepted, by outcome.", ["outcome"])
uploads_refused: Final = Counter("tryon_uploads_refused", "Uploads refused, by error code.", ["code"])
image_seconds: Final = Histogram(
    "tryon_image_seconds", "Time to clean a photo or verify a result, waiting included.", ["work"], buckets=_CALLS
)
limiter_local: Final = Counter(
    "tryon_limiter_local", "Rate limit decisions made locally because Redis was unavailable."
)

# -- sessions --------------------------------------------------------------------------

transitions: Final = Counter("tryon_transitions", "Session transitions committed by this process.", ["event"])
failures: Final = Counter("tryon_failures", "Sessions that failed, by processor and error code.", ["processor", "code"])
requeues: Final = Counter("tryon_requeues", "Attempts handed back to the queue, by reason.", ["reason"])
pickup_seconds: Final = Histogram(
    "tryon_pickup_seconds", "From a session's creation to its first claim by a worker.", ["processor"], buckets=_WORK
)
run_seconds: Final = Histogram(
    "tryon_run_seconds", "From a claim to the end of that attempt.", ["processor", "outcome"], buckets=_WORK
)
session_seconds: Final = Histogram(
    "tryon_session_seconds", "From a session's creation to its end.", ["processor", "status"], buckets=_WORK
)
reconciled: Final = Counter("tryon_reconciled", "Sessions that the reconciler changed, by action.", ["action"])
erased: Final = Counter("tryon_erased", "Sessions removed with their files, by reason.", ["reason"])
usage: Final = Counter(
    "tryon_usage",
    "What attempts have used of the model behind their processor: credits, cost_usd, gpu_seconds.",
    ["processor", "unit"],
)
cost_usd: Final = Counter(
    "tryon_cost_usd", "Cost of attempts, as the processor says or as it is priced.", ["processor"]
)
webhooks: Final = Counter("tryon_webhooks", "Attempts to deliver a webhook, by outcome.", ["outcome"])

# -- workers ---------------------------------------------------------------------------

running: Final = Gauge("tryon_running", "Sessions that workers hold right now.", multiprocess_mode="livesum")
slots: Final = Gauge("tryon_slots", "Sessions that workers may run at once.", multiprocess_mode="livesum")
processors_lost: Final = Counter(
    "tryon_processors_lost",
    "Processor processes that ended in the middle of a session.",
    ["reason"],
)
enqueue_failures: Final = Counter(
    "tryon_enqueue_failures", "Sessions that could not be queued at once; the reconciler queues them."
)

# -- push ------------------------------------------------------------------------------

followers: Final = Gauge(
    "tryon_followers", "Clients connected to follow a session.", ["transport"], multiprocess_mode="livesum"
)
frames: Final = Counter("tryon_frames", "Frames sent to clients.", ["kind"])
frames_dropped: Final = Counter("tryon_frames_dropped", "Frames that a slow client was not sent, by kind.", ["kind"])
closes: Final = Counter("tryon_socket_closes", "Sockets closed by the server, by close code.", ["code"])
push_seconds: Final = Histogram(
    "tryon_push_seconds", "From a transition's commit to its frame on the client's connection.", buckets=_PUSHES
)
publish_seconds: Final = Histogram(
    "tryon_publish_seconds", "From a transition's commit to Redis's answer to its publication.", buckets=_CALLS
)
delivered_seconds: Final = Histogram(
    "tryon_delivered_seconds",
    "From the commit of a session's end to its first delivery to a client, once per session.",
    buckets=(*_PUSHES, 60, 300, 3600, 86400),
)
gaps: Final = Counter("tryon_gaps", "Holes in what pub/sub brought for a session, read from the database.")
resyncs: Final = Counter("tryon_resyncs", "New snapshots that clients asked for.")
sweeps: Final = Counter("tryon_sweeps", "Reads of the database for what pub/sub lost, by outcome.", ["outcome"])
sweep_finds: Final = Counter(
    "tryon_sweep_finds", "Frames that reached a client from the database because pub/sub lost them."
)
probe_seconds: Final = Histogram(
    "tryon_probe_seconds", "Time that a published probe took to come back from Redis.", buckets=_CALLS
)
probes_lost: Final = Counter("tryon_probes_lost", "Probes that Redis did not bring back in time.")
publish_failures: Final = Counter(
    "tryon_publish_failures", "Events that could not be published; the sweep delivers them."
)
bus_reconnects: Final = Counter("tryon_bus_reconnects", "Reconnects of the subscriber connection to Redis.")
bus_up: Final = Gauge(
    "tryon_bus_up", "Web processes whose subscriber connection to Redis is up.", multiprocess_mode="livesum"
)

# -- engines ---------------------------------------------------------------------------

database_seconds: Final = Histogram(
    "tryon_database_seconds",
    "Time of a read or a transaction, the wait for a connection included.",
    ["kind"],
    buckets=_CALLS,
)
database_wait_seconds: Final = Histogram(
    "tryon_database_wait_seconds", "Wait for a connection, and for the turn to write.", ["kind"], buckets=_CALLS
)
database_refusals: Final = Counter(
    "tryon_database_refusals",
    "Calls of the database that were given up, by the bound that they met.",
    ["bound"],
)
database_errors: Final = Counter(
    "tryon_database_errors", "Reads and transactions that failed because of the database.", ["kind"]
)
redis_seconds: Final = Histogram("tryon_redis_seconds", "Time of a call to Redis.", ["part"], buckets=_CALLS)
redis_errors: Final = Counter("tryon_redis_errors", "Calls to Redis that failed, or were not tried.", ["part"])
storage_seconds: Final = Histogram(
    "tryon_storage_seconds", "Time of a call of the storage.", ["operation"], buckets=_CALLS
)
usage_events: Final = Counter(
    "tryon_usage_events", "Attempts to deliver a usage event, and events given up, by outcome.", ["outcome"]
)
issuer_key_fetches: Final = Counter(
    "tryon_issuer_key_fetches", "Fetches of the keys of an issuer of users' tokens, by outcome.", ["outcome"]
)
storage_errors: Final = Counter("tryon_storage_errors", "Calls of the storage that failed.", ["operation"])
files: Final = Counter("tryon_files", "Files stored, read and deleted.", ["folder", "operation"])
file_bytes: Final = Counter("tryon_file_bytes", "Bytes of files stored and read.", ["folder", "operation"])

# -- processes -------------------------------------------------------------------------

processes: Final = Gauge("tryon_processes", "Living processes.", ["role"], multiprocess_mode="livesum")
loop_lag_seconds: Final = Histogram(
    "tryon_loop_lag_seconds", "Delay of a timer of a web process's event loop, once a second.", buckets=_CALLS
)
build_info: Final = Gauge(
    "tryon_build_info", "Living processes, by what they run.", ["version", "python"], multiprocess_mode="livesum"
)

_BEGUN: Final[dict[Counter, tuple[str, ...]]] = {
    uploads: ("created", "replayed"),
    requeues: ("lease_lost", "drained", "not_started", "cancelled"),
    reconciled: ("lease_lost", "timeout", "queued_again", "lease_granted"),
    erased: ("deleted", "expired"),
    webhooks: ("delivered", "undelivered"),
    usage_events: ("delivered", "undelivered", "dropped"),
    processors_lost: ("crashed", "memory", "cpu", "stuck"),
    issuer_key_fetches: ("fetched", "unavailable"),
    frames_dropped: ("progress", "event"),
    sweeps: ("done", "failed"),
    database_errors: ("read", "write"),
    database_refusals: ("pool", "statement", "lock", "time", "lost"),
    redis_errors: ("bus", "queue", "limits", "presence"),
    storage_errors: ("put", "get", "open", "delete", "list", "check"),
}
for _counter, _values in _BEGUN.items():
    for _value in _values:
        _counter.labels(_value)


def known(value: str, values: Container[str]) -> str:
    """Return the value of a label: :data:`OTHER` unless it is among the known ones."""
    return value if value in values else OTHER


def note_process(role: str, version: str, python: str) -> None:
    """Count this process among the living ones, and say what it runs."""
    processes.labels(role).set(1)
    build_info.labels(version, python).set(1)


def render_metrics(*more: Collector) -> bytes:
    """Return all metrics in Prometheus' text format, and those of ``more``.

    Of this process, or summed over all that share ``PROMETHEUS_MULTIPROC_DIR``, web
    processes and workers alike, as ``tryon up`` sets it; then the gauges of killed
    processes are forgotten first.
    """
    registry = CollectorRegistry()
    for collector in more:
        registry.register(collector)
    if (folder := os.environ.get(FOLDER_VARIABLE)) is None:
        return generate_latest() + generate_latest(registry)
    metric_files.forget_dead(Path(folder))
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client has no annotation there
    return generate_latest(registry)
