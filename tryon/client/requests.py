"""``Requests``: the client's calls that are one request and its answer each."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from tryon.client.calls import Calls
from tryon.client.http import HttpNetwork
from tryon.client.problems import Problem
from tryon.protocol.limits import LimitsView
from tryon.protocol.paths import LIMITS, PROCESSOR
from tryon.protocol.processors import ProcessorView
from tryon.protocol.views import History, Receipt, SessionView, Share

SessionOrId = SessionView | str


class SessionPage(msgspec.Struct, frozen=True):
    """Sessions of one owner, newest first.

    ``next_cursor`` opens the next page; None: this was the last.
    """

    sessions: list[SessionView]
    next_cursor: str | None


def id_of(session: SessionOrId) -> str:
    """Return the id of a session."""
    return session.session_id if isinstance(session, SessionView) else session


class Requests:
    """The calls of one owner to one server. Every call raises Problem."""

    def __init__(self, network: HttpNetwork, calls: Calls) -> None:
        self._network = network
        self._calls = calls

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._network.url}>"

    @property
    def token(self) -> str:
        """Return the owner's token, which opens all of its sessions.

        Of a function: the last one that it gave, empty before the first.
        """
        return self._calls.tokens.last

    async def get(self, session: SessionOrId) -> SessionView:
        """Return a session as it is now, with fresh links."""
        return await self._calls.session(SessionView, "GET", f"/{id_of(session)}")

    read = get

    async def list(self, *, limit: int | None = None, cursor: str | None = None) -> SessionPage:
        """Return a page of this owner's sessions, newest first."""
        return await self._calls.session(SessionPage, "GET", query={"limit": limit, "cursor": cursor})

    async def history(self, session: SessionOrId) -> History:
        """Return every transition of a session, from its audit trail."""
        return await self._calls.session(History, "GET", f"/{id_of(session)}/history")

    async def cancel(self, session: SessionOrId) -> SessionView:
        """Cancel a session and return it.

        It is cancelled, or still processing until its worker stops.
        """
        return await self._calls.session(SessionView, "POST", f"/{id_of(session)}/cancel")

    async def retry(self, session: SessionOrId) -> SessionView:
        """Return a new session over the photos of one that failed or was cancelled."""
        return await self._calls.session(SessionView, "POST", f"/{id_of(session)}/retry")

    async def remove(self, session: SessionOrId) -> Receipt:
        """Erase a session, its photos and retries now; return the signed receipt.

        It is not repeated when its answer is lost, since the repeat would find nothing:
        after a Problem of the code "network", :meth:`get` shows whether the session is
        still there.
        """
        return await self._calls.session(Receipt, "DELETE", f"/{id_of(session)}")

    delete = remove

    async def share(self, session: SessionOrId) -> Share:
        """Return a link to the session's first output, for people without a token.

        It shows nothing else, and ends after a day or with the session. Raises Problem
        unless the session is completed.
        """
        return await self._calls.session(Share, "POST", f"/{id_of(session)}/share")

    async def processor(self) -> ProcessorView:
        """Return the processor: inputs, params, outputs, and where the photo goes."""
        return await self._calls.public(ProcessorView, PROCESSOR)

    async def limits(self) -> LimitsView:
        """Return the limits of the server, to check a photo before it is sent."""
        return await self._calls.public(LimitsView, LIMITS)

    async def download(self, link: str) -> bytes:
        """Return the picture behind one of a session's links.

        Links expire: :meth:`get` brings fresh ones. A link to another server is a
        Problem: nothing is asked there.
        """
        path = link.removeprefix(self._network.url)
        if not path.startswith("/"):  # behind the address it could even name another host
            raise Problem("unknown", f"The link does not lead to {self._network.url}.")
        return await self._calls.file(path)

    def url(self, link: str) -> str:
        """Return a session's link as a whole URL, to open elsewhere."""
        return link if urlsplit(link).scheme else self._network.url + link
