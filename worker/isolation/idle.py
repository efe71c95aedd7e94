"""The children that wait for a session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from worker.isolation.child_link import ChildLink, State


class IdleChildren:
    """Children without a session, the one that worked last at the end.

    All but one of them are handed to ``let_go`` when they were idle for too long.
    """

    def __init__(self, *, idle_seconds: float, let_go: Callable[[ChildLink], object]) -> None:
        self._idle_seconds = idle_seconds
        self._let_go = let_go
        self._list: list[ChildLink] = []
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<IdleChildren {len(self._list)}>"

    def all(self) -> list[ChildLink]:
        """Return the idle children that are not gone."""
        self._list = [child for child in self._list if child.state is not State.GONE]
        return list(self._list)

    def take(self) -> ChildLink | None:
        """Return the child that worked last, rather than one that still warms up."""
        idle = [child for child in self.all() if not child.retiring]
        if not idle:
            return None
        child = next((each for each in reversed(idle) if each.state is State.READY), idle[-1])
        self._list.remove(child)
        return child

    def put(self, child: ChildLink) -> None:
        """Let the child wait for the next session."""
        child.idle_since = asyncio.get_running_loop().time()
        self._list.append(child)
        self._trim()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _trim(self) -> None:
        self.close()
        idle = self.all()
        while len(idle) > 1:
            child = idle.pop(0)
            due = child.idle_since + self._idle_seconds
            loop = asyncio.get_running_loop()
            if due > loop.time():
                self._timer = loop.call_at(due, self._trim)
                return
            self._list.remove(child)
            self._let_go(child)
