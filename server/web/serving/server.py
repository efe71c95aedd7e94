"""The HTTP server around the application: its limits, its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final, cast

import uvicorn
from starlette.applications import Starlette

from server.config.authorities import is_loopback
from server.config.settings import Config
from server.config.users import callers_without_limit
from server.system.processes import raise_file_limit
from server.telemetry import logs
from server.telemetry.reporting import start_reporting
from server.web.push.hub import Hub
from server.web.serving.connections import Connections
from server.web.serving.handshake import Handshake
from server.web.serving.http import HttpProtocol
from server.web.serving.listening import HANDSHAKE_SECONDS, accept_all, listen, refuse_connections
from server.web.serving.unanswered import Unanswered

log = logging.getLogger("tryon.web")

FOLLOWERS_SECONDS: Final = 1.0
"""Seconds that a stopping server gives its followers to take their goodbye."""

STOP_SECONDS: Final = 2.5
"""Seconds after which a stopping server refuses the requests that have no answer."""

CANCEL_SECONDS: Final = 0.5
"""Seconds for the tasks of refused requests to end."""

REPORTING_SECONDS: Final = 0.3
"""Seconds for the last traces and errors of a process that ends."""

EXIT_SECONDS: Final = 4.3
"""Seconds after a signal when the process ends, whatever still blocks; five at most are
promised.
"""


class Server(uvicorn.Server):
    """uvicorn, with an end of its own: every request that has arrived is answered.

    uvicorn alone would close connections whose request it has not read, send all
    sockets a bare 1012, answer requests that it cancels with 500, and wait for a
    database that hangs.
    """

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._application = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[object] | None = None
        self.report_the_rest: Callable[[float], None] | None = None
        """Sends the last traces and errors, for at most so many seconds."""

    # -- signals -----------------------------------------------------------------------

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal; a second SIGINT waits for nothing."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._bound_exit)

    def _bound_exit(self) -> None:
        """End the process in time, and a start that is under way at once."""
        last = threading.Timer(EXIT_SECONDS, os._exit, (0,))
        last.daemon = True
        last.start()
        if self._starting is not None:
            self._starting.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open all parts and listen, unless a signal comes first.

        A database that hangs keeps a part from opening.
        """
        self._loop, self._starting = asyncio.get_running_loop(), asyncio.current_task()
        if self.should_exit:  # the signal came before there was a loop to tell
            self._bound_exit()
        try:
            await super().startup(sockets)
        except asyncio.CancelledError:
            if not self.should_exit:
                raise
            log.debug("Stopped before all parts were open")
        finally:
            self._starting = None

    # -- the end -----------------------------------------------------------------------

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, answer everything that has arrived, then close all parts.

        What is not answered after :data:`STOP_SECONDS` is refused with 503.
        """
        began = asyncio.get_running_loop().time()
        await self._stop_listening(sockets or [])
        connections = self.server_state.connections
        hub: Hub | None = getattr(self._application.state, "hub", None)
        if hub is not None and (notified := hub.drain()):
            log.info("Draining: notified %d clients", notified)
        for connection in list(connections):
            if isinstance(connection, HttpProtocol):
                connection.shutdown()
        if hub is not None:
            await self._wait_until(began + FOLLOWERS_SECONDS, lambda: not hub.followers)
        for connection in list(connections):
            connection.shutdown()
        await self._wait_until(began + STOP_SECONDS, self._is_idle)
        await self._refuse_unanswered()
        if not self.force_exit:
            await self.lifespan.shutdown()
        if self.report_the_rest is not None:
            await asyncio.to_thread(self.report_the_rest, REPORTING_SECONDS)

    async def _stop_listening(self, listeners: Sequence[socket.socket]) -> None:
        """Accept the connections that clients have already; take no other ones."""
        loop = asyncio.get_running_loop()
        queues: list[socket.socket] = []
        with contextlib.suppress(OSError):  # no descriptor is free, so none could be accepted
            queues += [listener.dup() for listener in listeners]
        for queue in queues:
            refuse_connections(queue)
        await asyncio.sleep(HANDSHAKE_SECONDS)
        for server in self.servers:  # before its listeners: asyncio cannot take a closed one out of its selector
            server.close()
        for listener in listeners:
            listener.close()
        for queue in queues:
            for connection in accept_all(queue):
                with contextlib.suppress(OSError):  # its client has gone
                    await loop.connect_accepted_socket(self._make_protocol, connection)
        await asyncio.sleep(0)  # until the last accepted one has its protocol

    def _make_protocol(self) -> asyncio.Protocol:
        make: type[asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)  # type: ignore[call-arg]  # uvicorn's classes

    def _is_idle(self) -> bool:
        return not self.server_state.connections and not self.server_state.tasks

    async def _wait_until(self, deadline: float, done: Callable[[], object]) -> None:
        """Wait for a condition, up to the deadline or a second SIGINT."""
        loop = asyncio.get_running_loop()
        while not done() and not self.force_exit and loop.time() < deadline:
            await asyncio.sleep(0.01)

    async def _refuse_unanswered(self) -> None:
        """Answer what is left with 503, and cancel it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CANCEL_SECONDS
        unanswered: Unanswered = self._application.state.unanswered
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                if refused := await unanswered.refuse_all():
                    log.warning("Refused %d requests that were not answered in time", refused)
        for task in self.server_state.tasks:
            task.cancel()
        await self._wait_until(deadline, self._is_idle)


def make_server(app: Starlette, config: Config, *, ws: type[asyncio.Protocol] = Handshake) -> Server:
    """Return the server around the application, as :func:`run` and the tests run it.

    It listens on sockets that it is given. ``ws``: the class that speaks WebSocket;
    with any but the default, sockets go over plain ASGI.
    """
    http = functools.partial(HttpProtocol, connections=Connections(config))
    return Server(
        uvicorn.Config(
            app,
            http=cast(type[HttpProtocol], http),
            loop="uvloop",
            ws=ws,
            ws_max_size=4096,
            ws_per_message_deflate=False,
            ws_ping_interval=20,
            ws_ping_timeout=20,
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        ),
        app,
    )


def run(app: Starlette, config: Config, *, reuse_port: bool = False) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError if the port is taken."""
    logs.setup_logging(log_format=config.log_format, log_level=config.log_level)
    raise_file_limit()
    listener = listen(config, reuse_port=reuse_port)
    server = make_server(app, config)
    gc.freeze()  # the modules' 90,000 objects stay: no collection visits them while pushes wait
    host, port = listener.getsockname()[:2]
    level = logging.DEBUG if reuse_port else logging.INFO  # a shared port is announced by what shares it
    log.log(level, "Listening on http://%s:%d", host, port)
    if not config.hosts and not is_loopback(config.host):
        log.warning("TRYON_HOSTS is not set: only IP addresses, localhost and this machine's name are served")
    if unlimited := callers_without_limit(config):
        log.warning(unlimited)
    server.report_the_rest = start_reporting(config, "web")
    server.run(sockets=[listener])
