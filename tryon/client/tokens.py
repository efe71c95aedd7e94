"""The token of a client: a text, or a function that returns a new one when asked."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

TokenSource = str | Callable[[], str | Awaitable[str]]
"""A token, or a function (sync or async) that returns one: a user's JWT ends soon."""


class Tokens:
    """The token that requests carry now. State: the last one that the function gave."""

    __slots__ = ("_asking", "_source", "_text")

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._text = source if isinstance(source, str) else ""
        self._asking = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Tokens {'fixed' if isinstance(self._source, str) else 'of a function'}>"

    @property
    def last(self) -> str:
        """Return the last token; empty before the function was first asked."""
        return self._text

    async def current(self) -> str:
        """Return the token; the function is asked if there is none yet.

        What the function raises goes on to the caller.
        """
        if not self._text:
            await self.renew("")
        return self._text

    async def renew(self, refused: str) -> bool:
        """Ask for another token in the place of one that was refused.

        Return False if there is none: the token is a text, or came again. Calls at the
        same time ask once.
        """
        async with self._asking:
            if self._text != refused:
                return True
            if isinstance(self._source, str):
                return False
            given = self._source()
            self._text = await given if inspect.isawaitable(given) else given
            return self._text != refused
