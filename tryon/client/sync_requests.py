"""``SyncRequests``: one request and its answer each, without ``await``."""

from __future__ import annotations

from tryon.client.api import AsyncTryOn
from tryon.client.loop_thread import LoopThread
from tryon.client.requests import SessionOrId, SessionPage
from tryon.protocol.limits import LimitsView
from tryon.protocol.processors import ProcessorView
from tryon.protocol.views import History, Receipt, SessionView, Share


class SyncRequests:
    """The calls of :class:`~tryon.client.requests.Requests`, run by a loop's thread."""

    def __init__(self, client: AsyncTryOn, loop: LoopThread) -> None:
        self._client = client
        self._loop = loop

    def __repr__(self) -> str:
        return repr(self._client).replace("AsyncTryOn", "TryOn")

    @property
    def token(self) -> str:
        """Return the owner's token, which opens all of its sessions."""
        return self._client.token

    def get(self, session: SessionOrId) -> SessionView:
        """Return a session as it is now, with fresh links."""
        return self._loop.run(self._client.get(session))

    read = get

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

    def remove(self, session: SessionOrId) -> Receipt:
        """Erase a session, its photos and retries now; return the signed receipt.

        It is not repeated when its answer is lost.
        """
        return self._loop.run(self._client.remove(session))

    delete = remove

    def share(self, session: SessionOrId) -> Share:
        """Return a link to the session's first output, for people without a token."""
        return self._loop.run(self._client.share(session))

    def processor(self) -> ProcessorView:
        """Return the processor: inputs, params, outputs, and where the photo goes."""
        return self._loop.run(self._client.processor())

    def limits(self) -> LimitsView:
        """Return the limits of the server, to check a photo before it is sent."""
        return self._loop.run(self._client.limits())

    def download(self, link: str) -> bytes:
        """Return the picture behind one of a session's links."""
        return self._loop.run(self._client.download(link))

    def url(self, link: str) -> str:
        """Return a session's link as a whole URL, to open elsewhere."""
        return self._client.url(link)
