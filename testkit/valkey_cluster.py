"""A cluster of real Valkey processes: three masters, and a replica of each if asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from testkit.processes import START_SECONDS, free_port
from testkit.servers import ValkeyServer

NODE_TIMEOUT_MS: Final = 1000
"""Silence of a master after which the others call it failed."""

SLOTS: Final = 16384


class ValkeyCluster:
    """The nodes of one cluster; ``url`` is what the product is given.

    The first ``masters`` of ``nodes`` are masters at the start, and their replicas
    follow in the same order. ``make_node``: makes each from the options of its command
    line, instead of a Valkey on a port.
    """

    def __init__(
        self,
        *,
        masters: int = 3,
        replicas: bool = False,
        make_node: Callable[[tuple[str, ...]], ValkeyServer] = lambda options: ValkeyServer(tcp=True, options=options),
    ) -> None:
        self._stack = contextlib.ExitStack()
        options = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
        )
        self.masters = masters
        self.nodes = [
            make_node((*options, "--cluster-port", str(free_port()))) for _ in range(masters * (2 if replicas else 1))
        ]
        for node in self.nodes:
            self._stack.callback(node.close)

    def __repr__(self) -> str:
        return f"<ValkeyCluster {self.nodes}>"

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[: self.masters])
        return f"redis+cluster://{hosts}"

    async def start(self) -> ValkeyCluster:
        """Start the nodes, give out the slots, and wait until all agree."""
        await asyncio.gather(*(asyncio.to_thread(node.start) for node in self.nodes))
        first = self.nodes[0]
        for at, node in enumerate(self.nodes[: self.masters]):
            begin, end = (SLOTS * place // self.masters for place in (at, at + 1))
            await node.command("CLUSTER", "ADDSLOTSRANGE", begin, end - 1)
            await node.command("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        for node in self.nodes[1:]:
            bus = await node.command("CONFIG", "GET", "cluster-port")
            await first.command("CLUSTER", "MEET", "127.0.0.1", node.port, _value(bus))
        await self._all(self._meets)
        for master, replica in zip(self.nodes, self.nodes[self.masters :], strict=False):
            await replica.command("CLUSTER", "REPLICATE", await self.node_id(master))
        await self._all(self._is_ready)
        return self

    async def node_id(self, node: ValkeyServer) -> str:
        return str(await node.command("CLUSTER", "MYID"), "ascii")

    async def migrate(self, slot: int, source: ValkeyServer, target: ValkeyServer) -> None:
        """Move an empty slot to another master, as a resharding does."""
        source_id, target_id = await self.node_id(source), await self.node_id(target)
        await target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        await source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while keys := await source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            await source.command(
                "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *(str(key, "utf-8") for key in keys)
            )
        for node in (target, source):
            await node.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    async def owner(self, slot: int, *, asked: ValkeyServer | None = None) -> ValkeyServer:
        """Return the master of a slot, as a node has it."""
        node = asked or self.nodes[0]
        for first, last, master, *_ in await node.command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(each for each in self.nodes if each.port == master[1])
        raise LookupError(slot)

    async def failed_over(self, slot: int, former: ValkeyServer, *, asked: ValkeyServer | None = None) -> ValkeyServer:
        """Wait until another node serves the slot; return that node."""
        asked = asked or next(node for node in self.nodes if node is not former)
        async with asyncio.timeout(START_SECONDS):
            while (owner := await self.owner(slot, asked=asked)) is former:
                await asyncio.sleep(0.02)
        return owner

    def close(self) -> None:
        self._stack.close()

    async def _all(self, ready: Any) -> None:
        async with asyncio.timeout(START_SECONDS):
            while not all([await ready(node) for node in self.nodes]):
                await asyncio.sleep(0.02)

    async def _meets(self, node: ValkeyServer) -> bool:
        return len((await self._info(node, "NODES")).splitlines()) == len(self.nodes)

    async def _is_ready(self, node: ValkeyServer) -> bool:
        replicas = sum(len(servers) - 1 for _, _, *servers in await node.command("CLUSTER", "SLOTS"))
        return replicas == len(self.nodes) - self.masters and "cluster_state:ok" in await self._info(node, "INFO")

    async def _info(self, node: ValkeyServer, about: str) -> str:
        return str(await node.command("CLUSTER", about), "utf-8")


def _value(answer: Any) -> int:
    return int(next(iter(answer.values())) if isinstance(answer, dict) else answer[1])
