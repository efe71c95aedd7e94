"""Bytes of erased sessions that SQLite's write-ahead log may still hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class ErasedBytes:
    """Notes for one process whether its database's log needs emptying.

    State: whether a session was erased since the log was last emptied.
    """

    __slots__ = ("_noted",)

    def __init__(self) -> None:
        self._noted = asyncio.Event()

    def __repr__(self) -> str:
        return f"<ErasedBytes {'in the log' if self.in_log else 'none'}>"

    @property
    def in_log(self) -> bool:
        """Whether the log may hold bytes of an erased session."""
        return self._noted.is_set()

    def note(self) -> None:
        """Note an erasure, or that emptying the log did not succeed."""
        self._noted.set()

    async def wait(self) -> None:
        """Return as soon as the log may hold bytes of an erased session."""
        await self._noted.wait()

    @contextlib.contextmanager
    def being_emptied(self) -> Iterator[None]:
        """Forget the erasures before this block, which empties the log.

        An erasure during the block counts for the next time. If the block is cancelled,
        all count again.
        """
        self._noted.clear()
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self._noted.set()
            raise
