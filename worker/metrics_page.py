"""`/metrics` of workers that were started alone: ``TRYON_WORKER_METRICS_PORT``.

The workers of one machine that share ``PROMETHEUS_MULTIPROC_DIR`` share the port, too
(SO_REUSEPORT): whichever is asked adds up all of them, and the page stays when one of
them dies. Without the folder a worker answers for itself, so the port is its own.

It runs in threads: Prometheus is answered also while the event loop is busy.

``/api/health/live`` beside it asks the event loop for a turn. It says nothing of Redis
or the database: a worker goes on through their outages, and a restart mends none. On a
shared port any worker answers, so the answer does not say which one is alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST

from server.config.private_rule import PrivateRule
from server.config.settings import Config, ConfigError
from server.telemetry import metrics
from server.telemetry.metric_files import FOLDER_VARIABLE
from tryon.protocol.paths import LIVE, METRICS

REQUEST_SECONDS: Final = 5.0
"""Maximum time for a whole request, and then for its answer."""

LOOP_SECONDS: Final = 3.0
"""Longest wait for a turn of the event loop; below the time-outs of health checks."""

MAX_AT_ONCE: Final = 8
"""Maximum connections at once; more are closed unread."""


@contextlib.contextmanager
def metrics_page(config: Config, loop: asyncio.AbstractEventLoop | None = None) -> Iterator[None]:
    """Serve the page for as long as this is open; nothing without the setting.

    ``loop``: the event loop that must turn for the worker to be alive.

    Raises ConfigError if the port cannot be used.
    """
    if config.worker_metrics_port is None:
        yield
        return
    try:
        server = _Server(config.host, config.worker_metrics_port, PrivateRule(config), loop)
    except OSError as error:
        raise ConfigError(
            f"TRYON_WORKER_METRICS_PORT: cannot listen on port {config.worker_metrics_port}: {error.strerror}"
            + ("" if _shared() else f" (workers share a port when {FOLDER_VARIABLE} names a folder for all of them)")
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _shared() -> bool:
    return FOLDER_VARIABLE in os.environ


class _Server(ThreadingHTTPServer):
    """A few threads that answer with the metrics."""

    daemon_threads = True
    block_on_close = False  # a client that reads nothing holds up no stop

    def __init__(self, host: str, port: int, rule: PrivateRule, loop: asyncio.AbstractEventLoop | None) -> None:
        self.rule = rule
        self._loop = loop
        self._room = threading.BoundedSemaphore(MAX_AT_ONCE)
        self.allow_reuse_port = _shared()
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__(address[:2], _Page)  # type: ignore[arg-type]  # a host and a port

    def loop_turns(self) -> bool:
        """Return whether the event loop takes a call in time."""
        turned = threading.Event()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(turned.set)
        return self._loop is None or turned.wait(LOOP_SECONDS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if there is room for one more."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has left: its trace would name its address."""


class _Page(BaseHTTPRequestHandler):
    """One request."""

    timeout = REQUEST_SECONDS  # of each read, and of all that is sent
    server: _Server

    def setup(self) -> None:
        """Let the request end in time, also if its bytes drip."""
        super().setup()
        self._end = threading.Timer(self.timeout, self._cut)
        self._end.daemon = True
        self._end.start()

    def finish(self) -> None:
        """Send what is left."""
        self._end.cancel()
        super().finish()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        """Answer with all metrics in Prometheus's text format, or with a refusal."""
        self._end.cancel()
        if self.path == LIVE:
            self._answer(*((200, b"alive\n") if self.server.loop_turns() else (503, b"hung\n")), "text/plain")
            return
        verdict = self.server.rule.judge(self.headers.get("Authorization", ""), self._local)
        if self.path.partition("?")[0] != METRICS or verdict == "hidden":
            self._answer(404, b"Not found\n", "text/plain")
        elif verdict == "token_required":
            self._answer(401, b"A bearer token is required\n", "text/plain")
        else:
            self._answer(200, metrics.render_metrics(), CONTENT_TYPE_LATEST)

    def _local(self) -> bool:
        """Return whether a program of this machine asks for itself, not as a proxy."""
        if any(name.lower() == "forwarded" or name.lower().startswith("x-forwarded-") for name in self.headers):
            return False
        peer = ipaddress.ip_address(self.client_address[0])
        mapped = getattr(peer, "ipv4_mapped", None) or peer
        return bool(mapped.is_loopback) or self.client_address[0] == self.connection.getsockname()[0]

    def _answer(self, status: int, body: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Return the name in ``Server``: not Python's version."""
        return "tryon"

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: programs ask every few seconds."""
