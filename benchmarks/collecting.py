"""Pauses of Python's garbage collector in a web process with many clients.

It is a hub with its followers, without a network.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from pathlib import Path

from server.config.settings import Config
from server.services import open_services
from server.web.app import make_hub
from server.web.transports.wire import WireSocket
from testkit.report import heading, table
from testkit.values import new_session_id

ROUNDS = 5


class _Pipe(asyncio.Transport):
    """A connection of its own for each follower, as the collector sees it."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class _Keeper:
    def heard(self, wire: WireSocket, text: str) -> None:
        pass

    def left(self, wire: WireSocket) -> None:
        pass


async def main(*, clients: int) -> None:
    settings = {"redis_url": "redis://127.0.0.1:1/0"}  # a port without a server
    heading(f"collect: {clients} followers in one process", settings)
    with tempfile.TemporaryDirectory(prefix="tryon-benchmark-") as folder:
        config = Config(data_dir=Path(folder), redis_url=settings["redis_url"])
        async with open_services(config) as services:
            hub = make_hub(config, services)
            gc.collect()
            gc.freeze()  # as `tryon serve` does when it has loaded everything
            keeper, wires = _Keeper(), []
            for number in range(clients):
                wire = WireSocket(new_session_id(), keeper, f"127.0.0.{number % 250}", services.clock)
                wire.connection_made(_Pipe())
                hub.join(wire, transport="ws")
                wire.resume(1)
                wires.append(wire)
            pauses = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                gc.collect()
                pauses.append((time.perf_counter() - began) * 1000)
            objects = len(gc.get_objects())
            for wire in wires:
                hub.leave(wire, transport="ws")
    table(("followers", "objects", "shortest ms", "longest ms"), [[str(clients), objects, min(pauses), max(pauses)]])
