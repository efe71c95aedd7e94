"""The map of a cluster: the master that serves each of its 16,384 slots.

All known nodes are asked at once and the map that most of them give counts, so a node
that hangs, or that has not heard of a fail-over yet, does not decide. A node that
answers ``MOVED`` corrects one slot at once.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from redis.asyncio import Redis

from server.adapters.redis.errors import UNAVAILABLE
from server.adapters.redis.pools import SharedPool, node_pool
from server.adapters.redis.shared_search import SharedSearch, most_say
from server.config.redis_url import Node, RedisUrl

ASK_SECONDS: Final = 1.0
"""Bound on the answer of a node about the map, connecting included."""

PAUSE_SECONDS: Final = 0.25
"""Minimum time between two searches that errors ask for."""

SLOTS: Final = 16384

_Ranges = tuple[tuple[int, int, Node], ...]
"""First and last slot, and the master that serves them; sorted."""


class Nodes:
    """A client for each node of the cluster, made when it is first used."""

    def __init__(self, url: RedisUrl, *, socket_seconds: float) -> None:
        self.url = url
        self._socket_seconds = socket_seconds
        self._clients: dict[Node, Redis] = {}

    def __repr__(self) -> str:
        return f"<Nodes {list(self._clients)}>"

    def client(self, node: Node) -> Redis:
        """Return the client of a node."""
        if node not in self._clients:
            pool = node_pool(self.url, self.url.at(node), socket_seconds=self._socket_seconds)
            self._clients[node] = Redis(connection_pool=pool)
        return self._clients[node]

    def give_up(self, node: Node | None = None) -> None:
        """Replace every connection, or those to one node, before its next use."""
        for each, client in self._clients.items():
            if node in (None, each):
                pool = client.connection_pool
                assert isinstance(pool, SharedPool)
                pool.give_up()

    async def close(self) -> None:
        """Close every connection; the next command opens new ones."""
        clients, self._clients = self._clients, {}
        await asyncio.gather(*(client.connection_pool.disconnect() for client in clients.values()))


class Topology:
    """The map of slots as it was last seen. ``version`` counts its changes."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._ranges: _Ranges = ()
        self._owners: list[Node | None] = [None] * SLOTS
        self._members: set[Node] = set(nodes.url.nodes)
        self._search = SharedSearch(self._find)
        self._searched_at = float("-inf")
        self.masters: list[Node] = []
        """The masters that serve a slot, in the order of their slots."""
        self.version = 0

    def __repr__(self) -> str:
        return f"<Topology {self.version} {self.masters}>"

    def owner(self, slot: int) -> Node | None:
        """Return the master of a slot; None: unknown, or served by no node."""
        return self._owners[slot]

    def move(self, slot: int, node: Node) -> None:
        """Correct one slot, as a node said; and look at the whole map again."""
        if self._owners[slot] != node:
            self._owners[slot] = node
            self._members.add(node)
            self.version += 1
        self.doubt()

    def doubt(self) -> None:
        """Look at the map again, in the background; not at once after the last look."""
        now = asyncio.get_running_loop().time()
        if now - self._searched_at >= PAUSE_SECONDS:
            self._search.begin()

    async def refresh(self) -> None:
        """Look at the map again. Raises one of ``errors.UNAVAILABLE``."""
        await self._search.result()

    async def agrees(self, node: Node) -> bool:
        """Return whether one node gives this map too; False if it does not answer."""
        try:
            return (await self._ask(node))[0] == self._ranges
        except UNAVAILABLE:
            return False

    async def stop(self) -> None:
        """End a search that is under way."""
        await self._search.stop()

    async def _find(self) -> None:
        self._searched_at = asyncio.get_running_loop().time()
        asked = self._members | set(self._nodes.url.nodes)
        ranges, members = await most_say([self._ask(node) for node in asked])
        self._members = set(members)
        if ranges == self._ranges and self._owners == _owners(ranges):
            return
        self._ranges, self._owners = ranges, _owners(ranges)
        self.masters = list(dict.fromkeys(node for _, _, node in ranges))
        self.version += 1

    async def _ask(self, node: Node) -> tuple[_Ranges, frozenset[Node]]:
        async with asyncio.timeout(ASK_SECONDS):
            # Two words: redis-py 5 and 8 interpret the answer to one differently.
            answer: Any = await self._nodes.client(node).execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
        ranges: list[tuple[int, int, Node]] = []
        members: set[Node] = set()
        for first, last, master, *replicas in answer:
            ranges.append((int(first), int(last), address(master[0], master[1], node)))
            members |= {address(each[0], each[1], node) for each in (master, *replicas)}
        if not ranges:
            raise TimeoutError("the node serves no slots yet")
        return tuple(sorted(ranges)), frozenset(members)


def address(host: bytes | str | None, port: Any, said_by: Node) -> Node:
    """Return an address as a node gave it; without a host it is the node's own."""
    text = str(host, "utf-8") if isinstance(host, bytes) else host
    return (text if text and text != "?" else said_by[0]), int(port)


def _owners(ranges: _Ranges) -> list[Node | None]:
    owners: list[Node | None] = [None] * SLOTS
    for first, last, node in ranges:
        owners[first : last + 1] = [node] * (last + 1 - first)
    return owners
