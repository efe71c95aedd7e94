"""A client that sends each command to the node of a cluster that has its key.

It is :class:`redis.asyncio.Redis` with another ``execute_command``, so the bus and the
limiter are written once. ``PUBLISH`` becomes ``SPUBLISH``: a message then costs one
shard, where an ordinary one would cost every node. Every command has one key, and those
of a script or a session share a slot (:mod:`server.adapters.redis.names`).

redis-py's own client for clusters is not used. It looks for the map within the call
that noticed a failure, node after node, each with its whole time-out; a call of the bus
has 0.3 s, so with one node that hangs it would never find the map. And the sharded
pub/sub of it needs redis-py 8, which arq excludes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from server.adapters.redis.errors import refused_for_now
from server.adapters.redis.pools import SharedPool
from server.adapters.redis.tls import tls_defaults
from server.adapters.redis.topology import Nodes, Topology, address
from server.config.redis_url import Node, RedisUrl

NODE_SECONDS: Final = 0.2
"""Bound on one command to a node, below that of every call: one node that hangs must
not look as if the whole cluster did.
"""

SILENT_SECONDS: Final = 1.0
"""Time without commands to a node that was silent."""

REDIRECTIONS: Final = 4
"""Maximum nodes that one command is sent to."""

_KEYED: Final = {
    *("SPUBLISH", "GET", "SET", "DEL", "UNLINK", "EXISTS", "EXPIRE", "PEXPIRE", "TTL", "INCR", "INCRBY", "INCRBYFLOAT"),
    *("HGET", "HSET", "HDEL", "HGETALL", "HINCRBY", "LPUSH", "LRANGE", "LTRIM", "SADD", "SREM", "SMEMBERS", "SCARD"),
    *("ZADD", "ZCARD", "ZCOUNT", "ZRANGE", "ZRANGEBYSCORE", "ZREM", "ZREMRANGEBYSCORE", "ZSCORE", "ZINCRBY"),
}
"""Commands whose first argument is their key. Others go to any node, which names the
right one if there is one.
"""


_Command = tuple[tuple[Any, ...], Any]
"""The arguments of a command, and redis-py's options for its reply."""


class NodeSilent(RedisConnectionError):
    """A node of the cluster did not answer in time; the others may."""


class ClusterPool(SharedPool):
    """The pool of a client: all connections to all nodes."""

    nodes: Nodes
    topology: Topology

    def give_up(self) -> None:
        super().give_up()
        self.nodes.give_up()
        self.topology.doubt()

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await self.topology.stop()
        await self.nodes.close()
        await super().disconnect(inuse_connections)


