"""The one connection of a web process that reads from Redis pub/sub.

Guarantee: every message of a subscribed channel is handed over at most once, in the
order in which Redis sent it, by a plain function call. After channels had to wait for a
connection, ``on_restored`` says that messages may be missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import hiredis
from redis.exceptions import RedisError

from server.adapters.redis.connect import Login, login_of, open_stream
from server.system.randomness import Randomness
from server.telemetry import metrics

log = logging.getLogger("tryon.bus")

CONFIRM_SECONDS: Final = 0.2
"""Longest wait of a joining client for the confirmation of its subscription."""

CONNECT_SECONDS: Final = 1.0
"""Bound on a new subscriber connection and the first answer on it."""

LOAD_RATE: Final = 4000.0
"""Messages per second above which reads are batched."""

GATHER_SECONDS: Final = 0.002
"""Minimum time between two reads under that load.

A wake-up costs as much as passing on half a message; 40 messages share one at 20,000/s.
Below the load no message is delayed.
"""

LOAD_SECONDS: Final = 0.01
"""Time over which the load is measured, so that two messages at once are no load."""

_RESTORED: Final = b"restored"


class Load:
    """Decision whether messages arrive so fast that batched reads pay."""

    __slots__ = ("_count", "_since", "high")

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0
        self.high = False

    def __repr__(self) -> str:
        return f"<Load {'high' if self.high else 'low'}>"

    def note(self, count: int, now: float) -> bool:
        """Count messages received by ``now`` (seconds) and decide on the load.

        Return whether it is high; the decision is renewed every :data:`LOAD_SECONDS`.
        """
        self._count += count
        if (passed := now - self._since) >= LOAD_SECONDS:
            self.high = self._count >= LOAD_RATE * passed
            self._count, self._since = 0, now
        return self.high


class _Connection(asyncio.Protocol):
    """One subscriber connection: bytes in, parsed by hiredis, replies out.

    No per-message task, no per-message JSON.
    """

    def __init__(self, on_reply: Callable[[Any], None], on_lost: Callable[[_Connection], None]) -> None:
        self._reader = hiredis.Reader()
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._load = Load()
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None

    def __repr__(self) -> str:
        return f"<_Connection {'open' if self.transport and not self.transport.is_closing() else 'closed'}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are no subclasses of asyncio's

    def data_received(self, data: bytes) -> None:
        gets, on_reply = self._reader.gets, self._on_reply
        count = 0
        try:
            self._reader.feed(data)
            while (reply := gets()) is not False:
                count += 1
                try:
                    on_reply(reply)
                except Exception:
                    log.exception("Failed to handle a message from Redis")
        except hiredis.ProtocolError:
            log.exception("Received malformed RESP from Redis")
            self.abort()
        if self._load.note(count, self._loop.time()):
            self._gather()

    def _gather(self) -> None:
        """Pause reading, so that messages of the next moment share one read.

        The pause is measured from the start of this turn of the loop: a loop that is
        busy anyway does not pause.
        """
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._loop.call_later(GATHER_SECONDS, self._read_on)

    def _read_on(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._on_lost(self)

    def send(self, *commands: tuple[Any, ...]) -> None:
        if self.transport is not None:
            self.transport.write(b"".join(hiredis.pack_command(command) for command in commands))

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Greeting:
    """The first exchange on a connection: name, credentials, and a first answer."""

    def __init__(self, connection: _Connection, login: Login) -> None:
        self.connection = connection
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        commands: list[tuple[str, ...]] = [("CLIENT", "SETNAME", "tryon-subscriber"), ("PING",)]
        if login.password:
            given = (login.username, login.password) if login.username else (login.password,)
            commands.insert(0, ("AUTH", *given))
        self._waiting_for = [command[0] for command in commands]
        connection.send(*commands)

    def __repr__(self) -> str:
        return f"<_Greeting waiting for {self._waiting_for}>"

    def reply(self, reply: Any) -> None:
        command = self._waiting_for.pop(0) if self._waiting_for else "PING"
        if self.answered.done():
            return
        # A refused CLIENT SETNAME is no error: the name only helps an operator, and a
        # user of Redis may lack the right to it.
        if isinstance(reply, hiredis.ReplyError) and command != "CLIENT":
            self.answered.set_exception(RedisError(str(reply)))
        elif not self._waiting_for:
            self.answered.set_result(None)

    def lost(self) -> None:
        if not self.answered.done():
            self.answered.set_exception(ConnectionResetError("Redis closed the connection"))


class RedisSubscriber:
    """The one reading connection of a web process.

    ``on_message(channel, payload)`` is a plain function, called for every message in
    order. ``on_restored()`` is called when a new connection, the first one too, has
    subscribed every channel that was wanted before: messages published meanwhile are
    lost, so the caller reads the state. SUBSCRIBE and UNSUBSCRIBE of one loop tick
    travel together.
    """

    BATCH: Final = 500
    """Channels per SUBSCRIBE command after a reconnect."""

    STEADY_SECONDS: Final = 1.0
    """Life of a connection that ends an outage: the next loss starts with a quick
    reconnect and a log line.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_restored: Callable[[], None],
        randomness: Randomness,
    ) -> None:
        self._url = redis_url
        self._randomness = randomness
        self._on_message = on_message
        self._on_restored = on_restored
        self._wanted: dict[bytes, asyncio.Future[None]] = {}
        self._confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """The future that all confirmed channels share: 10,000 would take 2 MB."""
        self._confirmed.set_result(None)
        self._stale: dict[bytes, int] = {}
        """channel -> the number of confirmations that are still to come on this
        connection for subscriptions that were given up
        """
        self._outgoing: dict[bytes, bool] = {}
        """channel -> subscribe (True) or unsubscribe, to be sent at the end of this
        tick
        """
        self._connection: _Connection | None = None
        self._greeting: _Greeting | None = None
        self._lost = asyncio.Event()
        self._delay = 0.0
        self._complained = False
        """Whether this outage has its line in the log."""
        self._task: asyncio.Task[None] | None = None
        self.connections = 0
        """How many connections there have been; the current one's number while
        :attr:`up`.
        """

    def __repr__(self) -> str:
        return f"<RedisSubscriber {'up' if self.up else 'down'} channels={len(self._wanted)}>"

    @property
    def up(self) -> bool:
        """Return whether the connection is usable."""
        return self._connection is not None

    async def __aenter__(self) -> RedisSubscriber:
        self._task = asyncio.create_task(self._keep_connected(), name="redis-subscriber")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._connection is not None:
            self._connection.abort()
        _settle(self._wanted.values())

    def subscribe(self, channel: bytes) -> asyncio.Future[None]:
        """Subscribe to a channel and return a future for the confirmation.

        It is done when Redis has confirmed, at the latest :data:`CONFIRM_SECONDS` after
        the call, and when the channel is unsubscribed. Several callers may share one
        future: shield it.
        """
        future = self._wanted.get(channel)
        if future is None:
            future = self._wanted[channel] = asyncio.get_running_loop().create_future()
            self._later(channel, True)
        return future

    def unsubscribe(self, channel: bytes) -> None:
        """Give a channel up."""
        future = self._wanted.pop(channel, None)
        if future is not None:
            _settle((future,))
            if future is not self._confirmed and channel not in self._outgoing and self._connection is not None:
                self._stale[channel] = self._stale.get(channel, 0) + 1
            self._later(channel, False)

    def reconnect(self) -> None:
        """Drop a connection that is up but delivers nothing."""
        if self._connection is not None:
            self._connection.abort()

    def _later(self, channel: bytes, subscribe: bool) -> None:
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing[channel] = subscribe

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, {}
        self._settle_later(outgoing)
        if self._connection is None:
            return  # the next connection subscribes to all that is wanted
        subscribe = [channel for channel, wanted in outgoing.items() if wanted]
        unsubscribe = [channel for channel, wanted in outgoing.items() if not wanted]
        if unsubscribe:
            self._connection.send((b"UNSUBSCRIBE", *unsubscribe))
        if subscribe:
            self._connection.send((b"SUBSCRIBE", *subscribe))

    def _settle_later(self, channels: Iterable[bytes]) -> None:
        asked = [
            future for channel in channels if (future := self._wanted.get(channel)) is not None and not future.done()
        ]
        if asked:
            asyncio.get_running_loop().call_later(CONFIRM_SECONDS, _settle, asked)

    def _reply(self, reply: Any) -> None:
        if type(reply) is list and len(reply) == 3:
            kind = reply[0]
            if kind == b"message":
                self._on_message(reply[1], reply[2])
            elif kind == b"subscribe":
                self._confirm(reply[1])
        elif type(reply) is list and reply[:2] == [b"pong", _RESTORED]:
            self._on_restored()
        elif self._greeting is not None:
            self._greeting.reply(reply)
        elif isinstance(reply, hiredis.ReplyError):
            self._complain("Redis refused a command of the subscriber, reconnecting: %s", reply)
            self.reconnect()

    def _confirm(self, channel: bytes) -> None:
        """Settle the future of a channel, if it is its SUBSCRIBE that was confirmed.

        Redis answers in order, so the ones that were given up are confirmed first.
        """
        if stale := self._stale.pop(channel, 0):
            if stale > 1:
                self._stale[channel] = stale - 1
        elif (future := self._wanted.get(channel)) is not None:
            _settle((future,))
            self._wanted[channel] = self._confirmed

    def _connection_lost(self, connection: _Connection) -> None:
        if connection is self._connection:
            self._connection = None
            metrics.bus_up.set(0)
            self._lost.set()
        elif self._greeting is not None and connection is self._greeting.connection:
            self._greeting.lost()

    async def _keep_connected(self) -> None:
        """Reconnect quickly after one loss, once a second after repeated ones."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection = await self._connect()
            except Exception as error:  # of any kind: an end of this task would end all retries
                self._complain("Redis subscriber cannot connect, retrying: %s", str(error) or repr(error))
            else:
                self._lost.clear()
                self._adopt(connection)
                since = loop.time()
                await self._lost.wait()
                metrics.bus_reconnects.inc()
                if loop.time() - since >= self.STEADY_SECONDS:
                    self._delay, self._complained = 0.0, False
                self._complain("Redis subscriber lost its connection, reconnecting")
            await asyncio.sleep(max(0.05, self._delay) * self._randomness.uniform(0.5, 1))
            self._delay = min(1.0, self._delay * 2 or 0.05)

    def _complain(self, text: str, *values: object) -> None:
        """Log the first line of an outage as a warning, further ones for debugging."""
        log.log(logging.DEBUG if self._complained else logging.WARNING, text, *values)
        self._complained = True

    def _adopt(self, connection: _Connection) -> None:
        """Use a new connection and subscribe to every wanted channel.

        A plain function: no subscription may slip in between.
        """
        self._connection = connection
        metrics.bus_up.set(1)
        self._outgoing.clear()
        self._stale.clear()
        channels = list(self._wanted)
        self._settle_later(channels)
        for start in range(0, len(channels), self.BATCH):
            connection.send((b"SUBSCRIBE", *channels[start : start + self.BATCH]))
        if channels:  # of the first connection too: it may have come late
            connection.send((b"PING", _RESTORED))  # answered after the last confirmation
        self.connections += 1
        if connection.transport is None or connection.transport.is_closing():
            self._connection_lost(connection)

    async def _connect(self) -> _Connection:
        def protocol() -> _Connection:
            return _Connection(self._reply, self._connection_lost)

        connection: _Connection | None = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await open_stream(self._url, protocol)
                self._greeting = _Greeting(connection, login_of(self._url))
                await self._greeting.answered
        except BaseException:
            if connection is not None:
                connection.abort()
            raise
        finally:
            self._greeting = None
        return connection


def _settle(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
