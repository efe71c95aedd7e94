"""A connection of HTTP/1.1: requests in, one after the other, each with its answer.

Theory of operation
-------------------

Clients are strangers, and there may be no proxy in front. So nothing that a client
sends or leaves out holds memory or a connection for ever:

* :mod:`~server.web.serving.heads` and :mod:`~server.web.serving.bodies` find where a
  head, a body and each part of its framing end, with a limit on every one of them.
* The next request is parsed only after the answer to the one before, and only when the
  client takes its answers. Until then its bytes wait, at most
  :data:`MAX_WAITING_BYTES` and one read (256 KiB); then reading pauses.
* :class:`~server.web.serving.phases.Phase` says what the connection waits for. In each
  phase in which no answer is due a timer runs.
* :class:`~server.web.serving.pace.Pace` cuts a client that takes its answers too
  slowly.
* A connection above the limits (:mod:`~server.web.serving.connections`) may only ask
  for the health of the service, and only for a moment.

After the last answer what still arrives is dropped, for a short time: if the connection
closed at once, the kernel would reset it, and the answer would be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import termios
from typing import Any, Final, cast
from urllib.parse import unquote

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from server.web.serving import phases
from server.web.serving.connections import RESERVED_SECONDS, Connections, Place
from server.web.serving.exchange import HIGH_WATER_BYTES, Exchange
from server.web.serving.handshake import Handshake, accept_of, hand_over
from server.web.serving.heads import Head
from server.web.serving.incoming import Incoming
from server.web.serving.pace import Pace, has_left, kernel_bytes
from server.web.serving.phases import Phase, PhaseTimer
from server.web.serving.refusals import TooLate, refusal
from server.web.transports.wire import NOWHERE
from tryon.protocol.errors import TryOnError, Unavailable
from tryon.protocol.paths import HEALTH, LIVE, READY

LINGER_SECONDS: Final = 2.0
"""Seconds that a client may still send after its last answer."""

MAX_WAITING_BYTES: Final = 64 * 1024
"""Bytes of the next requests that wait for an answer; then reading pauses."""

MAX_DROPPED_BYTES: Final = 32 * 2**20
"""Maximum bytes of a body that are read and dropped: after its answer, to keep the
connection, or before it, on the connection of a trusted proxy.
"""

FIRST_REQUEST_SECONDS: Final = 0.5
"""Seconds that a stopping server waits for the first request of a new connection.

