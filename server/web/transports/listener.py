"""The base of sockets and event streams: a follower that ends with a ``bye``."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Final

from server.web.push.follower import Follower
from server.web.transports.inbound import InboundState
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.frames import ByeFrame, bye
from tryon.protocol.states import GoneReason

TOO_SLOW: Final = bye(CloseCode.TOO_SLOW)


class Listener(Follower):
    """The client of one stream: a WebSocket or an event stream.

    ``inbound`` is None until the client sends its first message; most never do.
    ``until``: when the ticket that opened the stream ends; None: a token opened it.
    """

    __slots__ = ("inbound", "until")

    inbound_state: ClassVar[type[InboundState]] = InboundState

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.inbound: InboundState | None = None
        self.until: int | None = None

    @abstractmethod
    def put(self, frame: bytes) -> None:
        """Send a frame; if the client does not take it, it is disconnected."""

    @abstractmethod
    def close(self, bye: ByeFrame) -> None:
        """Send this ``bye`` and nothing more; the first call counts."""

    def snapshot(self, frame: bytes, seq: int) -> None:
        """Send a snapshot of the session at ``seq``."""
        self.put(frame)

    def end(self, status: str) -> None:
        """Say goodbye after the terminal event."""
        self.close(bye(CloseCode.DONE, status))

    def gone(self, reason: GoneReason) -> None:
        """Say goodbye because the session was erased."""
        self.close(bye(CloseCode.GONE, reason.value))

    def drain(self, retry_after_ms: int) -> None:
        """Say goodbye because the server is stopping."""
        self.close(bye(CloseCode.DRAINING, retry_after_ms=retry_after_ms))

    def broken(self, retry_after_ms: int) -> None:
        """Say goodbye because a delivery failed."""
        self.close(bye(CloseCode.RESYNC, "internal_error"))

    def too_old(self, retry_after_ms: int) -> None:
        """Say goodbye because the connection has reached its maximum age."""
        self.close(bye(CloseCode.MAXIMUM_AGE, retry_after_ms=retry_after_ms))
