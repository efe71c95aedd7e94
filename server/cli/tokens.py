"""The client tokens of this user: one for each server, each in a file of its own.

A token is the only way back to its sessions, so it is made once and kept. Its file is
readable by this user alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from tryon.client.calls import random_text
from tryon.protocol.credentials import TOKEN_PATTERN

_PORTS: Final = {"http": 80, "https": 443}
_PRIVATE: Final = 0o600


class BadToken(Exception):
    """A file that cannot be read or written, or that holds no token; one line."""


def token_path(server: str, environment: Mapping[str, str]) -> Path:
    """Return the file of a server's token, in the user's configuration (XDG)."""
    parts = urlsplit(server)
    port = parts.port or _PORTS.get(parts.scheme, 0)
    name = f"{parts.scheme}_{quote(parts.hostname or '', safe='')}_{port}{quote(parts.path.rstrip('/'), safe='')}"
    return _folder(environment) / "tryon" / "tokens" / name


def _folder(environment: Mapping[str, str]) -> Path:
    named = Path(environment.get("XDG_CONFIG_HOME", ""))
    return named if named.is_absolute() else Path(environment.get("HOME") or "~").expanduser() / ".config"


def read_token(path: Path) -> tuple[str, bool]:
    """Return the token in a file, and whether it was made now.

    A missing file gets a new token; of two processes at once one makes it. Raises
    BadToken.
    """
    try:
        token, made = _read(path), False
        if token is None:
            _make(path)
            token, made = _read(path), True
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadToken(f"cannot use the token file {path}: {reason}") from None
    if token is None or not TOKEN_PATTERN.fullmatch(token):
        raise BadToken(f"{path} holds no client token: 22 to 128 characters of A-Z a-z 0-9 _ and -")
    return token, made


def is_exposed(path: Path) -> bool:
    """Return whether other users of this machine may open a file. Raises OSError."""
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def make_private(path: Path) -> None:
    """Let no other user open a file. Raises OSError."""
    path.chmod(_PRIVATE)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".token-", dir=path.parent)  # 0600
    try:
        with open(descriptor, "w") as file:
            file.write(random_text() + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(name, path)  # unlike a rename it replaces no token of another process
    finally:
        os.unlink(name)
