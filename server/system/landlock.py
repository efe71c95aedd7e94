"""Landlock: a process gives up the files that it does not name (landlock(7)).

What is given up stays so, for this thread and for all that it starts later; a second
:func:`restrict` only takes more away. Reading metadata (``stat``) of a path that is
known is not restricted, and neither is changing it, which
:mod:`~server.system.seccomp` refuses.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from server.system import syscalls

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
TRUNCATE: Final = 1 << 14
IOCTL_DEV: Final = 1 << 15

READ: Final = EXECUTE | READ_FILE | READ_DIR
"""Rights for what is read, programs and libraries included."""
ALL: Final = (1 << 16) - 1
"""All rights: make, move, remove, truncate and device commands included."""
OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""Rights that a rule for something that is no folder may have."""

_FS_BITS: Final = {1: 13, 2: 14, 3: 15, 5: 16}
"""Number of rights that a version of the interface knows, from that version on."""
_NET_VERSION: Final = 4
_SCOPE_VERSION: Final = 6
SIGNALS_VERSION: Final = _SCOPE_VERSION
"""The first version that keeps signals within the process and what it starts."""

_CREATE_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_BIND_AND_CONNECT_TCP: Final = 3
_ABSTRACT_SOCKETS_AND_SIGNALS: Final = 3


def version() -> int:
    """Return the version of the kernel's interface (its ABI); 0 if there is none."""
    if syscalls.architecture() is None:
        return 0
    try:
        return syscalls.call("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_VERSION))
    except OSError as error:
        if error.errno in (
            errno.ENOSYS,
            errno.EOPNOTSUPP,
            errno.EPERM,
        ):  # too old, switched off, refused by a container
            return 0
        raise


def known_rights(version: int) -> int:
    """Return the rights to files that a version of the interface knows."""
    return (1 << max(bits for since, bits in _FS_BITS.items() if since <= version)) - 1


def restrict(rules: Iterable[tuple[Path, int]], *, network: bool = True, scoped: bool = True) -> None:
    """Keep these rights to these paths, and what is below them; give up all others.

    Paths that don't exist are left out. Without ``network`` TCP is given up as well.
    If ``scoped``, signals and abstract sockets reach no process outside, from version 6
    on. Needs ``no_new_privs``. Raises OSError.
    """
    found = version()  # asked again: 1 us
    rights = known_rights(found)
    attributes = struct.pack(
        "=QQQ",
        rights,
        _BIND_AND_CONNECT_TCP if found >= _NET_VERSION and not network else 0,
        _ABSTRACT_SOCKETS_AND_SIGNALS if found >= _SCOPE_VERSION and scoped else 0,
    )
    size = 24 if found >= _SCOPE_VERSION else 16 if found >= _NET_VERSION else 8
    ruleset = syscalls.call("landlock_create_ruleset", attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for path, allowed in rules:
            _allow(ruleset, path, allowed & rights)
        syscalls.call("landlock_restrict_self", ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it isn't there, or can't be reached anyway
        return
    try:
        if not stat.S_ISDIR(os.fstat(file).st_mode):
            rights &= OF_FILES
        rule = struct.pack("=Qi", rights, file)
        kind = ctypes.c_int(_RULE_PATH_BENEATH)
        syscalls.call("landlock_add_rule", ctypes.c_int(ruleset), kind, rule, ctypes.c_uint32(0))
    finally:
        os.close(file)


def without(root: Path, hidden: Collection[Path]) -> Iterator[Path]:
    """Yield paths that make up ``root`` without the ``hidden`` ones, all resolved.

    A rule holds for everything below its path, and no rule takes away: so a folder on
    the way to a hidden path stands here by its other folders, as they are now. Its
    files are left out: a rule keeps the blocks of a file that was deleted.
    """
    if any(root == each or each in root.parents for each in hidden):
        return
    above = {str(parent) for each in hidden for parent in each.parents}
    for path in _without(str(root), {str(each) for each in hidden}, above):
        yield Path(path)


def _without(folder: str, hidden: Collection[str], above: Collection[str]) -> Iterator[str]:
    if folder not in above:
        yield folder
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.path not in hidden and not entry.is_symlink() and not entry.is_file():
                yield from _without(entry.path, hidden, above)
