"""The HTTP server around the application: its socket, its limits, its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from typing import Final

import uvicorn
from starlette.applications import Starlette

from server.config.settings import Config, ConfigError
from server.system.processes import raise_file_limit
from server.telemetry import logs
from server.web.push.hub import Hub
from server.web.serving.handshake import Handshake
from server.web.serving.http import HttpProtocol

log = logging.getLogger("tryon.web")

UNACKNOWLEDGED_MS: Final = 8000
"""Milliseconds that sent bytes may stay unacknowledged before the kernel drops a
connection (RFC 5482): the peer has vanished, or takes nothing. This finds such a peer
long before a ping does, and without another byte sent.
"""

STOP_SECONDS: Final = 2
"""Seconds that a stopping server waits for requests in flight, after it has notified
all followers. All of its end takes at most five.
"""


class Server(uvicorn.Server):
    """uvicorn, except that clients are notified before their sockets are closed.

    uvicorn alone would first send all of them a bare 1012.
    """

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._application = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, notify all followers, then let uvicorn end the requests."""
        for server in self.servers:  # before its listeners: asyncio cannot take a closed one out of its selector
            server.close()
        for listener in sockets or []:
            listener.close()
        hub: Hub | None = getattr(self._application.state, "hub", None)
        if hub is not None and (notified := hub.drain()):
            log.info("Draining: notified %d clients", notified)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while hub.followers:
                        await asyncio.sleep(0.01)
        await super().shutdown(sockets)


def listen(config: Config, *, reuse_port: bool) -> socket.socket:
    """Return the listening socket. Raises ConfigError if the port is taken."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; every accepted connection inherits it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
    if reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"TRYON_PORT: {config.host}:{config.port} cannot be listened on: {error.strerror}") from error
    listener.listen(4096)
    listener.setblocking(False)
    return listener


def make_server(
    app: Starlette, *, ws: type[asyncio.Protocol] = Handshake, http: type[asyncio.Protocol] = HttpProtocol
) -> Server:
    """Return the server around the application, as :func:`run` and the tests run it.

    It listens on sockets that it is given. ``ws``: the class that speaks WebSocket;
    with any but the default, sockets go over plain ASGI. ``http``: likewise; any but
    the default does not count the bytes of a request's head.
    """
    return Server(
        uvicorn.Config(
            app,
            http=http,
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
            timeout_keep_alive=30,
            timeout_graceful_shutdown=STOP_SECONDS,
        ),
        app,
    )


def run(app: Starlette, config: Config, *, reuse_port: bool = False) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError if the port is taken."""
    logs.setup_logging(log_format=config.log_format, log_level=config.log_level)
    raise_file_limit()
    listener = listen(config, reuse_port=reuse_port)
    server = make_server(app)
    gc.freeze()  # the modules' 90,000 objects stay: no collection visits them while pushes wait
    host, port = listener.getsockname()[:2]
    log.info("Listening on http://%s:%d", host, port)
    server.run(sockets=[listener])
