"""The client without ``await``: the same calls, run by an event loop in a thread."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from tryon.client.address import DEFAULT_URL
from tryon.client.api import AsyncTryOn
from tryon.client.loop_thread import LoopThread
from tryon.client.photos import Photo, Photos
from tryon.client.requests import SessionOrId
from tryon.client.run import Run
from tryon.client.state import Update
from tryon.client.sync_requests import SyncRequests
from tryon.client.tokens import TokenSource
from tryon.client.watching import WATCH_TRANSPORTS, Erased
from tryon.protocol.backoff import TRANSPORTS
from tryon.protocol.views import Params, SessionView


class SyncRun:
    """A try-on from upload to end; see :class:`~tryon.client.run.Run`."""

    def __init__(self, run: Run, loop: LoopThread) -> None:
        self._run = run
        self._loop = loop

    def __repr__(self) -> str:
        return repr(self._run).replace("Run", "SyncRun", 1)

    def __iter__(self) -> Iterator[SessionView]:
        """Yield the session after each change, until it has ended."""
        return self._loop.iterate(self._run.sessions())

    @property
    def session(self) -> SessionView | None:
        """Return the session as last seen, None before the upload."""
        return self._run.session

    def wait(self) -> SessionView:
        """Return the session once it has ended, completed or not."""
        return self._loop.run(self._run.wait())

    def result(self) -> bytes:
        """Wait for the session's end and return its picture. Raises NotCompleted."""
        return self._loop.run(self._run.result())


class TryOn(SyncRequests):
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
        token: TokenSource | None = None,
        attempts: int = 3,
        timeout: float = 15.0,
        trust_env: bool = True,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Make a client; the options are those of AsyncTryOn."""
        client = AsyncTryOn(
            url, token=token, attempts=attempts, timeout=timeout, trust_env=trust_env, ssl_context=ssl_context
        )
        super().__init__(client, LoopThread())

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

    def run(
        self,
        image: Photo | None = None,
        *,
        garment: Photo | None = None,
        inputs: Photos | None = None,
        params: Params | None = None,
        original: SessionOrId | None = None,
        idempotency_key: str | None = None,
    ) -> SyncRun:
        """Return a try-on from upload to end, which begins when it is first used.

        ``for session in run`` shows it after each change, ``run.wait()`` returns the
        session that has ended, ``run.result()`` the picture.
        """
        run = self._client.run(
            image,
            garment=garment,
            inputs=inputs,
            params=params,
            original=original,
            idempotency_key=idempotency_key,
        )
        return SyncRun(run, self._loop)

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
        return self._loop.iterate(updates)

    def watch_all(self, *, transports: Sequence[str] = WATCH_TRANSPORTS) -> Iterator[Update | Erased]:
        """Yield each change of every session of this owner, over one connection."""
        return self._loop.iterate(self._client.watch_all(transports=transports))

    def wait(self, session: SessionOrId) -> SessionView:
        """Return the session once it has ended, completed or not."""
        return self._loop.run(self._client.wait(session))

    def result(self, session: SessionOrId) -> bytes:
        """Wait for the session's end and return its picture. Raises NotCompleted."""
        return self._loop.run(self._client.result(session))
