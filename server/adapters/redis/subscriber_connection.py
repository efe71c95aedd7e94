"""One connection that reads from Redis pub/sub: bytes in, replies out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import hiredis
from redis.exceptions import RedisError

from server.adapters.redis.connect import Login

log = logging.getLogger("tryon.bus")

LOAD_RATE: Final = 4000.0
"""Messages per second above which reads are batched."""

GATHER_SECONDS: Final = 0.002
"""Minimum time between two reads under that load.

A wake-up costs as much as passing on half a message; 40 messages share one at 20,000/s.
Below the load no message is delayed.
"""

LOAD_SECONDS: Final = 0.01
"""Time over which the load is measured, so that two messages at once are no load."""


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


class SubscriberConnection(asyncio.Protocol):
    """One subscriber connection: bytes in, parsed by hiredis, replies out.

    No per-message task, no per-message JSON.
    """

    def __init__(self, on_reply: Callable[[Any], None], on_lost: Callable[[SubscriberConnection], None]) -> None:
        self._reader = hiredis.Reader()
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._load = Load()
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None

    def __repr__(self) -> str:
        return f"<SubscriberConnection {'open' if self.transport and not self.transport.is_closing() else 'closed'}>"

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


class Greeting:
    """The first exchange on a connection: name, credentials, and a first answer."""

    def __init__(self, connection: SubscriberConnection, login: Login) -> None:
        self.connection = connection
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        commands: list[tuple[str, ...]] = [("CLIENT", "SETNAME", "tryon-subscriber"), ("PING",)]
        if login.password:
            given = (login.username, login.password) if login.username else (login.password,)
            commands.insert(0, ("AUTH", *given))
        self._waiting_for = [command[0] for command in commands]
        connection.send(*commands)

    def __repr__(self) -> str:
        return f"<Greeting waiting for {self._waiting_for}>"

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
