"""Resources that must be free before the stack starts, and are held while it runs.

The data folder, the port, and a folder for the embedded Valkey's socket. Each is a
context manager and raises :class:`~server.up.errors.UpError`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from server.config.settings import Config
from server.up.errors import UpError
from server.up.program import say

SOCKET_FOLDER_LIMIT: Final = 80
"""Characters of the folder of Valkey's socket: a Unix socket's path must stay under 108
bytes (Linux; 104 on macOS).
"""


@contextlib.contextmanager
def data_dir_lock(data_dir: Path) -> Iterator[None]:
    """Hold the data folder.

    Two stacks on one SQLite file and one append-only file would ruin both.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # people's photos
        file = (data_dir / "tryon.lock").open("ab+", buffering=0)
    except OSError as error:
        raise UpError(f"TRYON_DATA_DIR: cannot use {data_dir}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, however it ends
        except OSError:
            file.seek(0)
            raise UpError(
                f"TRYON_DATA_DIR: another `tryon up` (process {file.read().decode().strip() or 'unknown'}) runs on {data_dir}"
            ) from None
        file.truncate(0)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the number
            file.write(f"{os.getpid()}\n".encode())
        yield


def _check_room(folder: Path) -> None:
    """Raise :class:`UpError`, in one line, if a new file has no room in a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        raise UpError(f"TRYON_DATA_DIR: cannot use {folder}: {error.strerror}") from None


def check_port(host: str, port: int) -> None:
    """Raise :class:`UpError`, in one line, if no server could listen there."""
    with _bound(host, port):
        pass


@contextlib.contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Keep a port bound, though not listened on; a free one if ``port`` is 0.

    Web processes share it by SO_REUSEPORT, and no other program takes it while one of
    them starts again.
    """
    check_port(host, port)  # without SO_REUSEPORT, which would let us in beside another stack
    with _bound(host, port, share=True) as listener:
        yield listener.getsockname()[1]


def _bound(host: str, port: int, *, share: bool = False) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError):
        raise UpError(f"TRYON_HOST: {host!r} is not an address of this machine") from None
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        name, reason = "TRYON_HOST" if error.errno == errno.EADDRNOTAVAIL else "TRYON_PORT", error.strerror
        raise UpError(f"{name}: cannot listen on {at(host, port)}: {reason}") from None
    return bound


def at(host: str, port: int) -> str:
    """Return host and port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.contextmanager
def valkey_socket(config: Config) -> Iterator[Path | None]:
    """Make a folder for the embedded Valkey's socket; None if it is not used.

    The socket's URL stands in the data folder, for other programs. TRYON_REDIS_URL
    names another server, if it is set. Not in the data folder itself: a socket's path
    is short by law, and not every file system holds one.
    """
    if config.redis_url is not None:
        yield None
        return
    if not (config.data_dir / "valkey").exists():  # its own report would be an exit status
        _check_room(config.data_dir)
    note = config.redis_address_file
    with contextlib.suppress(OSError):  # a stack that was killed left its socket behind
        left = Path(note.read_text().strip().removeprefix("unix://"))
        if left.name == "valkey.sock" and re.fullmatch(r"tryon-\w+", left.parent.name):
            shutil.rmtree(left.parent, ignore_errors=True)
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="tryon-", dir=parent if len(parent) <= SOCKET_FOLDER_LIMIT else "/tmp")  # noqa: S108
    try:
        path = Path(folder) / "valkey.sock"  # the folder is 0700: only this user reaches it
        try:
            note.write_text(f"unix://{path}\n")
        except OSError as error:  # a full disk: the stack runs without
            say(f"other programs do not find its Redis: cannot write {note}: {error.strerror}")
            note.unlink(missing_ok=True)
        yield path
    finally:
        note.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