Its client was connected before this process stopped listening, and sends at once.
"""

UNREAD_SECONDS: Final = 0.01
"""Seconds between two looks whether the bytes that have arrived are read."""

REST_AT_STOP_SECONDS: Final = 1.0
"""Seconds that an answer of a stopping server waits for the rest of a body."""

STOPPED_SECONDS: Final = 2
"""``Retry-After`` of a request that came too late: another process listens by then."""

UNHEARD_METHODS: Final = frozenset({"GET", "HEAD"})
"""Methods that change nothing: without a client there is no reason to answer them."""

HEALTH_PATHS: Final = frozenset(path.encode() for path in (HEALTH, LIVE, READY))
"""Paths that are answered although there are too many connections."""


class HttpProtocol(asyncio.Protocol):
    """One connection until it ends or becomes a WebSocket."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
    ) -> None:
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = NOWHERE
        self._pace = Pace(NOWHERE, self._loop)
        self._timer = PhaseTimer(self._over, self._loop)
        self._incoming = Incoming()
        self._place: Place | None = None
        self._base: Scope = {}
        """Fields that the scopes of all requests share."""
        self._exchange: Exchange | None = None
        """The request until it is answered and its body has ended."""
        self._served = False
        """Whether there was a request on this connection."""
        self._reading = True
        self._draining = False

    def __repr__(self) -> str:
        return f"<HttpProtocol {self._timer!r} {self._incoming!r} {self._pace!r}>"

    # -- events of the transport -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place; a connection without one, or without a client, is cut."""
        self._transport = transport = cast(asyncio.Transport, transport)
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn calls only shutdown()
        client, server = get_remote_addr(transport), get_local_addr(transport)
        total = len(self._state.connections)
        self._place = self._connections.admit(client[0] if client else "", total, self._loop.time())
        gone = client is None and server is not None  # reset already: its request would count for no address
        if self._place is None or gone:
            transport.abort()
            return
        self._pace = Pace(transport, self._loop)
        self._base = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "server": server,
            "client": client,
            "scheme": "https" if is_ssl(transport) else "http",
            "root_path": self._config.root_path,
        }
        self.advance()

    def connection_lost(self, error: Exception | None) -> None:
        """Let everything learn of the end."""
        self._leave()
        self._timer.enter(Phase.END)
        self._incoming.take()
        if self._exchange is not None:
            self._exchange.disconnect()
            self._exchange = None
        self._pace.end()
        self._transport = NOWHERE

    def eof_received(self) -> None:
        """Close: a client that has shut its side down is taken for gone."""
        self._end()

    def pause_writing(self) -> None:
        """Let the answer wait (asyncio's callback)."""
        self._pace.pause()

    def resume_writing(self) -> None:
        """Go on with the answer, or with the next request (asyncio's callback)."""
        self._pace.resume()
        self.advance()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client (asyncio's callback)."""
        if self._timer.phase is not Phase.END:
            self._incoming.add(data)
            self.advance()

    # -- parts of requests -------------------------------------------------------------

    def advance(self) -> None:
        """Parse what may be parsed now, and wait for what comes next."""
        if self._timer.phase is Phase.END or self._transport.is_closing():
            return
        incoming = self._incoming
        try:
            while incoming.waiting:
                exchange = self._exchange
                if exchange is not None and not incoming.body.done:
                    size = incoming.waiting
                    exchange.body(incoming.content(), size=size, ended=incoming.body.done)
                    if exchange.complete and exchange.ended:
                        self._exchange = None
                    elif exchange.dropped > MAX_DROPPED_BYTES and exchange.give_up_rest():
                        self._end(LINGER_SECONDS)
                        return
                elif exchange is not None or self._pace.paused or (head := incoming.head()) is None:
                    break
                elif self._begin(head):
                    return
        except TryOnError as error:
            self.refuse(error)
            return
        self._wait()

    def _wait(self) -> None:
        """Start the timer of what the connection waits for; read or pause."""
        exchange, incoming = self._exchange, self._incoming
        if exchange is None:
            place = self._place
            seconds = None
            if place is not None and place.error is not None:
                seconds = RESERVED_SECONDS
            elif place is not None and place.proxied and not incoming.in_head:
                seconds = phases.PROXY_IDLE_SECONDS
            self._timer.enter(Phase.HEAD if incoming.in_head else Phase.IDLE, seconds=seconds)
        elif exchange.dropping:
            self._timer.enter(Phase.REST)
        else:
            line = incoming.body.unfinished_line
            self._timer.enter(Phase.LINE if line else Phase.ANSWER, line)
        full = incoming.waiting > MAX_WAITING_BYTES or (exchange is not None and exchange.pending > HIGH_WATER_BYTES)
        if full is self._reading:
            self._reading = not full
            (self._transport.pause_reading if full else self._transport.resume_reading)()

    def _over(self, phase: Phase) -> None:
        """Act at the end of a phase's time."""
        if phase is Phase.IDLE and not self._pace.unsent:
            self._end()
        elif phase is Phase.IDLE:  # a long answer is still on its way
            self._pace.watch()
            self._wait()
        elif phase is Phase.REST and (exchange := self._exchange) is not None:
            if exchange.is_slow() and exchange.give_up_rest():
                self._end(LINGER_SECONDS)
            else:
                self._wait()
        elif not self._reading:  # its rest waits in the kernel, for the application
            self._wait()
        else:
            self.refuse(TooLate("bad_request", f"The {phase.value} of the request was not complete in time."))

    # -- a request ---------------------------------------------------------------------

    def _begin(self, head: Head) -> bool:
        """Let the application answer; return whether the connection is gone from here.

        A reading request whose client has left is not begun: a process that is behind
        would spend its time on clients that no longer listen, and fall further behind.

        Raises BadRequest for an invalid upgrade, and the error of a reserved place.
        """
        self._served = True
        error = self._place.error if self._place is not None else None
        if error is not None and (head.websocket or head.path not in HEALTH_PATHS):
            raise error
        if head.method in UNHEARD_METHODS and has_left(self._transport):
            self._end()
            return True
        path = head.path.decode("ascii")
        scope: Scope = {
            **self._base,
            "http_version": head.version,
            "method": head.method,
            "path": self._config.root_path + (unquote(path) if "%" in path else path),
            "raw_path": self._config.root_path.encode() + head.path,
            "query_string": head.query,
            "headers": head.headers,
            "state": self._app_state.copy(),
        }
        if head.websocket:
            self._upgrade(head, scope)
            return True
        ended, proxied = self._incoming.body.done, self._place is not None and self._place.proxied
        self._exchange = Exchange(self, self._pace, self._state, head, scope, ended=ended, patient=proxied)
        task = self._loop.create_task(self._exchange.run(self._config.loaded_app))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)
        return False

    def _upgrade(self, head: Head, scope: Scope) -> None:
        """Hand a WebSocket handshake on. Raises BadRequest for an invalid one."""
        accept = accept_of(head)
        transport, early = self._transport, self._incoming.take()
        self._timer.enter(Phase.END)
        self._pace.end()
        self._transport = NOWHERE
        if not self._reading:
            transport.resume_reading()
        self._state.connections.discard(self)
        protocol: Any = self._config.ws_protocol_class
        if issubclass(protocol, Handshake):
            handshake = protocol(self._config, self._state, self._app_state, self._leave)
            handshake.begin(scope, accept, transport, early)
        else:
            self._leave()
            made = protocol(config=self._config, server_state=self._state, app_state=self._app_state)
            hand_over(made, head, transport, early)

    def _leave(self) -> None:
        """Leave the connections of the process and of the address."""
        self._state.connections.discard(self)
        place, self._place = self._place, None
        if place is not None:
            self._connections.leave(place)

    def keeps(self, exchange: Exchange) -> bool:
        """Return whether the connection stays open after this answer.

        A client that waits for ``100 Continue`` may send its body or another request
        now: nothing tells the two apart. A stopping server answers what has arrived.
        """
        last = self._draining and not self._incoming.waiting
        reserved = self._place is not None and self._place.error is not None
        return not (last or reserved or exchange.uninvited or self._incoming.body.left > MAX_DROPPED_BYTES)

    def answered(self) -> None:
        """Go on after the last byte of an answer."""
        exchange = self._exchange
        if exchange is None:
            return
        if not exchange.keep_alive:
            self._end(0.0 if self._incoming.body.done else LINGER_SECONDS)
            return
        if self._incoming.body.done:
            self._exchange = None
        self.advance()
        if self._draining and self._exchange is None:
            self._close_unless_asked(0.0)

    # -- the end of the connection -----------------------------------------------------

    def shutdown(self) -> None:
        """Answer a request that runs, has arrived or is about to, then close.

        The server calls this when it stops. An idle connection is closed at once, one
        without its first request after :data:`FIRST_REQUEST_SECONDS`.
        """
        if self._draining:
            return
        self._draining = True
        if self._exchange is None or self._exchange.complete:
            self._close_unless_asked(FIRST_REQUEST_SECONDS if not self._served or self._incoming.in_head else 0.0)
        elif self._exchange.started and not self._incoming.waiting:
            self._exchange.keep_alive = False
        elif self._exchange.dropping:
            self._loop.call_later(REST_AT_STOP_SECONDS, self._exchange.give_up_rest)

    def _close_unless_asked(self, patience: float) -> None:
        running = self._exchange is not None and not self._exchange.complete
        if self._timer.phase is Phase.END or running:
            return  # a request that runs has the last answer
        if patience or kernel_bytes(self._transport, termios.FIONREAD):
            self._loop.call_later(patience or UNREAD_SECONDS, self._close_unless_asked, 0.0)
        elif self._incoming.in_head:
            self.refuse(Unavailable(retry_after=STOPPED_SECONDS))
        else:
            self._end()

    def refuse(self, error: TryOnError) -> None:
        """Answer, unless another answer has begun, and close."""
        if self._timer.phase is Phase.END or self._transport.is_closing():
            return
        if self._exchange is None or not self._exchange.started:
            self._pace.write(refusal(error))
        self._end(LINGER_SECONDS)

    def _end(self, linger_seconds: float = 0.0) -> None:
        """Close as soon as the client has taken all bytes; cut one that is too slow.

        ``linger_seconds``: for how long it may still send. A request that runs learns
        that its client is gone.
        """
        self._timer.enter(Phase.END)
        self._incoming.take()
        if self._exchange is not None and not self._exchange.complete:
            self._exchange.disconnect()
        if not linger_seconds:
            self._transport.close()
        elif not self._transport.is_closing():
            with contextlib.suppress(OSError, RuntimeError):  # the client has gone
                self._transport.write_eof()
            if not self._reading:
                self._reading = True
                self._transport.resume_reading()
            self._loop.call_later(linger_seconds, self._end)
        self._pace.watch()
