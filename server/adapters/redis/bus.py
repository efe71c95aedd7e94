"""News through Redis pub/sub: published after the commit, read by one connection per
web process.

Guarantee: at most once, in order per session and publisher, to processes that are
subscribed at that moment, and nothing more. The database is the truth; whoever may have
missed something reads it there (:mod:`server.web.push.hub`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import re
import socket
import ssl
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import hiredis
import msgspec
from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import RedisError, ResponseError

from server.adapters.redis.breaker import Breaker
from server.domain.session import Progress, valid_session_id
from server.telemetry import metrics

log = logging.getLogger("tryon.bus")

PROGRESS_SECONDS: Final = 900
"""How long the last progress of a session is kept for late joiners; longer than any
deadline is useless.
"""

# Keeps the newest word only: (attempt, seq) must not go back, so a fenced-out worker
# changes nothing; of an erased session nothing, whose worker may not know it yet. Then
# publishes.
_PROGRESS_SCRIPT: Final = """
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
local at = tonumber(ARGV[1]) * 10000000000 + tonumber(ARGV[2])
local held = redis.call('HGET', KEYS[1], 'at')
if held and tonumber(held) > at then return 0 end
redis.call('HSET', KEYS[1], 'at', string.format('%.0f', at), 'progress', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('PUBLISH', KEYS[2], ARGV[4])
return 1
"""

# Whether something was erased since the last rewrite, which was not just now. One of
# all who ask is told so.
_REWRITE_SCRIPT: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if not redis.call('SET', KEYS[2], 1, 'NX', 'EX', ARGV[1]) then return 0 end
return redis.call('DEL', KEYS[1])
"""

REWRITE_SECONDS: Final = 45
"""At least so long between two rewrites of the append-only file."""

ERASED_SECONDS: Final = 120
"""How long Redis refuses the progress of an erased session, which it remembers as a
hash.
"""

CONFIRM_SECONDS: Final = 0.2
"""How long who joins waits for Redis to confirm the subscription."""

CONNECT_SECONDS: Final = 2.0
"""For a new subscriber connection and the first answer on it."""

LOAD_RATE: Final = 4000.0
"""Messages a second from which on their reading is gathered."""

GATHER_SECONDS: Final = 0.002
"""Under that load Redis is read at most once in this time.

A wake-up costs as much as passing on half a message; 40 messages share one then
(20,000/s). Below it news is never held up.
"""

LOAD_SECONDS: Final = 0.01
"""Over which the load is measured: two messages that happen to come together are none.
"""

_RESTORED: Final = b"restored"

_decode_progress: Final = msgspec.json.Decoder(Progress).decode

_AWAY = (RedisError, OSError, TimeoutError)

PUBLISH_SECONDS: Final = 0.3
"""How long a transition waits for its news to be taken.

The reconciler tells many in turn, and each within 2 s of its time.
"""


def glob_escape(text: str) -> str:
    """For Redis's ``MATCH``."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)


class RedisBus:
    """The publishing side.

    Losing Redis loses news, never state: every method says so by its return value, at
    the latest after :data:`PUBLISH_SECONDS`, and at once while Redis is known to be
    silent.
    """

    def __init__(self, redis: Redis, *, key_prefix: str) -> None:
        self._redis = redis
        self._prefix = key_prefix
        self._breaker = Breaker(PUBLISH_SECONDS)
        self._progress_script = redis.register_script(_PROGRESS_SCRIPT)
        self._rewrite_script = redis.register_script(_REWRITE_SCRIPT)
        self._unrewritten_key = f"{key_prefix}unrewritten"
        self._may_rewrite = True

    def channel(self, session_id: str) -> str:
        return f"{self._prefix}session:{session_id}"

    def _progress_key(self, session_id: str) -> str:
        return f"{self._prefix}progress:{session_id}"

    def _erased_key(self, session_id: str) -> str:
        return f"{self._prefix}erased:{hashlib.sha256(session_id.encode()).hexdigest()[:32]}"

    async def publish(self, session_id: str, message: bytes) -> bool:
        """One bus message on the session's channel.

        False: Redis is away, the sweep will tell.
        """
        try:
            async with self._breaker.call():
                await self._redis.publish(self.channel(session_id), message)
        except _AWAY:
            metrics.publish_failures.inc()
            return False
        return True

    async def publish_progress(self, session_id: str, progress: Progress, message: bytes) -> bool:
        """Keep it as the latest word and publish it, unless a newer (attempt, seq) has
        spoken.
        """
        try:
            async with self._breaker.call():
                stored = await self._progress_script(
                    keys=[self._progress_key(session_id), self.channel(session_id), self._erased_key(session_id)],
                    args=[progress.attempt, progress.seq, msgspec.json.encode(progress), message, PROGRESS_SECONDS],
                )
        except _AWAY:
            return False
        return bool(stored)

    async def last_progress(self, session_ids: Collection[str]) -> dict[str, Progress]:
        """The latest word about each, for those who join late, in one round trip.

        Empty while Redis is away.
        """
        if not session_ids:
            return {}
        found: dict[str, Progress] = {}
        try:
            async with self._breaker.call(), self._redis.pipeline(transaction=False) as pipe:
                for session_id in session_ids:
                    pipe.hget(self._progress_key(session_id), "progress")
                for session_id, held in zip(session_ids, await pipe.execute(), strict=True):
                    if held:
                        found[session_id] = _decode_progress(held)
        except (*_AWAY, msgspec.MsgspecError):
            return {}
        return found

    async def forget(self, session_ids: Collection[str]) -> bool:
        """Delete what Redis still knows of erased sessions, and let it learn no more.

        False: it is away, or full; then it has deleted what it knew, but may learn more
        when it has room again.

        No transaction: a full Redis refuses one as a whole if it adds anything.
        """
        if not session_ids:
            return True
        try:
            async with self._breaker.call(), self._redis.pipeline(transaction=False) as pipe:
                for session_id in session_ids:
                    pipe.set(self._erased_key(session_id), 1, ex=ERASED_SECONDS)
                    pipe.delete(self._progress_key(session_id))
                pipe.set(self._unrewritten_key, 1)
                await pipe.execute()
        except _AWAY:
            return False
        return True

    async def remembered(self) -> set[str]:
        """The ids of all sessions that Redis keeps a last word of.

        It looks at every key there is. Empty while it is away.
        """
        prefix = self._progress_key("")
        found: set[str] = set()
        with contextlib.suppress(*_AWAY):
            async for key in self._redis.scan_iter(match=f"{glob_escape(prefix)}*", count=1000):
                found.add(str(key, "utf-8", "replace").removeprefix(prefix))
        return {id for id in found if valid_session_id(id)}

    async def rewrite_log(self) -> bool:
        """Let Redis write its append-only file anew if something was erased since: the
        old one still tells of it. At most once in :data:`REWRITE_SECONDS`, by whichever
        process asks first. Returns whether it was begun.

        A Redis without such a file has nothing to rewrite, and one that does not let us
        is left alone.
        """
        keys = [self._unrewritten_key, f"{self._prefix}rewritten"]
        try:
            async with self._breaker.call():
                if not self._may_rewrite or not await self._rewrite_script(keys=keys, args=[REWRITE_SECONDS]):
                    return False
                if not (await self._redis.info("persistence")).get("aof_enabled"):
                    return False
                try:
                    await self._redis.bgrewriteaof()  # type: ignore[no-untyped-call]  # redis-py 5
                except ResponseError as error:
                    if "in progress" not in str(error):
                        raise
                    await self._redis.set(self._unrewritten_key, 1)  # what runs may have begun before the erasure
                    return False
        except ResponseError as error:
            self._may_rewrite = False
            log.info(
                "Redis does not let us rewrite its append-only file; what it keeps there is yours to decide: %s", error
            )
            return False
        except _AWAY:
            return False
        return True

    async def probe(self, channel: str, payload: bytes) -> int | None:
        """How many subscribers it was sent to; None:

        Redis is away. Asks also while it is thought to be silent: an answer ends that.
        """
        try:
            async with self._breaker.call(anyway=True):
                return int(await self._redis.publish(channel, payload))
        except _AWAY:
            return None


class Load:
    """Whether news comes so fast that reading it in batches pays."""

    __slots__ = ("_count", "_since", "high")

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0
        self.high = False

    def note(self, count: int, now: float) -> bool:
        """``count`` more messages by ``now`` (seconds); whether the load is high,
        judged anew every :data:`LOAD_SECONDS`.
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are no subclasses of asyncio's
        connected = transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:  # a Redis that is gone without a word is found by the kernel too
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

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
                    log.exception("A message from Redis could not be handled")
        except hiredis.ProtocolError:
            log.exception("Redis sent something that is not RESP")
            self.abort()
        if self._load.note(count, self._loop.time()):
            self._gather()

    def _gather(self) -> None:
        """Let what comes in the next moment wait for one common read.

        The time runs from when this read's turn of the loop began, so a loop that is
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
    """What is said on a new connection before it is used: who we are, and that Redis
    answers at all.
    """

    def __init__(self, connection: _Connection, *, username: str | None, password: str | None) -> None:
        self.connection = connection
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        commands: list[tuple[str, ...]] = [("CLIENT", "SETNAME", "tryon-subscriber"), ("PING",)]
        if password:
            commands.insert(0, ("AUTH", username, password) if username else ("AUTH", password))
        self._waiting_for = [command[0] for command in commands]
        connection.send(*commands)

    def reply(self, reply: Any) -> None:
        command = self._waiting_for.pop(0) if self._waiting_for else "PING"
        if self.answered.done():
            return
        if (
            isinstance(reply, hiredis.ReplyError) and command != "CLIENT"
        ):  # a name is for those who look; some may have none
            self.answered.set_exception(RedisError(str(reply)))
        elif not self._waiting_for:
            self.answered.set_result(None)

    def lost(self) -> None:
        if not self.answered.done():
            self.answered.set_exception(ConnectionResetError("Redis closed the connection"))


class RedisSubscriber:
    """The one reading connection of a web process.

    ``on_message(channel, payload)`` is called in a plain function for every message, in
    order. ``on_restored()`` is called after a lost connection is back and every channel
    is subscribed again: what was published meanwhile is lost, so the caller reads the
    state. SUBSCRIBE and UNSUBSCRIBE of one loop tick travel together.
    """

    BATCH: Final = 500
    """Channels per SUBSCRIBE command when all are subscribed again."""

    STEADY_SECONDS: Final = 1.0
    """A connection that lives so long ends an outage: the next one begins with a quick
    reconnect and a line in the log.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_restored: Callable[[], None],
    ) -> None:
        self._url = redis_url
        self._on_message = on_message
        self._on_restored = on_restored
        self._wanted: dict[bytes, asyncio.Future[None]] = {}
        self._confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """One for all channels that are: of 10,000 they would be 2 MB."""
        self._confirmed.set_result(None)
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
        """Want a channel; the future is done when Redis has confirmed it, at the latest
        :data:`CONFIRM_SECONDS` after it was asked, and when nobody wants it any more.
        Several may get the same one: shield it.
        """
        future = self._wanted.get(channel)
        if future is None:
            future = self._wanted[channel] = asyncio.get_running_loop().create_future()
            self._later(channel, True)
        return future

    def unsubscribe(self, channel: bytes) -> None:
        future = self._wanted.pop(channel, None)
        if future is not None:
            _settle((future,))
            self._later(channel, False)

    def reconnect(self) -> None:
        """Drop a connection that is up but deaf."""
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
            elif kind == b"subscribe" and (future := self._wanted.get(reply[1])) is not None:
                _settle((future,))
                self._wanted[reply[1]] = self._confirmed
        elif type(reply) is list and reply[:2] == [b"pong", _RESTORED]:
            self._on_restored()
        elif self._greeting is not None:
            self._greeting.reply(reply)
        elif isinstance(reply, hiredis.ReplyError):
            self._complain("Redis refused the subscriber: %s", reply)
            self.reconnect()

    def _connection_lost(self, connection: _Connection) -> None:
        if connection is self._connection:
            self._connection = None
            metrics.bus_up.set(0)
            self._lost.set()
        elif self._greeting is not None and connection is self._greeting.connection:
            self._greeting.lost()

    async def _keep_connected(self) -> None:
        """Quickly back after one cut; but who is refused again and again asks only once
        a second.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection = await self._connect()
            except Exception as error:  # whatever it is, nobody else would try again
                self._complain(
                    "The subscriber cannot connect to Redis and goes on trying: %s", str(error) or repr(error)
                )
            else:
                self._lost.clear()
                self._adopt(connection)
                since = loop.time()
                await self._lost.wait()
                metrics.bus_reconnects.inc()
                if loop.time() - since >= self.STEADY_SECONDS:
                    self._delay, self._complained = 0.0, False
                self._complain("The subscriber connection to Redis was lost; connecting again")
            await asyncio.sleep(max(0.05, self._delay) * random.uniform(0.5, 1))
            self._delay = min(1.0, self._delay * 2 or 0.05)

    def _complain(self, text: str, *values: object) -> None:
        """Once in an outage; what follows is for those who look closer."""
        log.log(logging.DEBUG if self._complained else logging.WARNING, text, *values)
        self._complained = True

    def _adopt(self, connection: _Connection) -> None:
        """Plain function: no subscription may slip in between.

        Everything wanted is subscribed on the new connection.
        """
        self._connection = connection
        metrics.bus_up.set(1)
        self._outgoing.clear()
        channels = list(self._wanted)
        self._settle_later(channels)
        for start in range(0, len(channels), self.BATCH):
            connection.send((b"SUBSCRIBE", *channels[start : start + self.BATCH]))
        if self.connections:
            connection.send((b"PING", _RESTORED))  # answered after the last confirmation
        self.connections += 1
        if connection.transport is None or connection.transport.is_closing():
            self._connection_lost(connection)

    async def _connect(self) -> _Connection:
        settings: dict[str, Any] = dict(parse_url(self._url))
        loop = asyncio.get_running_loop()

        def protocol() -> _Connection:
            return _Connection(self._reply, self._connection_lost)

        connection: _Connection | None = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if path := settings.get("path"):
                    _, connection = await loop.create_unix_connection(protocol, path)
                else:
                    host, port = settings.get("host", "localhost"), int(settings.get("port", 6379))
                    _, connection = await loop.create_connection(protocol, host, port, ssl=_tls(settings))
                self._greeting = _Greeting(
                    connection, username=settings.get("username"), password=settings.get("password")
                )
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


def _tls(settings: dict[str, Any]) -> ssl.SSLContext | None:
    """As the publishing side has it:

    ``ssl_ca_certs``, ``ssl_cert_reqs``, ``ssl_check_hostname`` and the others of the
    URL.
    """
    if not issubclass(settings.get("connection_class", object), SSLConnection):
        return None
    ours = {name: value for name, value in settings.items() if name.startswith("ssl_")}
    context: ssl.SSLContext = SSLConnection(**ours).ssl_context.get()
    return context
