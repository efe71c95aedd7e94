"""WebSocket only: answers a client's messages, detached or over ASGI."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from server.adapters.database.clock import DatabaseClock
from server.domain.session import timestamp
from server.system.clock import Clock
from server.telemetry import metrics
from server.web.transports.inbound import Answer
from server.web.transports.joining import Joining
from server.web.transports.listener import Listener
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.errors import TryOnError, Unavailable
from tryon.protocol.frames import ByeFrame, ErrorFrame, PingFrame, PongFrame, bye, encode

log = logging.getLogger("tryon.web")


class Conversation:
    """Reads what a client has sent and answers it."""

    __slots__ = ("_clock", "_database_clock", "_joining")

    def __init__(self, *, joining: Joining, clock: Clock, database_clock: DatabaseClock) -> None:
        self._joining = joining
        self._clock = clock
        self._database_clock = database_clock

    def __repr__(self) -> str:
        return f"<Conversation {self._joining!r}>"

    def receive(self, listener: Listener, text: str) -> bool:
        """Count a message and answer a ping; return whether to call :meth:`resync`."""
        state = listener.inbound
        if state is None:
            state = listener.inbound = listener.inbound_state()
        answer = state.receive(text, self._clock.monotonic(), admitted=listener.seq is not None)
        if answer is Answer.PONG:
            listener.put(encode(PongFrame(self._now())))
        elif answer is Answer.CLOSE:
            listener.close(bye(CloseCode.MISUSE))
        return answer is Answer.SYNC

    async def resync(self, listener: Listener) -> None:
        """Answer a ``sync``: send a new snapshot to a client that woke up.

        While the database is unavailable there is none: a ``ping`` says that the
        connection lives, and events come when they can be read.
        """
        state = listener.inbound
        assert state is not None
        metrics.resyncs.inc()
        try:
            await self._joining.show_again(listener, since=state.sync_since)
        except Unavailable:
            listener.put(encode(PingFrame(self._now())))
        except TryOnError as error:
            listener.close(_bye_of(error))
        except Exception:
            log.exception("Answering a sync failed")
            listener.close(bye(CloseCode.RESYNC, "internal_error"))
        finally:
            state.syncing = False

    def _now(self) -> str:
        return timestamp(datetime.fromtimestamp(self._database_clock.now(), UTC))


def refuse(listener: Listener, error: TryOnError) -> None:
    """Send an error that a person understands, then close."""
    listener.put(encode(ErrorFrame(error.code, error.detail)))
    listener.close(_bye_of(error))


def _bye_of(error: TryOnError) -> ByeFrame:
    retry_after_ms = None if error.retry_after is None else int(error.retry_after * 1000)
    return bye(error.close_code, error.code, retry_after_ms=retry_after_ms)
