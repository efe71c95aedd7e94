"""A terminal for a command of a test: everything drawn on it, and keys to press."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import termios
from typing import Final

DRAW_SECONDS: Final = 60
"""Longest wait for a command to draw something, or to end."""


class Terminal:
    """A terminal in which a command runs, and everything that was drawn on it."""

    def __init__(self, *, columns: int = 80) -> None:
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.drawn = b""

    async def draws(self, pattern: str | None = None) -> str:
        """Return everything drawn, once it matches or the command has ended."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DRAW_SECONDS):
            while pattern is None or not re.search(pattern, self.drawn.decode(errors="replace")):
                try:
                    self.drawn += await loop.run_in_executor(None, os.read, self._ours, 65536)
                except OSError:  # the command has closed its end
                    assert pattern is None, self.drawn
                    break
        return self.drawn.decode(errors="replace")

    def types(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._ours, keys)

    def close_theirs(self) -> None:
        """Leave the command's end to the command."""
        os.close(self.theirs)

    def close(self) -> None:
        os.close(self._ours)
