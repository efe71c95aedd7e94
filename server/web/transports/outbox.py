"""What waits to be sent to one client of a stream, bounded; and how many clients there
may be.

Sockets and event streams share both.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Iterator
from typing import Final

from server.config.settings import Config
from server.web.push.follower import Follower
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.errors import RateLimited, TryOnError, Unavailable
from tryon.protocol.frames import ByeFrame
from tryon.protocol.states import GoneReason

OUTBOX_FRAMES: Final = 256
"""Unsent frames of one client; more means it does not read: 4002."""

SEND_SECONDS: Final = 10.0
"""A client that does not take a frame for so long is closed with 4002."""

MAX_SEQ: Final = 2**31 - 1
"""Larger than any seq, and what both databases hold in an integer."""

RESERVED_FILES: Final = 512
"""Of the files that the process may have open, these are kept from streams: databases,
photos, plain requests.
"""

TOO_SLOW: Final = ByeFrame(CloseCode.TOO_SLOW, "too_slow", reconnect=True)


class Listener(Follower):
    """A client that is told by a ``bye`` and a close code why nothing more comes."""

    __slots__ = ()

    @abstractmethod
    def close(self, bye: ByeFrame) -> None:
        """Say this, then nothing more. The first reason counts."""

    def end(self, status: str) -> None:
        self.close(ByeFrame(CloseCode.DONE, status, reconnect=False))

    def gone(self, reason: GoneReason) -> None:
        self.close(ByeFrame(CloseCode.GONE, reason.value, reconnect=False))

    def drain(self, retry_after_ms: int) -> None:
        self.close(ByeFrame(CloseCode.DRAINING, "draining", reconnect=True, retry_after_ms=retry_after_ms))

    def broken(self, retry_after_ms: int) -> None:
        self.close(ByeFrame(CloseCode.RESYNC, "internal_error", reconnect=True))

    def too_old(self, retry_after_ms: int) -> None:
        self.close(ByeFrame(CloseCode.MAXIMUM_AGE, "maximum_age", reconnect=True, retry_after_ms=retry_after_ms))


class Outbox(Listener):
    """The unsent frames of one client, in order; at most one progress or ping waits,
    the newest.
    """

    __slots__ = ("_frames", "_last_is_replaceable", "_news", "bye")

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self._frames: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._last_is_replaceable = False
        self.bye: ByeFrame | None = None
        """Why nothing more comes; the first reason counts."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id} seq={self.seq} unsent={len(self._frames)} bye={self.bye}>"

    @property
    def idle(self) -> bool:
        return not self._frames

    def put(self, frame: bytes) -> None:
        """Must reach the client, or the client is closed."""
        if self.bye is not None:
            return
        if len(self._frames) >= OUTBOX_FRAMES:
            self.seq = None  # it was not given this
            self.close(TOO_SLOW)
            return
        self._frames.append(frame)
        self._last_is_replaceable = False
        self._news.set()

    def put_latest(self, frame: bytes) -> None:
        """Takes the place of the last one of its kind if that is still unsent."""
        if self._last_is_replaceable and self._frames:
            self._frames.pop()
        self.put(frame)
        self._last_is_replaceable = True

    def event(self, frame: bytes) -> None:
        self.put(frame)

    def progress(self, frame: bytes) -> None:
        self.put_latest(frame)

    def ping(self, frame: bytes) -> None:
        if self.idle:
            self.put_latest(frame)

    def close(self, bye: ByeFrame) -> None:
        """After what is unsent, say this and close."""
        if self.bye is None:
            self.bye = bye
            self._news.set()

    async def next(self) -> bytes | None:
        """The next frame; None: nothing more comes, see ``bye``."""
        while not self._frames:
            if self.bye is not None:
                return None
            self._news.clear()
            await self._news.wait()
        return self._frames.popleft()


class Places:
    """How many streams a process, an address and a session may have, and who has had
    one for too long.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._per_address: Counter[str] = Counter()
        self._taken = 0
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = soft - RESERVED_FILES if soft != resource.RLIM_INFINITY else config.sockets_per_process
        self._limit = max(1, min(config.sockets_per_process, files))

    def __repr__(self) -> str:
        return f"<Places taken={self._taken} of={self._limit} addresses={len(self._per_address)}>"

    @property
    def full(self) -> bool:
        return self._taken >= self._limit

    def refusal(self, address: str) -> TryOnError | None:
        """Why there is no place for one more client from this address."""
        if self.full:
            return Unavailable(retry_after=2)
        if self._per_address[address] >= self._config.sockets_per_address:
            return RateLimited(detail="Too many open connections from this address.", retry_after=5)
        return None

    def check_session(self, followers: int) -> None:
        """Raises RateLimited if a session that has so many followers may not have one
        more.

        To be asked after the credential was checked: a stranger must not learn that the
        session exists.
        """
        if followers >= self._config.sockets_per_session:
            raise RateLimited(detail="Too many open connections to this session.", retry_after=5)

    def take(self, address: str) -> None:
        self._taken += 1
        self._per_address[address] += 1

    def give_back(self, address: str) -> None:
        self._taken -= 1
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]

    @contextlib.contextmanager
    def taken(self, address: str) -> Iterator[None]:
        self.take(address)
        try:
            yield
        finally:
            self.give_back(address)


def ping_seconds(config: Config) -> int | float:
    """As the snapshot tells it: 25, not 25.0."""
    period = config.ping_seconds
    return int(period) if period == int(period) else period


def cursor_of(text: str | None) -> int | None:
    """A seq that a client gives as ``since`` or ``Last-Event-ID``; nonsense counts as
    0: everything is missed.
    """
    if text is None:
        return None
    return min(int(text), MAX_SEQ) if text.isascii() and text.isdigit() and len(text) < 20 else 0
