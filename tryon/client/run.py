"""``Run``: one try-on from upload to end, to await or to iterate over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing
from typing import Any

from tryon.client.state import Update
from tryon.protocol.views import SessionView


class Run:
    """A try-on; :meth:`tryon.AsyncTryOn.run` makes it.

    It may be awaited and iterated over, more than once and at the same time: the photos
    are uploaded once, when it is first used. Leaving it early leaves the session
    running; ``tryon.cancel(run.session)`` stops that.
    """

    def __init__(
        self,
        upload: Callable[[], Awaitable[SessionView]],
        follow: Callable[[SessionView], AsyncGenerator[Update, None]],
        result: Callable[[SessionView], Awaitable[bytes]],
    ) -> None:
        self.session: SessionView | None = None
        """The session as last seen; None before the upload."""
        self._upload = upload
        self._follow = follow
        self._result = result
        self._uploading = asyncio.Lock()
        self._uploaded: SessionView | None = None

    def __repr__(self) -> str:
        if self.session is None:
            return "<Run not uploaded>"
        return f"<Run {self.session.session_id} {self.session.status}>"

    def __await__(self) -> Generator[Any, None, SessionView]:
        return self.wait().__await__()

    def __aiter__(self) -> AsyncGenerator[SessionView, None]:
        return self.sessions()

    async def sessions(self) -> AsyncGenerator[SessionView, None]:
        """Yield the session after each change, from the upload to its end.

        Once it has ended, it is yielded as it ended. Raises Problem when the upload is
        refused, or the session is deleted or expires.
        """
        if self.session is not None and self.session.terminal:
            yield self.session
            return
        async with aclosing(self._follow(await self._begin())) as updates:
            async for update in updates:
                if self.session is None or update.seq >= self.session.seq:
                    self.session = update.session
                yield update.session

    async def wait(self) -> SessionView:
        """Return the session once it has ended, completed or not."""
        last = await self._begin()
        async with aclosing(self.sessions()) as sessions:
            async for session in sessions:
                last = session
        return last

    async def result(self) -> bytes:
        """Wait for the session's end and return its picture. Raises NotCompleted."""
        return await self._result(await self._begin())

    async def _begin(self) -> SessionView:
        """Return the session as it was uploaded; the first call uploads."""
        async with self._uploading:
            if self._uploaded is None:
                self._uploaded = self.session = await self._upload()
            return self._uploaded
