"""The one connection of a web process that reads from Redis pub/sub.

Guarantee: every message of a subscribed channel is handed over at most once, in the
order in which Redis sent it, by a plain function call. After channels had to wait for a
connection, ``on_restored`` says that messages may be missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import hiredis

from server.adapters.redis.connect import login_of, open_stream
from server.adapters.redis.subscriber_connection import Greeting, SubscriberConnection
from server.config.redis_url import Node
from server.system.randomness import Randomness
from server.telemetry import metrics

log = logging.getLogger("tryon.bus")

CONFIRM_SECONDS: Final = 0.2
"""Longest wait of a joining client for the confirmation of its subscription."""

CONNECT_SECONDS: Final = 1.0
"""Bound on a new subscriber connection and the first answer on it."""

RESTORED: Final = b"restored"
"""The text of a PING that follows the subscriptions of a new connection."""


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
        node: Node | None = None,
    ) -> None:
        self._url = redis_url
        self._node = node
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
        self._connection: SubscriberConnection | None = None
        self._greeting: Greeting | None = None
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
        settle(self._wanted.values())

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
            settle((future,))
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
            self._connection.send(*self._commands(unsubscribe, subscribe=False))
        if subscribe:
            self._connection.send(*self._commands(subscribe))

    def _commands(self, channels: Sequence[bytes], *, subscribe: bool = True) -> Iterator[tuple[bytes, ...]]:
        """Return the commands that subscribe to channels, or unsubscribe."""
        for start in range(0, len(channels), self.BATCH):
            yield (b"SUBSCRIBE" if subscribe else b"UNSUBSCRIBE", *channels[start : start + self.BATCH])

    def _settle_later(self, channels: Iterable[bytes]) -> None:
        asked = [
            future for channel in channels if (future := self._wanted.get(channel)) is not None and not future.done()
        ]
        if asked:
            asyncio.get_running_loop().call_later(CONFIRM_SECONDS, settle, asked)

    def _reply(self, reply: Any) -> None:
        if type(reply) is list and len(reply) == 3:
            kind = reply[0]
            if kind == b"message":
                self._on_message(reply[1], reply[2])
            elif kind == b"subscribe":
                self._confirm(reply[1])
        elif type(reply) is list and reply[:2] == [b"pong", RESTORED]:
            self._on_restored()
        elif self._greeting is not None:
            self._greeting.reply(reply)
        elif isinstance(reply, hiredis.ReplyError):
            self._refused(reply)

    def _refused(self, reply: hiredis.ReplyError) -> None:
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
            settle((future,))
            self._wanted[channel] = self._confirmed

    def _connection_lost(self, connection: SubscriberConnection) -> None:
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

    def _adopt(self, connection: SubscriberConnection) -> None:
        """Use a new connection and subscribe to every wanted channel.

        A plain function: no subscription may slip in between.
        """
        self._connection = connection
        metrics.bus_up.set(1)
        self._outgoing.clear()
        self._stale.clear()
        channels = list(self._wanted)
        self._settle_later(channels)
        if channels:  # of the first connection too: it may have come late
            # The PING is answered after the last confirmation.
            connection.send(*self._commands(channels), (b"PING", RESTORED))
        self.connections += 1
        if connection.transport is None or connection.transport.is_closing():
            self._connection_lost(connection)

    async def _connect(self) -> SubscriberConnection:
        def protocol() -> SubscriberConnection:
            return SubscriberConnection(self._reply, self._connection_lost)

        connection: SubscriberConnection | None = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await open_stream(self._url, protocol, node=self._node)
                self._greeting = Greeting(connection, login_of(self._url))
                await self._greeting.answered
        except BaseException:
            if connection is not None:
                connection.abort()
            raise
        finally:
            self._greeting = None
        return connection


def settle(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