class ClusterRedis(Redis):
    """The client of a cluster. Multi-key commands and transactions are not for it."""

    def __init__(self, url: RedisUrl, *, socket_seconds: float) -> None:
        self.nodes = Nodes(url, socket_seconds=socket_seconds)
        self.topology = Topology(self.nodes)
        self._silent: dict[Node, float] = {}
        pool = ClusterPool.from_url(url.first(), **tls_defaults(url))
        pool.nodes, pool.topology = self.nodes, self.topology
        super().__init__(connection_pool=pool)

    def __repr__(self) -> str:
        return f"<ClusterRedis {self.topology!r}>"

    async def masters(self) -> list[Redis]:
        """Return a client of each master."""
        if not self.topology.masters:
            await self.topology.refresh()
        return [self.nodes.client(node) for node in self.topology.masters]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command to the node that has its key."""
        (result,) = await self.execute_each([(args, options)])
        if isinstance(result, Exception):
            raise result
        return result

    async def execute_each(self, commands: list[_Command]) -> list[Any]:
        """Send commands, in one round trip to each node; return results or errors."""
        if not self.topology.masters:
            await self.topology.refresh()
        commands = [(_sharded(args), options) for args, options in commands]
        by_node: dict[Node | None, list[int]] = {}
        for at, (args, _) in enumerate(commands):
            by_node.setdefault(self._node(_slot(args)), []).append(at)
        results: list[Any] = [None] * len(commands)

        async def send(node: Node | None, places: list[int]) -> None:
            found = await self._send(node, [commands[at] for at in places])
            for at, result in zip(places, found, strict=True):
                results[at] = result

        await asyncio.gather(*(send(node, places) for node, places in by_node.items()))
        return results

    def _node(self, slot: int | None) -> Node | None:
        return self.topology.masters[0] if slot is None else self.topology.owner(slot)

    async def _send(self, node: Node | None, commands: list[_Command]) -> list[Any]:
        """Send commands to one node, and each that it redirects to where it says."""
        try:
            results = await self._pipe(node, commands)
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            self.topology.doubt()
            return [error] * len(commands)
        return [
            await self._redirected(node, command, result) if isinstance(result, Exception) else result
            for command, result in zip(commands, results, strict=True)
        ]

    async def _redirected(self, node: Node | None, command: _Command, result: Any) -> Any:
        for _ in range(REDIRECTIONS):
            if (found := _redirection(result, node or self.nodes.url.nodes[0])) is None:
                if refused_for_now(result):  # not the master any more, or the cluster is broken
                    self.topology.doubt()
                return result
            asking, slot, node = found
            if not asking:
                self.topology.move(slot, node)
            try:
                before: list[_Command] = [(("ASKING",), {})] if asking else []
                result = (await self._pipe(node, [*before, command]))[-1]
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                self.topology.doubt()
                return error
        return result

    async def _pipe(self, node: Node | None, commands: list[_Command]) -> list[Any]:
        """Send commands to a node; raise NodeSilent if it does not answer in time."""
        loop = asyncio.get_running_loop()
        if node is None:
            raise RedisConnectionError("no node of the cluster serves this slot")
        if loop.time() < self._silent.get(node, 0.0):
            raise NodeSilent("the node was silent a moment ago")
        pipe = self.nodes.client(node).pipeline(transaction=False)
        for args, options in commands:
            pipe.execute_command(*args, **options)
        try:
            async with asyncio.timeout(NODE_SECONDS):
                return list(await pipe.execute(raise_on_error=False))
        except TimeoutError:
            self._silent[node] = loop.time() + SILENT_SECONDS
            self.nodes.give_up(node)
            raise NodeSilent("the node did not answer in time") from None

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> ClusterPipeline:
        """Return a pipeline over all nodes, which is no transaction."""
        if transaction:
            raise NotImplementedError("a cluster has no transactions over its nodes")
        return ClusterPipeline(self)

    async def script_load(self, script: Any) -> Any:
        """Load a script on every master; return its digest."""
        loaded = await asyncio.gather(
            *(master.script_load(script) for master in await self.masters()), return_exceptions=True
        )
        digests = [each for each in loaded if not isinstance(each, BaseException)]
        if not digests:
            raise RedisConnectionError(str(loaded[0]))
        return digests[0]

    async def scan_iter(self, *args: Any, **options: Any) -> AsyncIterator[Any]:  # type: ignore[override]  # as redis-py's own
        """Yield the keys of every master."""
        for master in await self.masters():
            async for key in master.scan_iter(*args, **options):
                yield key


class ClusterPipeline(Pipeline):
    """Commands that are sent together, each to the node of its key."""

    def __init__(self, cluster: ClusterRedis) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, False, None)
        self._cluster = cluster

    def __repr__(self) -> str:
        return f"<ClusterPipeline commands={len(self.command_stack)}>"

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send them; return results in order, or raise the first error."""
        commands, self.command_stack = list(self.command_stack), []
        if not commands:
            return []
        results = await self._cluster.execute_each([(tuple(args), options) for args, options in commands])
        if raise_on_error:
            for result in results:
                if isinstance(result, Exception):
                    raise result
        return results


def _sharded(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return ("SPUBLISH", *args[1:]) if args[0] == "PUBLISH" else args


def _redirection(result: Any, said_by: Node) -> tuple[bool, int, Node] | None:
    """Return whether to ask first (``ASK``), the slot, and the node to go to.

    None: the result is no redirection. redis-py has classes for them, which some of its
    parsers use.
    """
    if isinstance(result, AskError):  # of which MovedError is a kind
        return not isinstance(result, MovedError), result.slot_id, address(result.host, result.port, said_by)
    if not isinstance(result, ResponseError) or not str(result).startswith(("MOVED ", "ASK ")):
        return None
    kind, slot, target = str(result).split(" ")[:3]
    host, _, port = target.rpartition(":")
    return kind == "ASK", int(slot), address(host, port, said_by)


def _slot(args: tuple[Any, ...]) -> int | None:
    """Return the slot of a command's key; None: it has none."""
    script = args[0] in ("EVAL", "EVALSHA") and int(args[2])
    if not script and args[0] not in _KEYED:
        return None
    return slot_of(args[3] if script else args[1])


def slot_of(key: bytes | str) -> int:
    """Return the slot of a key or channel."""
    return int(key_slot(key if isinstance(key, bytes) else str(key).encode()))
