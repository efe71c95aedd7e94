"""The reading side in a cluster: a connection to each master, channels by their slots.

Theory of operation
-------------------

Sharded pub/sub delivers a channel's messages at the master of its slot alone. So each
master has a :class:`ShardSubscriber`, which is a
:class:`~server.adapters.redis.subscriber.RedisSubscriber` with other commands, and
:class:`ClusterSubscriber` decides which channel belongs where. It looks at the map of
the cluster every second, at one node in turn while all is well, and at all of them when
anything is not: a node answered ``MOVED``, told that a slot has left it, hangs or is
gone. Channels whose slots have moved are subscribed to at their new master, and
``on_restored`` says, as after any lost connection, that messages may be missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import hiredis

from server.adapters.redis.cluster import slot_of
from server.adapters.redis.errors import UNAVAILABLE
from server.adapters.redis.subscriber import CONFIRM_SECONDS, CONNECT_SECONDS, RESTORED, RedisSubscriber, settle
from server.adapters.redis.subscriber_connection import SubscriberConnection
from server.adapters.redis.topology import Nodes, Topology
from server.config.redis_url import Node, parse_redis_url
from server.system.randomness import Randomness
from server.telemetry import metrics

log = logging.getLogger("tryon.bus")

WATCH_SECONDS: Final = 1.0
"""Time between two looks at the map, and between two questions whether a node lives."""

TROUBLE_SECONDS: Final = 0.25
"""The same while a node is gone."""

_REDIRECTIONS: Final = ("MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN")


class ShardSubscriber(RedisSubscriber):
    """The subscriber at one master. ``on_moved`` is called when the map has changed."""

    def __init__(
        self,
        redis_url: str,
        node: Node,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_restored: Callable[[], None],
        on_moved: Callable[[], None],
        randomness: Randomness,
    ) -> None:
        super().__init__(redis_url, on_message=on_message, on_restored=on_restored, randomness=randomness, node=node)
        self._on_moved = on_moved
        self._leaving: dict[bytes, int] = {}
        """channel -> the number of answers to our own SUNSUBSCRIBE still to come"""
        self._asked = False
        """Whether a question if the node lives has no answer yet."""
        self._unconfirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """A future that is done, of channels no client waits for any more."""
        self._unconfirmed.set_result(None)

    def __repr__(self) -> str:
        return f"<ShardSubscriber {self._node} {'up' if self.up else 'down'} channels={len(self._wanted)}>"

    @property
    def channels(self) -> Mapping[bytes, asyncio.Future[None]]:
        """Return the wanted channels, with the futures of their confirmations."""
        return self._wanted

    def take(self, channels: Mapping[bytes, asyncio.Future[None]]) -> None:
        """Subscribe to channels that had another home; then call ``on_restored``."""
        for channel, future in channels.items():
            self._wanted[channel] = self._unconfirmed if future.done() else future
            self._later(channel, True)
        asyncio.get_running_loop().call_soon(self._announce)

    def release(self, channel: bytes) -> asyncio.Future[None]:
        """Give a channel up to another shard; return its future as it is."""
        self._later(channel, False)
        return self._wanted.pop(channel)

    def subscribe_again(self) -> None:
        """Repeat every subscription that was not confirmed."""
        missing = {channel: future for channel, future in self._wanted.items() if future is not self._confirmed}
        if missing and self.up:
            self.take(missing)

    def check(self) -> None:
        """Ask whether the node lives; give the connection up if it did not answer."""
        if self._connection is None:
            return
        if self._asked:
            self._complain("Redis node is silent, reconnecting")
            self.reconnect()
        else:
            self._asked = True
            self._connection.send((b"PING", b"alive"))

    def _announce(self) -> None:
        if self._connection is not None:
            self._connection.send((b"PING", RESTORED))

    def _commands(self, channels: Sequence[bytes], *, subscribe: bool = True) -> Iterator[tuple[bytes, ...]]:
        """Return a command for each channel: those of one command must share a slot."""
        for channel in channels:
            if not subscribe:
                self._leaving[channel] = self._leaving.get(channel, 0) + 1
            yield (b"SSUBSCRIBE" if subscribe else b"SUNSUBSCRIBE", channel)

    def _reply(self, reply: Any) -> None:
        self._asked = False
        if type(reply) is list and len(reply) == 3:
            kind = reply[0]
            if kind == b"smessage":
                self._on_message(reply[1], reply[2])
                return
            if kind == b"ssubscribe":
                self._confirm(reply[1])
                return
            if kind == b"sunsubscribe":
                self._left(reply[1])
                return
        super()._reply(reply)

    def _left(self, channel: bytes) -> None:
        """Take the end of a subscription: our own command, or its slot has moved."""
        if count := self._leaving.pop(channel, 0):
            if count > 1:
                self._leaving[channel] = count - 1
        elif channel in self._wanted:
            self._wanted[channel] = self._unconfirmed
            self._on_moved()

    def _refused(self, reply: hiredis.ReplyError) -> None:
        if str(reply).startswith(_REDIRECTIONS):
            self._on_moved()
        else:
            super()._refused(reply)

    def _adopt(self, connection: SubscriberConnection) -> None:
        self._leaving.clear()
        self._asked = False
        for channel, future in self._wanted.items():
            if future is self._confirmed:
                self._wanted[channel] = self._unconfirmed
        super()._adopt(connection)

    def _connection_lost(self, connection: SubscriberConnection) -> None:
        super()._connection_lost(connection)
        self._on_moved()


class ClusterSubscriber:
    """The subscriber of a web process in a cluster; see ``subscribing.Subscriber``."""

    def __init__(
        self,
        redis_url: str,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_restored: Callable[[], None],
        randomness: Randomness,
    ) -> None:
        self._url = redis_url
        self._on_message = on_message
        self._on_restored = on_restored
        self._randomness = randomness
        self._nodes = Nodes(parse_redis_url(redis_url), socket_seconds=CONNECT_SECONDS)
        self._topology = Topology(self._nodes)
        self._version = 0
        """The version of the map by which the channels have their homes."""
        self._shards: dict[Node, ShardSubscriber] = {}
        self._homeless: dict[bytes, asyncio.Future[None]] = {}
        """Channels whose slot no known master serves."""
        self._moved = asyncio.Event()
        self._turns = itertools.count()
        self._complained = False
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ClusterSubscriber {'up' if self.up else 'down'} {list(self._shards.values())}>"

    @property
    def up(self) -> bool:
        """Return whether every master is connected."""
        return bool(self._shards) and not self._homeless and all(shard.up for shard in self._shards.values())

    @property
    def connections(self) -> int:
        """Return a number that changes with each new connection and each new map."""
        return self._version + sum(shard.connections for shard in self._shards.values())

    async def __aenter__(self) -> ClusterSubscriber:
        self._task = asyncio.create_task(self._watch(), name="redis-cluster-subscriber")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for shard in self._shards.values():
            await shard.__aexit__(*exc)
        settle(self._homeless.values())
        await self._topology.stop()
        await self._nodes.close()

    def subscribe(self, channel: bytes) -> asyncio.Future[None]:
        """Subscribe to a channel and return a future for the confirmation."""
        shard = self._home(channel)
        if shard is not None:
            return shard.subscribe(channel)
        if channel not in self._homeless:
            future = self._homeless[channel] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(CONFIRM_SECONDS, settle, (future,))
        return self._homeless[channel]

    def unsubscribe(self, channel: bytes) -> None:
        """Give a channel up."""
        if (future := self._homeless.pop(channel, None)) is not None:
            settle((future,))
        elif (shard := self._home(channel)) is not None:
            shard.unsubscribe(channel)

    def reconnect(self) -> None:
        """Drop connections that are up but deliver nothing."""
        for shard in self._shards.values():
            shard.reconnect()

    def _home(self, channel: bytes) -> ShardSubscriber | None:
        """Return the shard that has a channel, by the map that has been followed."""
        owner = self._topology.owner(slot_of(channel))
        shard = None if owner is None else self._shards.get(owner)
        if self._version != self._topology.version:  # the channel may not have moved yet
            held = (each for each in self._shards.values() if channel in each.channels)
            return next(held, shard)
        return shard

    async def _watch(self) -> None:
        while True:
            moved = self._moved.is_set()
            self._moved.clear()
            try:
                await self._look(moved)
                self._complained = False
            except UNAVAILABLE as error:
                level = logging.DEBUG if self._complained else logging.WARNING
                log.log(level, "Redis cluster cannot be looked at, retrying: %s", str(error) or repr(error))
                self._complained = True
            except Exception:  # of any kind: an end of this task would end all retries
                log.exception("Looking at the Redis cluster failed and will be tried again")
            for shard in self._shards.values():
                shard.check()
            metrics.bus_up.set(int(self.up))
            await asyncio.sleep(TROUBLE_SECONDS / 5)  # many channels may say the same
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS if self.up else TROUBLE_SECONDS):
                    await self._moved.wait()

    async def _look(self, moved: bool) -> None:
        """Look at the map, and bring each channel to the master of its slot."""
        masters = self._topology.masters
        if moved or not self.up or not await self._topology.agrees(masters[next(self._turns) % len(masters)]):
            await self._topology.refresh()
        if self._version != self._topology.version:
            await self._follow()
        if moved:
            for shard in self._shards.values():
                shard.subscribe_again()

    async def _follow(self) -> None:
        for node in self._topology.masters:
            if node not in self._shards:
                self._shards[node] = shard = self._make_shard(node)
                await shard.__aenter__()
        self._rehome()
        for node in set(self._shards) - set(self._topology.masters):
            await self._shards.pop(node).__aexit__()

    def _rehome(self) -> None:
        """Move channels.

        A plain function: no subscription may slip in between.
        """
        moving: dict[Node | None, dict[bytes, asyncio.Future[None]]] = {}
        for channel, future in self._homeless.items():
            moving.setdefault(self._topology.owner(slot_of(channel)), {})[channel] = future
        self._homeless = {}
        for node, shard in self._shards.items():
            for channel in list(shard.channels):
                owner = self._topology.owner(slot_of(channel))
                if owner != node:
                    moving.setdefault(owner, {})[channel] = shard.release(channel)
        for owner, channels in moving.items():
            if owner is not None and owner in self._shards:
                self._shards[owner].take(channels)
            else:
                self._homeless |= channels
        self._version = self._topology.version

    def _make_shard(self, node: Node) -> ShardSubscriber:
        return ShardSubscriber(
            self._url,
            node,
            on_message=self._on_message,
            on_restored=self._on_restored,
            on_moved=self._moved.set,
            randomness=self._randomness,
        )
