"""The client without ``await``: the same calls, run by an event loop in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from tryon.client.api import DEFAULT_URL, AsyncTryOn, SessionOrId, SessionPage
from tryon.client.photos import Photo, Photos
from tryon.client.problems import Problem
from tryon.client.state import Update
from tryon.protocol.backoff import TRANSPORTS
from tryon.protocol.processors import ProcessorView
from tryon.protocol.views import History, Params, Receipt, SessionView

T = TypeVar("T")

SIGNAL_SECONDS: Final = 0.5
"""Period in which a waiting call looks for signals: one that arrives just before the
wait begins does not end it.
"""


async def _next(updates: AsyncGenerator[Update, None]) -> Update | None:
    return await anext(updates, None)


class _Loop:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tryon-client", daemon=True)
        self._lock = threading.RLock()  # a generator may be finalized wherever it is held
        self._closed = False
        self._last_tasks: set[asyncio.Task[None]] = set()
        self._thread.start()

    def __repr__(self) -> str:
        return f"<_Loop {'closed' if self._closed else 'running'}>"

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine. Raises Problem once the loop is closed.

        An interrupt in this thread cancels the coroutine and waits for its end.
        """
        tasks: list[asyncio.Task[T]] = []
        ended = threading.Event()

        def start() -> None:
            tasks.append(self._loop.create_task(call))
            tasks[0].add_done_callback(lambda task: task.cancelled() or task.exception())  # seen, if interrupted
            tasks[0].add_done_callback(lambda _: ended.set())

        def cancel() -> None:
            tasks[0].cancel()

        with self._lock:
            if self._closed:
                call.close()
                raise _closed()
            self._loop.call_soon_threadsafe(start)
        try:
            while not ended.wait(SIGNAL_SECONDS):
                pass
        except BaseException:
            with contextlib.suppress(RuntimeError):  # closed meanwhile, which cancels too
                self._loop.call_soon_threadsafe(cancel)
            ended.wait()
            raise
        if tasks[0].cancelled():
            raise _closed()
        return tasks[0].result()

    def finish(self, updates: AsyncGenerator[Update, None]) -> None:
        """Close a generator; wait for that where it is possible."""
        if sys.is_finalizing():
            return
        if threading.current_thread() is self._thread:  # finalized by a garbage collection
            task = self._loop.create_task(updates.aclose())
            self._last_tasks.add(task)
            task.add_done_callback(self._last_tasks.discard)
            return
        with contextlib.suppress(Problem):  # the loop was closed, and the generator with it
            self.run(updates.aclose())

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancel every call, run ``last``, and end the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._end(last), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await last()


def _closed() -> Problem:
    return Problem("closed", "The client is closed.", retryable=False)


class TryOn:
    """A client of the server at ``url``; see :class:`~tryon.client.api.AsyncTryOn`.

    ::

        with TryOn("https://tryon.example") as tryon:
            session = tryon.upload("photo.jpg")
            for update in tryon.follow(session):
                print(update.status, update.progress)
            picture = tryon.result(session)

    Calls may come from several threads.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        attempts: int = 3,
        timeout: float = 15.0,
        trust_env: bool = True,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Make a client; the options are those of AsyncTryOn."""
        self._client = AsyncTryOn(
            url, token=token, attempts=attempts, timeout=timeout, trust_env=trust_env, ssl_context=ssl_context
        )
        self._loop = _Loop()

    def __repr__(self) -> str:
        return repr(self._client).replace("AsyncTryOn", "TryOn")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and end the thread.

        Calls that other threads wait for end with a Problem of the code "closed".
        """
        self._loop.close(self._client.close)

    @property
    def token(self) -> str:
        """Return the owner's token, which opens all of its sessions."""
        return self._client.token

    def upload(
        self,
        image: Photo | None = None,
        *,
        garment: Photo | None = None,
        inputs: Photos | None = None,
        params: Params | None = None,
        original: SessionOrId | None = None,
        idempotency_key: str | None = None,
    ) -> SessionView:
        """Upload photos and return their session."""
        return self._loop.run(
            self._client.upload(
                image,
                garment=garment,
                inputs=inputs,
                params=params,
                original=original,
                idempotency_key=idempotency_key,
            )
        )

    def follow(
        self,
        session: SessionOrId,
        *,
        since: int = 0,
        ticket: str | None = None,
        transports: Sequence[str] = TRANSPORTS,
    ) -> Iterator[Update]:
        """Yield each change of a session until it has ended.

        Closing the iterator disconnects.
        """
        updates = self._client.follow(session, since=since, ticket=ticket, transports=transports)
        try:
            while (update := self._loop.run(_next(updates))) is not None:
                yield update
        finally:
            self._loop.finish(updates)

    def wait(self, session: SessionOrId) -> SessionView:
        """Return the session once it has ended, in whatever way."""
        return self._loop.run(self._client.wait(session))

    def result(self, session: SessionOrId) -> bytes:
        """Wait for the session's end and return its picture. Raises NotCompleted."""
        return self._loop.run(self._client.result(session))

    def get(self, session: SessionOrId) -> SessionView:
        """Return a session as it is now, with fresh links."""
        return self._loop.run(self._client.get(session))

    def list(self, *, limit: int | None = None, cursor: str | None = None) -> SessionPage:
        """Return a page of this owner's sessions, newest first."""
        return self._loop.run(self._client.list(limit=limit, cursor=cursor))

    def history(self, session: SessionOrId) -> History:
        """Return every transition of a session, from its audit trail."""
        return self._loop.run(self._client.history(session))

    def cancel(self, session: SessionOrId) -> SessionView:
        """Cancel a session and return it.

        It is cancelled, or still processing until its worker stops.
        """
        return self._loop.run(self._client.cancel(session))

    def retry(self, session: SessionOrId) -> SessionView:
        """Return a new session over the photos of one that failed or was cancelled."""
        return self._loop.run(self._client.retry(session))

    def delete(self, session: SessionOrId) -> Receipt:
        """Erase a session, its photos and retries now; return the signed receipt.

        It is not repeated when its answer is lost.
        """
        return self._loop.run(self._client.delete(session))

    def processor(self) -> ProcessorView:
        """Return what the processor takes and makes, and where the photo goes."""
        return self._loop.run(self._client.processor())

    def download(self, link: str) -> bytes:
        """Return the picture behind one of a session's links."""
        return self._loop.run(self._client.download(link))

    def url(self, link: str) -> str:
        """Return a session's link as a whole URL, to open elsewhere."""
        return self._client.url(link)
