"""A master, a replica and three Sentinels: real Valkey processes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import redis
import redis.asyncio

from testkit.processes import START_SECONDS
from testkit.servers import ValkeyServer

DOWN_MS: Final = 1500
"""Silence of the master after which a Sentinel calls it down."""


class SentinelServer(ValkeyServer):
    """A Sentinel, which keeps what it knows in its configuration file."""

    def __init__(self, master: ValkeyServer, *, down_ms: int = DOWN_MS, auth: str = "", options: str = "") -> None:
        super().__init__(tcp=True)
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.folder}",
            f"unixsocket {self.socket_path}",
            f"sentinel monitor tryon 127.0.0.1 {master.port} 2",
            f"sentinel down-after-milliseconds tryon {down_ms}",
            "sentinel failover-timeout tryon 1000",
            *([f"sentinel auth-pass tryon {auth}"] if auth else []),
            options,
        ]
        self._file = self.folder / "sentinel.conf"
        self._file.write_text("\n".join(lines) + "\n")

    def arguments(self) -> list[str]:
        return [str(self._file), "--sentinel"]


class Sentinels:
    """The servers of one installation; ``url`` is what the product is given.

    ``options``: of master and replica.
    """

    def __init__(self, *, auth: str = "", options: tuple[str, ...] = ()) -> None:
        passwords = ("--requirepass", auth, "--masterauth", auth) if auth else ()
        fast = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        options = (*options, *passwords, *fast)
        self._stack = contextlib.ExitStack()
        self._auth = auth
        self.servers = [ValkeyServer(tcp=True, options=options, password=auth) for _ in range(2)]
        self.sentinels = [SentinelServer(self.servers[0], auth=auth) for _ in range(3)]
        for server in (*self.servers, *self.sentinels):
            self._stack.callback(server.close)

    def __repr__(self) -> str:
        return f"<Sentinels {self.servers} {self.sentinels}>"

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        login = f":{self._auth}@" if self._auth else ""
        return f"redis+sentinel://{login}{hosts}/tryon/0"

    async def start(self) -> Sentinels:
        """Start everything; return when each Sentinel knows all the others."""
        for server in self.servers:
            await asyncio.to_thread(server.start)
        await self.servers[1].command("REPLICAOF", "127.0.0.1", str(self.servers[0].port))
        for sentinel in self.sentinels:
            await asyncio.to_thread(sentinel.start)
        async with asyncio.timeout(START_SECONDS):
            while not all([await self._knows(sentinel) for sentinel in self.sentinels]):
                await asyncio.sleep(0.02)
        return self

    async def _knows(self, sentinel: ValkeyServer) -> bool:
        found = _pairs((await sentinel.command("SENTINEL", "MASTERS"))[0])
        ready = (found["num-slaves"], found["num-other-sentinels"]) == (b"1", b"2")
        if not ready or found["flags"] != b"master":
            return False
        replicas = await sentinel.command("SENTINEL", "REPLICAS", "tryon")
        return all(_pairs(replica)["master-link-status"] == b"ok" for replica in replicas)

    async def master(self) -> ValkeyServer:
        """Return the server that the first Sentinel calls the master."""
        _, port = await self.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "tryon")
        return next(server for server in self.servers if server.port == int(port))

    async def other_than(self, former: ValkeyServer) -> ValkeyServer:
        """Wait for the end of a fail-over; return the new master."""
        async with asyncio.timeout(START_SECONDS):
            while (master := await self.master()) is former or not await _is_master(master):
                await asyncio.sleep(0.02)
        return master

    def close(self) -> None:
        self._stack.close()


async def _is_master(server: ValkeyServer) -> bool:
    try:
        return bool((await server.command("ROLE"))[0] == b"master")
    except (redis.RedisError, OSError):
        return False


def _pairs(flat: Any) -> dict[str, bytes]:
    if isinstance(flat, dict):  # RESP3
        return {str(key, "utf-8"): value for key, value in flat.items()}
    return {str(key, "utf-8"): value for key, value in zip(flat[::2], flat[1::2], strict=True)}
