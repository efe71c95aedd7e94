"""Logs, metrics and the request id that ties them together.

A log line is built in one place and carries fields: the text form reads as the documentation shows it, the JSON form has
the same fields. Tokens, tickets and signatures never get here; session ids and the first characters of hashes do.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from contextvars import ContextVar
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

request_id: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
"""Of the HTTP request, or of the upload whose session a worker runs."""

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request_id", "color_message"}


class _RequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        return True


_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
"""What could begin a line or colour it; a request's path may hold any of it."""


class TextFormatter(logging.Formatter):
    """``09:00:00.123 INFO    Created session …``; the request id stands at the end where the line doesn't begin with it."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{at}.{int(record.msecs):03d} {record.levelname:<7} {record.getMessage().translate(_CONTROL)}"
        rid = getattr(record, "request_id", None)
        if rid and f"[{rid}]" not in line:
            line += f" (request {rid})"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id and the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if rid := getattr(record, "request_id", None):
            entry["request_id"] = rid
        entry |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def setup_logging(*, log_format: str | None, log_level: str) -> None:
    """One handler on standard error for everything in this process."""
    chosen = log_format or ("text" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if chosen == "text" else JsonFormatter())
    handler.addFilter(_RequestId())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tryon").setLevel(log_level.upper())


# Metrics. All names begin with tryon_; docs/operations.md explains each, and a test holds it to that.

http_requests: Final = Counter("tryon_http_requests", "HTTP requests answered.", ["method", "route", "status"])
http_seconds: Final = Histogram(
    "tryon_http_request_seconds", "Time from the first byte of a request to the end of its answer.", ["route"]
)
transitions: Final = Counter("tryon_transitions", "Session transitions committed by this process.", ["event"])
uploads_refused: Final = Counter("tryon_uploads_refused", "Uploads refused, by error code.", ["code"])
limiter_local: Final = Counter("tryon_limiter_local", "Rate limit decisions made locally because Redis was away.")
followers: Final = Gauge(
    "tryon_followers", "Clients that follow a session right now.", ["transport"], multiprocess_mode="livesum"
)
frames: Final = Counter("tryon_frames", "Frames handed to clients.", ["kind"])
closes: Final = Counter("tryon_socket_closes", "Sockets closed by the server, by close code.", ["code"])
push_seconds: Final = Histogram(
    "tryon_push_seconds",
    "From a transition's commit to its frame being handed to the client's connection.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
delivered_seconds: Final = Histogram(
    "tryon_delivered_seconds",
    "From the commit of a session's end to its first handing over to a client, once a session.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400),
)
bus_reconnects: Final = Counter(
    "tryon_bus_reconnects", "Times the subscriber connection to Redis was lost and made again."
)
bus_up: Final = Gauge(
    "tryon_bus_up", "Web processes whose subscriber connection to Redis is up.", multiprocess_mode="livesum"
)
publish_failures: Final = Counter("tryon_publish_failures", "News that could not be published; the sweep delivers it.")
enqueue_failures: Final = Counter(
    "tryon_enqueue_failures", "Sessions that could not be queued at once; the reconciler does."
)
sweep_finds: Final = Counter(
    "tryon_sweep_finds", "Frames that reached a client from the database because pub/sub lost them."
)
processors_lost: Final = Counter(
    "tryon_processors_lost",
    "Processes of processors that ended, or were ended, in the middle of a session.",
    ["reason"],
)
reconciled: Final = Counter("tryon_reconciled", "Sessions the reconciler moved on, by what it did.", ["action"])


def render_metrics() -> bytes:
    """In Prometheus' text format: of this process, or added up over all that share ``PROMETHEUS_MULTIPROC_DIR``, web
    processes and workers alike, as ``tryon up`` sets it."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client has no annotation there
    return generate_latest(registry)
