"""How fast a client takes its answers: writing waits for it, and not for ever.

Above the transport's limit of unsent bytes the application waits (:meth:`Pace.drain`).
From then on, and while a connection that is to be closed still has unsent bytes, each
:data:`WINDOW_SECONDS` the client has to take :data:`FLOOR_BYTES`; else the connection
is cut. Bytes count as taken when the client's kernel has acknowledged them: ours alone
would take megabytes for a client that reads nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import struct
import termios
from typing import Final

from server.web.transports.wire import NOWHERE

WINDOW_SECONDS: Final = 10.0
"""Length of the windows in which a client's bytes are counted, in both directions."""

FLOOR_BYTES: Final = 40 * 1024
"""Minimum bytes of a window: 4 KiB a second, slower than any mobile network."""

LEFT_EVENTS: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
"""States, in the kernel's words, of a connection whose other side has ended."""


class Pace:
    """The unsent bytes of one connection."""

    __slots__ = ("_loop", "_taken", "_timer", "_transport", "_writable", "_written")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written = 0
        self._taken = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writable: asyncio.Future[None] | None = None
        """Pending while the transport holds too many bytes."""

    def __repr__(self) -> str:
        return f"<Pace written={self._written} paused={self.paused} watched={self._timer is not None}>"

    @property
    def paused(self) -> bool:
        """Whether nothing more should be written for now."""
        return self._writable is not None

    @property
    def unsent(self) -> int:
        """Return the bytes that the client's kernel has not acknowledged."""
        return self._transport.get_write_buffer_size() + kernel_bytes(self._transport, termios.TIOCOUTQ)

    def write(self, data: bytes) -> None:
        """Write to the transport; a connection that is being closed takes nothing."""
        if not self._transport.is_closing():  # uvloop raises between its end and connection_lost()
            self._written += len(data)
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until more may be written, or the connection is lost."""
        while self._writable is not None:
            await asyncio.shield(self._writable)

    def pause(self) -> None:
        """Let writers wait (asyncio's ``pause_writing``), and watch the client."""
        if self._writable is None:
            self._writable = self._loop.create_future()
        self.watch()

    def resume(self) -> None:
        """Wake the writers (asyncio's ``resume_writing``)."""
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.set_result(None)
        if not self._transport.is_closing():
            self._stop_watching()

    def watch(self) -> None:
        """Cut the connection if the client takes its bytes too slowly from now on."""
        if self._timer is None and self._transport is not NOWHERE:
            self._taken = self._written - self.unsent
            self._timer = self._loop.call_later(WINDOW_SECONDS, self._look)

    def end(self) -> None:
        """Wake the writers and watch no more: the connection is lost."""
        self.resume()
        self._stop_watching()
        self._transport = NOWHERE

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        unsent = self.unsent
        if self._written - unsent - self._taken < FLOOR_BYTES and unsent:
            self._transport.abort()
        elif unsent or self._transport.is_closing():
            self.watch()


def kernel_bytes(transport: asyncio.Transport, which: int) -> int:
    """Return how many bytes of a connection the kernel holds.

    ``which``: ``termios.FIONREAD`` for those that were not read, ``termios.TIOCOUTQ``
    for those that were not acknowledged.
    """
    found = bytearray(4)
    try:
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), which, found)
    except (AttributeError, OSError, ValueError):  # closed in the meantime
        return 0
    (count,) = struct.unpack("i", found)
    return int(count)


def has_left(transport: asyncio.Transport) -> bool:
    """Return whether the client has closed its side, or reset the connection.

    The kernel knows before the loop says so, since what came before is read first. One
    system call; False where the kernel does not tell (it does on Linux).
    """
    found = select.poll()
    try:
        found.register(transport.get_extra_info("socket").fileno(), LEFT_EVENTS)
        return bool(found.poll(0))
    except (AttributeError, OSError, ValueError):  # closed in the meantime: the loop will say so
        return False
