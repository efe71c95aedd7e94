"""seccomp: system calls that the kernel refuses a process (seccomp(2)).

The rules are tables of names; :func:`steps` and :func:`program` make them a program for
the kernel's filter machine. What no rule names is allowed: a list of what is needed
would break with the next C library. ``clone3`` hides its flags behind a pointer, where
no filter sees them: it fails as if the kernel did not know it, and C libraries then use
``clone``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from server.system import syscalls


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """System calls that fail with ``errno``: always, or by the value of an argument.

    The lower 32 bits of the argument are looked at, under ``mask``.
    """

    calls: tuple[str, ...]
    errno: int = errno.EPERM
    argument: int | None = None
    mask: int = 0xFFFFFFFF
    values: tuple[int, ...] = ()
    refused: bool = False
    """Whether the values are those that are refused; else they alone are allowed."""


def never(names: str, *, errno: int = errno.EPERM) -> Rule:
    """Return the rule for calls that always fail."""
    return Rule(calls=tuple(names.split()), errno=errno)


def only(name: str, argument: int, *values: int, mask: int = 0xFFFFFFFF) -> Rule:
    """Return the rule for a call that is allowed with these values alone."""
    return Rule(calls=(name,), argument=argument, values=values, mask=mask)


def not_with(name: str, argument: int, *values: int, mask: int = 0xFFFFFFFF) -> Rule:
    """Return the rule for a call that is refused with these values."""
    return Rule(calls=(name,), argument=argument, values=values, mask=mask, refused=True)


_CLONE_THREAD: Final = 0x00010000
_CLONE_NAMESPACES: Final = 0x7E020000  # NEWUSER, NEWPID, NEWNET, NEWIPC, NEWUTS, NEWCGROUP, NEWNS
_SOCKET_TYPE: Final = 0xF
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_MM, _PR_SET_PTRACER = 1, 4, 35, 0x59616D61
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP = 0x5412, 0x541C, 0x8901, 0x8902

ALWAYS: Final = (
    # other processes
    never("ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd"),
    never("migrate_pages move_pages"),
    only("prlimit64", 0, 0),
    only("setpriority", 1, 0),
    not_with("prctl", 0, _PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_MM, _PR_SET_PTRACER),
    not_with("fcntl", 1, _F_SETOWN, _F_SETSIG, _F_SETOWN_EX),  # a signal of its choice, sent by the kernel
    not_with("ioctl", 1, _TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP),  # also typing into a terminal
    # another view of the system
    never("mount umount2 mount_setattr move_mount open_tree open_tree_attr fsopen fsmount fsconfig fspick"),
    never("pivot_root chroot unshare setns"),
    never("clone3", errno=errno.ENOSYS),
    # large parts of the kernel that no model needs
    never("bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register"),
    never("keyctl add_key request_key modify_ldt personality lookup_dcookie fanotify_init"),
    # the machine
    never("init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct"),
    never("quotactl quotactl_fd syslog settimeofday clock_settime clock_adjtime adjtimex sethostname"),
    never("setdomainname iopl ioperm vhangup"),
    # files past Landlock: by handle, by watching, and the metadata that it leaves alone
    never("open_by_handle_at name_to_handle_at inotify_init inotify_init1 inotify_add_watch truncate"),
    never("chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat"),
    never("setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat file_setattr"),
    # memory and messages with a name that other processes can use
    never("shmget shmat shmctl msgget msgsnd msgrcv msgctl semget semop semctl semtimedop mq_open mq_unlink"),
)
"""Rules of every sandbox."""

SOCKET_PAIRS: Final = only("socketpair", 1, socket.SOCK_STREAM, socket.SOCK_SEQPACKET, mask=_SOCKET_TYPE)
"""No datagrams: one can be sent to any socket that has a name."""
NO_NETWORK: Final = (never("socket connect bind listen accept accept4"),)
INTERNET: Final = (only("socket", 0, socket.AF_INET, socket.AF_INET6),)
"""Sockets of the internet alone: none of this machine's services."""

