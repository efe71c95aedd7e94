"""Two further processes that call one database at the same moment."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

from server.domain.session import Session
from testkit.processes import ROOT


class Racer:
    """One further process with connections of its own; runs :mod:`.racer`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.adapters.database.racer"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the racing process died; its traceback is above"
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate()


class Racers:
    """Two processes that call one database at the same moment."""

    def __init__(self, racers: list[Racer], url: str) -> None:
        self._racers = racers
        self._url = url

    async def race(self, *orders: list[dict[str, Any]]) -> list[list[Any]]:
        """Run one list of calls in each process; all begin together.

        Return each process's answers, in the order of its calls.
        """
        return await asyncio.to_thread(self._race, orders)

    async def race_each(self, sessions: list[Session], **order: Any) -> list[list[Any]]:
        """Run the same call for each of these sessions in both processes."""
        calls = [{"session_id": session.id, **order} for session in sessions]
        return await self.race(calls, calls)

    async def open(self) -> None:
        """Connect both processes, so that no race begins with a connection."""
        await asyncio.to_thread(self._all, [{"call": "open"}] * len(self._racers))

    async def close(self) -> None:
        await asyncio.to_thread(self._all, [{"call": "close"}] * len(self._racers))

    def _race(self, orders: tuple[list[dict[str, Any]], ...]) -> list[list[Any]]:
        self._all([{"call": "open"}] * len(orders))
        at = time.monotonic() + 0.01
        return self._all(
            [
                {"call": "race", "at": at, "orders": [{"name": f"racer-{n}"} | each for each in calls]}
                for n, calls in enumerate(orders)
            ]
        )

    def _all(self, orders: list[dict[str, Any]]) -> list[Any]:
        for racer, order in zip(self._racers, orders, strict=True):
            racer.send(order | {"url": self._url})
        return [racer.answer() for racer in self._racers]
