"""Resolves names of hosts in threads of its own, each host in one thread at a time.

A call of the resolver cannot be ended: a name server that answers nothing holds its
thread for half a minute. So these threads are not asyncio's own, which serve the whole
process; attempts at one host share one call, so that a host whose name server is
silent holds one thread whatever is sent to it; and the threads are daemons, which keep
no process from ending. Callers bound their wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from typing import Final

THREADS: Final = 200
"""Maximum hosts whose names are being resolved, as many as webhooks are sent at once;
further ones are refused.
"""


class Names:
    """Resolves names; for one event loop. State: the calls in flight, by host."""

    def __init__(self) -> None:
        self._calls: dict[str, asyncio.Future[list[str]]] = {}

    def __repr__(self) -> str:
        return f"<Names resolving={len(self._calls)}>"

    async def addresses(self, host: str) -> list[str]:
        """Return the addresses of a host, the best one first; waits without a bound.

        Raises OSError, also when too many names are being resolved; ValueError if it
        cannot be a name.
        """
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        call = self._calls.get(host)
        if call is None:
            call = self._begin(host)
        return await asyncio.shield(call)  # a caller that gives up leaves the call to the others

    def _begin(self, host: str) -> asyncio.Future[list[str]]:
        if len(self._calls) >= THREADS:
            raise OSError("too many names are being resolved")
        loop = asyncio.get_running_loop()
        call: asyncio.Future[list[str]] = loop.create_future()

        def settle(found: list[str] | OSError | ValueError) -> None:
            self._calls.pop(host, None)
            if isinstance(found, list):
                call.set_result(found)
            else:
                call.set_exception(found)
                call.exception()  # its callers may all have given up

        def work() -> None:
            found: list[str] | OSError | ValueError
            try:
                found = [str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
            except (OSError, ValueError) as error:  # UnicodeError is a ValueError
                found = error
            with contextlib.suppress(RuntimeError):  # the loop is closed by now
                loop.call_soon_threadsafe(settle, found)

        try:
            threading.Thread(target=work, name="name of a webhook", daemon=True).start()
        except RuntimeError as error:
            raise OSError("the system has no thread left") from error
        self._calls[host] = call
        return call