PROGRAMS: Final = (SOCKET_PAIRS, only("clone", 0, 0, mask=_CLONE_NAMESPACES))
NO_PROGRAMS: Final = (
    only("clone", 0, 0, mask=_CLONE_NAMESPACES),
    never("execve execveat setsid setpgid socketpair"),
    never("tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal"),
    never("ioprio_set sched_setaffinity sched_setattr sched_setparam sched_setscheduler"),
)
"""Processes may be forked; none leaves its process group, none is another program."""
NO_PROCESSES: Final = (only("clone", 0, _CLONE_THREAD, mask=_CLONE_THREAD), never("fork vfork"))

_LD_W_ABS, _AND_K, _JEQ_K, _JGE_K, _RET_K = 0x20, 0x54, 0x15, 0x35, 0x06
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_X32: Final = 0x40000000

_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2
_TSYNC: Final = 1


def rules(*, network: bool, programs: bool) -> list[Rule]:
    """Return the rules of a sandbox."""
    return [*ALWAYS, *(INTERNET if network else NO_NETWORK), *(PROGRAMS if programs else NO_PROGRAMS)]


def only_itself() -> list[Rule]:
    """Return the rules for a process that signals itself alone, as abort(3) does."""
    return [only("kill", 0, os.getpid()), only("tgkill", 0, os.getpid())]


def steps(rules: Iterable[Rule], architecture: str) -> bytes:
    """Return the steps that refuse what the rules refuse, in any program."""
    code = []
    for rule in rules:
        judged = _judgement(rule)
        for name in rule.calls:
            if (found := syscalls.number(name, architecture)) is not None:
                code += [_step(_JEQ_K, found, no=len(judged)), *judged]
    return b"".join(code)


def program(steps: bytes, architecture: str) -> bytes:
    """Return the program that consists of the steps, and allows all other calls."""
    head = [
        _step(_LD_W_ABS, _OFFSET_ARCH),
        _step(_JEQ_K, syscalls.AUDIT_ARCHITECTURES[architecture], yes=1),
        _step(_RET_K, _ERRNO | errno.ENOSYS),  # a 32-bit call has other numbers
        _step(_LD_W_ABS, _OFFSET_NR),
    ]
    if architecture == "x86_64":
        head += [_step(_JGE_K, _X32, no=1), _step(_RET_K, _ERRNO | errno.ENOSYS)]
    return b"".join([*head, steps, _step(_RET_K, _ALLOW)])


def _judgement(rule: Rule) -> list[bytes]:
    """Return the steps for a call that a rule names; each way through them ends."""
    refuse, allow = _step(_RET_K, _ERRNO | rule.errno), _step(_RET_K, _ALLOW)
    if rule.argument is None:
        return [refuse]
    return [
        _step(_LD_W_ABS, _OFFSET_ARGS + 8 * rule.argument),
        _step(_AND_K, rule.mask),
        *(_step(_JEQ_K, value, yes=len(rule.values) - at) for at, value in enumerate(rule.values)),
        *((allow, refuse) if rule.refused else (refuse, allow)),
    ]


def _step(code: int, operand: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, operand)


def available() -> bool:
    """Return whether the kernel filters system calls."""
    if syscalls.architecture() is None:
        return False
    try:
        action = ctypes.byref(ctypes.c_uint32(_ERRNO))
        syscalls.call("seccomp", ctypes.c_uint(_GET_ACTION_AVAIL), ctypes.c_uint(0), action)
    except OSError:
        return False
    return True


def install(steps: bytes) -> None:
    """Refuse what the steps refuse, in all threads of this process, for good.

    Needs ``no_new_privs``. Raises OSError.
    """
    architecture = syscalls.architecture()
    assert architecture is not None
    code = program(steps, architecture)
    kept = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("@HP", len(code) // 8, ctypes.addressof(kept))
    if syscalls.call("seccomp", ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_TSYNC), described):
        raise OSError(errno.EBUSY, "a thread has other rules")
