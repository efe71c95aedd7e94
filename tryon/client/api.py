"""``AsyncTryOn``: the asynchronous client, one method per operation."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self

from tryon.client.address import DEFAULT_URL
from tryon.client.calls import Calls, random_text
from tryon.client.connection import Access
from tryon.client.following import Following
from tryon.client.http import HttpNetwork
from tryon.client.photos import Photo, Photos, read_parts, upload_body
from tryon.client.problems import NotCompleted, Problem
from tryon.client.requests import Requests, SessionOrId, id_of
from tryon.client.run import Run
from tryon.client.state import Update
from tryon.client.tokens import TokenSource
from tryon.client.watching import WATCH_TRANSPORTS, Erased, Watching
from tryon.protocol.backoff import TRANSPORTS
from tryon.protocol.states import Status
from tryon.protocol.views import Params, SessionView


class AsyncTryOn(Requests):
    """A client of the server at ``url``.

    ::

        async with AsyncTryOn("https://tryon.example") as tryon:
            session = await tryon.upload("photo.jpg")
            async for update in tryon.follow(session):
                print(update.status, update.progress)
            picture = await tryon.result(session)

    Every call raises :class:`~tryon.client.problems.Problem` when it is refused or gets
    no answer.
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
        """Make a client; nothing is sent yet.

        ``token``: the owner's, 22 to 128 characters of ``A-Z a-z 0-9 _ -``; made if
        left out. Keep it: it is the only way back to the sessions. Or a function, sync
        or async, that returns a user's JWT: it is asked before the first request, and
        once more when the server refuses its last answer. ``attempts``: per call, while
        there is no answer or a refusal that passes within 5 seconds. ``timeout``: of
        each attempt, in seconds; an upload has a second more for each 64 KiB, a
        download that long for each piece. ``trust_env``: honour HTTPS_PROXY and
        NO_PROXY. ``ssl_context``: instead of the usual certificate authorities.
        """
        network = HttpNetwork(url, trust_env=trust_env, ssl_context=ssl_context)
        self._chance = random.Random()
        calls = Calls(network, token or random_text(), attempts=max(1, attempts), seconds=timeout, chance=self._chance)
        super().__init__(network, calls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection of calls; followers close theirs when they end."""
        await self._network.close()

    # -- making and following ----------------------------------------------------------

    async def upload(
        self,
        image: Photo | None = None,
        *,
        garment: Photo | None = None,
        inputs: Photos | None = None,
        params: Params | None = None,
        original: SessionOrId | None = None,
        idempotency_key: str | None = None,
    ) -> SessionView:
        """Upload photos and return their session.

        ``image`` stands for the processor's first role. ``inputs``: photos by the names
        of its roles, which :meth:`processor` lists, instead or besides:
        ``{"person": "me.jpg", "garment": ["shirt.png", "hat.png"]}``. ``original``: a
        session of this owner, whose photos are copied for the roles that are not sent;
        the new session is erased with it, and lives no longer. The same
        ``idempotency_key`` makes one session, however often it is sent; each upload has
        a key of its own if it is left out. Raises OSError for a file that cannot be
        read.
        """
        photos = await read_parts(image, garment, inputs or {})
        content_type, body = upload_body(photos, params, original=None if original is None else id_of(original))
        headers = {"Content-Type": content_type, "Idempotency-Key": idempotency_key or random_text()}
        return await self._calls.session(SessionView, "POST", headers=headers, body=body)

    def run(
        self,
        image: Photo | None = None,
        *,
        garment: Photo | None = None,
        inputs: Photos | None = None,
        params: Params | None = None,
        original: SessionOrId | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Return a try-on from upload to end, which begins when it is first used.

        ``await run`` returns the session that has ended, completed or not; ``async for
        session in run`` shows it after each change; ``await run.result()`` is the
        picture. The arguments are those of :meth:`upload`.
        """
        key = idempotency_key or random_text()

        async def upload() -> SessionView:
            return await self.upload(
                image, garment=garment, inputs=inputs, params=params, original=original, idempotency_key=key
            )

        return Run(upload, self.follow, self.result)

    def follow(
        self,
        session: SessionOrId,
        *,
        since: int = 0,
        ticket: str | None = None,
        transports: Sequence[str] = TRANSPORTS,
    ) -> AsyncGenerator[Update, None]:
        """Yield each change of a session until it has ended.

        Every transition comes once and in order, also when connections are lost, and
        progress in between. ``since``: seq of the last transition already known.
        ``ticket``: a read-only pass for this session, instead of the token. Raises
        Problem when the session is deleted, expired, or not this owner's. Leave the
        loop early inside ``contextlib.aclosing`` to close the connection at once.
        """
        known = session if isinstance(session, SessionView) else None
        following = Following(
            self._network,
            id_of(session),
            Access(ticket=ticket) if ticket else Access(),
            tokens=None if ticket else self._calls.tokens,
            since=since,
            session=known,
            transports=transports,
            chance=self._chance,
        )
        return following.updates()

    def watch_all(self, *, transports: Sequence[str] = WATCH_TRANSPORTS) -> AsyncGenerator[Update | Erased, None]:
        """Yield each change of every session of this owner, over one connection.

        First the transitions of the sessions that have not ended, then all that comes,
        for as long as the caller asks; sessions that are made later are among them.
        :class:`~tryon.client.watching.Erased` stands for one that was erased before its
        end. Every transition of a session comes once and in order, also when
        connections are lost. The server follows 200 living sessions at a time. Raises
        Problem when it refuses this client. Leave the loop inside
        ``contextlib.aclosing`` to close the connection at once.
        """
        tokens = self._calls.tokens
        watching = Watching(self._network, Access(), transports=transports, tokens=tokens, chance=self._chance)
        return watching.updates()

    async def wait(self, session: SessionOrId) -> SessionView:
        """Return the session once it has ended, completed or not."""
        async with aclosing(self.follow(session)) as updates:
            async for update in updates:
                if update.terminal:
                    return update.session
        return await self.get(session)

    async def result(self, session: SessionOrId) -> bytes:
        """Wait for the session's end and return its picture.

        Raises NotCompleted if it failed or was cancelled.
        """
        ended = await self.wait(session)
        if ended.status is not Status.COMPLETED:
            raise NotCompleted(ended)
        fresh = await self.get(session)  # links expire
        if fresh.links.output is None:
            raise Problem("not_found", "The session has no picture.")
        return await self.download(fresh.links.output)
