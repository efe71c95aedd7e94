"""``AsyncTryOn``: the asynchronous client, one method per operation."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import msgspec

from tryon.client.calls import Calls, random_text
from tryon.client.connection import Access
from tryon.client.following import Following
from tryon.client.http import HttpNetwork
from tryon.client.photos import Photo, Photos, read_parts, upload_body
from tryon.client.problems import NotCompleted, Problem
from tryon.client.state import Update
from tryon.protocol.backoff import TRANSPORTS
from tryon.protocol.paths import PROCESSOR
from tryon.protocol.processors import ProcessorView
from tryon.protocol.states import Status
from tryon.protocol.views import History, Params, Receipt, SessionView

DEFAULT_URL = "http://127.0.0.1:8000"

SessionOrId = SessionView | str


class SessionPage(msgspec.Struct, frozen=True):
    """Sessions of one owner, newest first.

    ``next_cursor`` opens the next page; None: this was the last.
    """

    sessions: list[SessionView]
    next_cursor: str | None


class AsyncTryOn:
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
        token: str | None = None,
        attempts: int = 3,
        timeout: float = 15.0,
        trust_env: bool = True,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Make a client; nothing is sent yet.

        ``token``: the owner's, 22 to 128 characters of ``A-Z a-z 0-9 _ -``; made if
        left out. Keep it: it is the only way back to the sessions. ``attempts``: per
        call, while there is no answer or a refusal that passes within 5 seconds.
        ``timeout``: of each attempt, in seconds; an upload has a second more for each
        64 KiB, a download that long for each piece. ``trust_env``: honour HTTPS_PROXY
        and NO_PROXY. ``ssl_context``: instead of the usual certificate authorities.
        """
        self._network = HttpNetwork(url, trust_env=trust_env, ssl_context=ssl_context)
        self._chance = random.Random()
        self._calls = Calls(
            self._network, token or random_text(), attempts=max(1, attempts), seconds=timeout, chance=self._chance
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._network.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection of calls; followers close theirs when they end."""
        await self._network.close()

    @property
    def token(self) -> str:
        """Return the owner's token, which opens all of its sessions."""
        return self._calls.token

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
        of its roles, which :meth:`processor` tells, instead or besides:
        ``{"person": "me.jpg", "garment": ["shirt.png", "hat.png"]}``. ``original``: a
        session of this owner, whose photos are copied for the roles that are not sent;
        the new session is erased with it, and lives no longer. The same
        ``idempotency_key`` makes one session, however often it is sent; each upload has
        a key of its own if it is left out. Raises OSError for a file that cannot be
        read.
        """
        photos = await read_parts(image, garment, inputs or {})
        content_type, body = upload_body(photos, params, original=None if original is None else _id(original))
        headers = {"Content-Type": content_type, "Idempotency-Key": idempotency_key or random_text()}
        return await self._calls.session(SessionView, "POST", headers=headers, body=body)

    def follow(
        self,
        session: SessionOrId,
        *,
        since: int = 0,
        ticket: str | None = None,
        transports: Sequence[str] = TRANSPORTS,
    ) -> AsyncGenerator[Update, None]:
        """Yield each change of a session until it has ended.

        Every transition comes once and in order, whatever happens to the connection,
        and progress in between. ``since``: seq of the last transition already known.
        ``ticket``: a read-only pass for this session, instead of the token. Raises
        Problem when the session is deleted, expired, or not this owner's. Leave the
        loop early inside ``contextlib.aclosing`` to close the connection at once.
        """
        known = session if isinstance(session, SessionView) else None
        following = Following(
            self._network,
            _id(session),
            Access(ticket=ticket) if ticket else Access(token=self.token),
            since=since,
            session=known,
            transports=transports,
            chance=self._chance,
        )
        return following.updates()

    async def wait(self, session: SessionOrId) -> SessionView:
        """Return the session once it has ended, in whatever way."""
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

    # -- sessions ----------------------------------------------------------------------

    async def get(self, session: SessionOrId) -> SessionView:
        """Return a session as it is now, with fresh links."""
        return await self._calls.session(SessionView, "GET", f"/{_id(session)}")

    async def list(self, *, limit: int | None = None, cursor: str | None = None) -> SessionPage:
        """Return a page of this owner's sessions, newest first."""
        return await self._calls.session(SessionPage, "GET", query={"limit": limit, "cursor": cursor})

    async def history(self, session: SessionOrId) -> History:
        """Return every transition of a session, from its audit trail."""
        return await self._calls.session(History, "GET", f"/{_id(session)}/history")

    async def cancel(self, session: SessionOrId) -> SessionView:
        """Cancel a session and return it.

        It is cancelled, or still processing until its worker stops.
        """
        return await self._calls.session(SessionView, "POST", f"/{_id(session)}/cancel")

    async def retry(self, session: SessionOrId) -> SessionView:
        """Return a new session over the photos of one that failed or was cancelled."""
        return await self._calls.session(SessionView, "POST", f"/{_id(session)}/retry")

    async def delete(self, session: SessionOrId) -> Receipt:
        """Erase a session, its photos and retries now; return the signed receipt.

        It is not repeated when its answer is lost, since the repeat would find nothing:
        after a Problem of the code "network", :meth:`get` shows whether the session is
        still there.
        """
        return await self._calls.session(Receipt, "DELETE", f"/{_id(session)}")

    async def processor(self) -> ProcessorView:
        """Return what the processor takes and makes, and where the photo goes."""
        return await self._calls.public(ProcessorView, PROCESSOR)

    async def download(self, link: str) -> bytes:
        """Return the picture behind one of a session's links.

        Links expire: :meth:`get` brings fresh ones.
        """
        return await self._calls.file(link.removeprefix(self._network.url))

    def url(self, link: str) -> str:
        """Return a session's link as a whole URL, to open elsewhere."""
        return link if urlsplit(link).scheme else self._network.url + link


def _id(session: SessionOrId) -> str:
    return session.session_id if isinstance(session, SessionView) else session
