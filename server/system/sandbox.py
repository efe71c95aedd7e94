"""The sandbox: a process that runs code on untrusted bytes gives up everything else.

A decoder or a model that was taken over by a hostile photo reaches no file, no network,
no service of this machine and no other process. Four layers, each closed for good by
:meth:`Sandbox.enter`; each holds where another is missing::

    user       another user that owns nothing, if this one is root; no capability
    landlock   files and folders (:mod:`~server.system.landlock`)
    signals    a part of Landlock: signals and abstract sockets stay inside
    seccomp    network, other processes, programs, large parts of the kernel
               (:mod:`~server.system.seccomp`)

A layer that this machine lacks is returned by name, and is for the caller to report
(:data:`MEANINGS`); a layer that is there and fails is an OSError: nothing runs without
it.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import resource
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from server.system import landlock, processes, seccomp, syscalls

MEANINGS: Final = {
    "user": "another user (root needs CAP_SETUID, CAP_SETGID and CAP_KILL, and code that others may read)",
    "landlock": "Landlock, Linux 5.13 (files)",
    "signals": "Landlock 6, Linux 6.12 (signals)",
    "seccomp": "seccomp on x86-64 or AArch64 (network, other processes, programs)",
}
"""The layers of a sandbox: purpose of each, and what the kernel must offer."""

_FIRST_USER: Final = 2_000_000_000
"""User and group ids of sandboxes: this and the process id. No system gives them away.
"""
_NOBODY: Final = 65534
"""The user of a sandbox in a container that has only 65536 users."""

_CAP_KILL, _CAP_SETGID, _CAP_SETUID = 5, 6, 7
_CAPABILITIES_VERSION: Final = 0x20080522
_PR_SET_DUMPABLE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Rights that a sandboxed process keeps."""

    rules: tuple[tuple[Path, int], ...] = ()
    """Paths, and Landlock's rights to them and to what is below."""
    network: bool = False
    """Sockets of the internet; never those of this machine's services."""
    programs: bool = False
    """Start programs and processes, and signal them; they inherit the sandbox."""
    own_user: bool = True
    """Become another user, if this one is root."""
    scoped: bool = True
    """Keep signals and abstract sockets inside; :func:`hide` has done so otherwise, and
    the processes that were started since then must stay within reach.
    """


PHOTOS: Final = Policy()
"""Policy of the processes that clean photos: nothing but what they were handed."""


def describe(names: Iterable[str]) -> str:
    """Return missing layers in words, on one line."""
    return "; ".join(MEANINGS.get(name, name) for name in names)


def missing_here() -> str:
    """Return what this machine lacks to isolate photos, in words; empty if nothing."""
    return describe(Sandbox(PHOTOS).missing)


def log_missing(log: logging.Logger, of: str, names: Iterable[str]) -> None:
    """Log how far the sandbox of these processes is closed, in one line."""
    if lacking := describe(names):
        log.warning("Sandbox of %s: this machine lacks %s", of, lacking)
    else:
        log.debug("Sandbox of %s: complete", of)


def hide(paths: Iterable[tuple[Path, int]]) -> None:
    """Give up all files but these for this thread and all later ones, where possible.

    Comes first, while there is one thread: :meth:`Sandbox.enter` closes Landlock for
    its own thread and those that start later, everything else for all.
    """
    if landlock.version():
        processes.forbid_new_privileges()
        landlock.restrict(paths)


class Sandbox:
    """A sandbox that is ready to be closed, by this process or by one that it forks."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        found = landlock.version()
        lacking = {
            "user": policy.own_user and os.geteuid() == 0 and not _may_change_user(),
            "landlock": not found,
            "signals": policy.programs and found < landlock.SIGNALS_VERSION,
            "seccomp": not seccomp.available(),
        }
        self.missing: Final = [name for name, lacks in lacking.items() if lacks]
        """The layers that this machine lacks."""
        self._was_root = os.geteuid() == 0
        self._keeps_signals = found >= landlock.SIGNALS_VERSION
        self._architecture = syscalls.architecture()
        self._steps = b""
        if self._architecture is not None:
            rules = seccomp.rules(network=policy.network, programs=policy.programs)
            self._steps = seccomp.steps(rules, self._architecture)

    def __repr__(self) -> str:
        return f"<Sandbox {self._policy} missing={self.missing}>"

    def enter(self, *, die_with: tuple[int, int] | None = None) -> None:
        """Close the sandbox of this process, for good.

        ``die_with`` is a parent, and the signal that its end sends. 2 ms of CPU.
        Raises OSError: a layer that is there cannot be closed.
        """
        if self._policy.own_user and os.geteuid() == 0 and "user" not in self.missing:
            _change_user()
        if die_with is not None:
            processes.die_with_parent(*die_with)  # a change of the user takes the wish back
        processes.forbid_new_privileges()
        if self._architecture is not None:
            _drop_capabilities()
            syscalls.prctl(_PR_SET_DUMPABLE, int(self._policy.programs))  # its own /proc, for a model's libraries
        if "landlock" not in self.missing:
            landlock.restrict(self._policy.rules, network=self._policy.network, scoped=self._policy.scoped)
        if "seccomp" not in self.missing:
            assert self._architecture is not None
            seccomp.install(self._steps)

    def stay_alone(self, *, threads: bool = False) -> None:
        """Start no process from here on, and signal no other one.

        And no thread, unless ``threads``. By a limit where that is enough: another
        filter takes 0.8 ms of CPU.
        """
        if not threads:
            processes.lower_limit(resource.RLIMIT_NPROC, 0)
        unlimited = os.geteuid() == 0
        shares_user = not self._policy.own_user or not self._was_root
        needed = threads or unlimited or (shares_user and not self._keeps_signals)
        if needed and self._architecture is not None and "seccomp" not in self.missing:
            rules = [*seccomp.NO_PROCESSES, *seccomp.only_itself()]
            seccomp.install(seccomp.steps(rules, self._architecture))


def may_be_read_by_others(path: Path) -> bool:
    """Return whether a user that owns nothing can read the path."""
    try:
        modes = [folder.stat().st_mode for folder in (path, *path.parents)]
    except OSError:
        return False
    return modes[0] & 0o004 != 0 and all(mode & 0o001 for mode in modes[1:])


def _may_change_user() -> bool:
    try:
        with open("/proc/self/status") as status:
            effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    except OSError:  # not Linux
        return False
    return all(effective >> each & 1 for each in (_CAP_KILL, _CAP_SETGID, _CAP_SETUID))


def _change_user() -> None:
    """Become a user that no other process has, in no group, in all threads."""
    os.setgroups([])
    for user in (_FIRST_USER + os.getpid(), _NOBODY):
        try:
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a container has no such user
                raise
        else:
            return
    raise OSError(errno.EINVAL, "no other user")


def _drop_capabilities() -> None:
    """Keep no capability: root without any reads what it owns, and little else."""
    header = struct.pack("=Ii", _CAPABILITIES_VERSION, 0)
    syscalls.call("capset", header, ctypes.c_char_p(bytes(24)))
