"""The connections that follow all sessions of an owner, by the owner's channel.

A new session is named to them by three nets, as in :mod:`server.web.push.recovery`: a
message on the owner's channel; the sweep, which finds each ``created`` event; a check
of every owner's list once a minute. A session that is known already is not named twice:
:meth:`Watcher.announce` sees to that.

Events, progress and ends do not come this way. Each connection has a follower for each
session (:mod:`server.web.push.watch`), served as any other, so a session that is
followed by its own socket costs what it did before.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Collection
from typing import Final, Protocol

from server.adapters.database.reading import SessionReader
from server.adapters.redis.subscribing import Subscriber
from server.domain.owner_cursor import MAX_SESSIONS
from server.domain.session import valid_session_id
from server.telemetry import metrics
from server.web.push.follower import Follower
from server.web.push.pings import PingWheel
from tryon.protocol.errors import Unavailable

log = logging.getLogger("tryon.hub")

CHECK_SECONDS: Final = 60.0
"""Time between two checks of an owner's list."""

CHECK_BATCH: Final = 100
"""Maximum owners whose lists one statement reads."""

_watchers: Final = functools.cache(metrics.followers.labels)


class Watcher(Protocol):
    """One connection that follows all sessions of an owner.

    ``line``: its client, on the ping wheel as any follower.
    """

    @property
    def owner(self) -> str: ...
    @property
    def line(self) -> Follower: ...

    def announce(self, session_id: str) -> None:
        """Follow a session unless it is known already; a plain function."""


class Owners:
    """The registry of the watchers of one web process."""

    def __init__(
        self,
        *,
        channel: Callable[[str], str],
        subscriber: Subscriber,
        pings: PingWheel,
        reader: SessionReader,
    ) -> None:
        self._channel = channel
        self._subscriber = subscriber
        self._pings = pings
        self._reader = reader
        self._by_channel: dict[bytes, dict[Watcher, None]] = {}

    def __repr__(self) -> str:
        return f"<Owners owners={len(self._by_channel)} watchers={len(self)}>"

    def __len__(self) -> int:
        return sum(len(watchers) for watchers in self._by_channel.values())

    def add(self, watcher: Watcher, *, transport: str) -> asyncio.Future[None]:
        """Register, then subscribe; return a future of the confirmation."""
        channel = self._channel(watcher.owner).encode()
        self._by_channel.setdefault(channel, {})[watcher] = None
        self._pings.add(watcher.line)
        _watchers(transport).inc()
        return self._subscriber.subscribe(channel)

    def remove(self, watcher: Watcher, *, transport: str) -> None:
        """Forget a watcher; do nothing if that was done before."""
        channel = self._channel(watcher.owner).encode()
        watchers = self._by_channel.get(channel)
        if watchers is None or watcher not in watchers:
            return
        del watchers[watcher]
        self._pings.remove(watcher.line)
        _watchers(transport).dec()
        if not watchers:
            del self._by_channel[channel]
            self._subscriber.unsubscribe(channel)

    def count(self, owner: str) -> int:
        """Return how many connections an owner has here."""
        return len(self._by_channel.get(self._channel(owner).encode(), ()))

    def lines(self) -> list[Follower]:
        """Return the clients of all watchers."""
        return [watcher.line for watchers in self._by_channel.values() for watcher in watchers]

    def receive(self, channel: bytes, message: bytes) -> None:
        """Take a message of an owner's channel: the id of a new session."""
        watchers = self._by_channel.get(channel)
        if watchers is None:
            return
        session_id = message.decode("ascii", "replace")
        if not valid_session_id(session_id):
            log.warning("Ignored a message on the channel of an owner: %r", message[:40])
            return
        self._announce(watchers, session_id)

    def _announce(self, watchers: Collection[Watcher], session_id: str) -> None:
        for watcher in tuple(watchers):
            watcher.announce(session_id)

    async def created(self, session_ids: Collection[str]) -> None:
        """Name sessions whose ``created`` event the sweep found. Raises Unavailable."""
        if not self._by_channel or not session_ids:
            return
        for session_id, owner in (await self._reader.owners_of(session_ids)).items():
            self._announce(self._by_channel.get(self._channel(owner).encode(), ()), session_id)

    async def check_all(self) -> None:
        """Name the living sessions of all owners. Raises Unavailable."""
        for batch in self._batches():
            await self._check(batch)

    async def next_check(self) -> None:
        """Check every owner, spread over :data:`CHECK_SECONDS`.

        Raises Unavailable once all were tried; the next call checks them again.
        """
        failed: Unavailable | None = None
        batches = self._batches()
        for batch in batches:
            try:
                await self._check(batch)
            except Unavailable as error:
                failed = error
            await asyncio.sleep(CHECK_SECONDS / len(batches))
        if not batches:
            await asyncio.sleep(CHECK_SECONDS / 4)
        if failed is not None:
            raise failed

    async def _check(self, owners: Collection[str]) -> None:
        for owner, session_id in await self._reader.unfinished_of_owners(owners, limit=MAX_SESSIONS):
            self._announce(self._by_channel.get(self._channel(owner).encode(), ()), session_id)

    def _batches(self) -> list[list[str]]:
        owners = [next(iter(watchers)).owner for watchers in self._by_channel.values()]
        return [owners[start : start + CHECK_BATCH] for start in range(0, len(owners), CHECK_BATCH)]
