"""Prometheus metrics; docs/operations.md explains each."""

from __future__ import annotations

import os
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from server.telemetry.metric_files import FOLDER_VARIABLE
from server.telemetry.shared_values import share_values

share_values()

http_requests: Final = Counter("tryon_http_requests", "HTTP requests answered.", ["method", "route", "status"])
http_seconds: Final = Histogram(
    "tryon_http_request_seconds", "Time from the first byte of a request to the end of its answer.", ["route"]
)
transitions: Final = Counter("tryon_transitions", "Session transitions committed by this process.", ["event"])
uploads_refused: Final = Counter("tryon_uploads_refused", "Uploads refused, by error code.", ["code"])
limiter_local: Final = Counter(
    "tryon_limiter_local", "Rate limit decisions made locally because Redis was unavailable."
)
followers: Final = Gauge(
    "tryon_followers", "Clients connected to follow a session.", ["transport"], multiprocess_mode="livesum"
)
frames: Final = Counter("tryon_frames", "Frames sent to clients.", ["kind"])
closes: Final = Counter("tryon_socket_closes", "Sockets closed by the server, by close code.", ["code"])
push_seconds: Final = Histogram(
    "tryon_push_seconds",
    "From a transition's commit to its frame on the client's connection.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
delivered_seconds: Final = Histogram(
    "tryon_delivered_seconds",
    "From the commit of a session's end to its first delivery to a client, once per session.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400),
)
bus_reconnects: Final = Counter("tryon_bus_reconnects", "Reconnects of the subscriber connection to Redis.")
bus_up: Final = Gauge(
    "tryon_bus_up", "Web processes whose subscriber connection to Redis is up.", multiprocess_mode="livesum"
)
publish_failures: Final = Counter(
    "tryon_publish_failures", "Events that could not be published; the sweep delivers them."
)
enqueue_failures: Final = Counter(
    "tryon_enqueue_failures", "Sessions that could not be queued at once; the reconciler queues them."
)
sweep_finds: Final = Counter(
    "tryon_sweep_finds", "Frames that reached a client from the database because pub/sub lost them."
)
processors_lost: Final = Counter(
    "tryon_processors_lost",
    "Processor processes that ended in the middle of a session.",
    ["reason"],
)
webhooks: Final = Counter("tryon_webhooks", "Attempts to deliver a webhook, by outcome.", ["outcome"])
usage: Final = Counter(
    "tryon_usage",
    "What attempts have used of the model behind their processor: credits, cost_usd, gpu_seconds.",
    ["processor", "unit"],
)
reconciled: Final = Counter("tryon_reconciled", "Sessions that the reconciler changed, by action.", ["action"])


def render_metrics() -> bytes:
    """Return all metrics in Prometheus' text format.

    Of this process, or summed over all that share ``PROMETHEUS_MULTIPROC_DIR``, web
    processes and workers alike, as ``tryon up`` sets it.
    """
    if FOLDER_VARIABLE not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client has no annotation there
    return generate_latest(registry)
