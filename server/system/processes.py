"""Processes: how they begin, what they may use, how they end.

For every program that starts another, and for every process that limits itself: ``tryon
up``, the image processes, a worker's fork server and its children. It imports next to
nothing, for an image process starts with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
"""The checkout, or ``site-packages``."""

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that ask a program to stop."""

_LIBC: Final = ctypes.CDLL(None)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


# -- how a process begins --------------------------------------------------------------


def python(*arguments: str) -> list[str]:
    """Return a command line of Python that ignores the working directory (``-P``)."""
    return [sys.executable, "-P", *arguments]


def python_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return ``variables`` with a path by which a Python finds this very code.

    Whether it is installed or a checkout.
    """
    found = dict(variables)
    if (ROOT / "pyproject.toml").exists():
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), found.get("PYTHONPATH"))))
    return found


def make_files_private() -> None:
    """Let no other user read a file, folder or socket that this process makes.

    The programs that it starts inherit that.
    """
    os.umask(0o077)


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send ``number`` to this process when ``parent`` ends (Linux).

    0 takes the wish back. Ends the process at once if the parent has already ended. The
    wish is tied to the parent's thread that has started this process.
    """
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def dying_with_parent(number: int = signal.SIGKILL) -> Callable[[], None] | None:
    """Return the ``preexec_fn`` of a child that dies with this process.

    None where the system has no such thing. For programs that cannot ask by themselves;
    a child of ours calls :func:`die_with_parent`.
    """
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    return lambda: die_with_parent(parent, number)


def ignore_stop_signals() -> None:
    """Ignore the signals that stop programs.

    Sent to all processes at once, they are meant for the parent, which stops its
    children in order.

    By a handler: SIG_IGN would be inherited by programs that this process starts, and
    it could not terminate them.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)


def close_standard_input() -> None:
    """Replace standard input by nothing: it was a socket of the parent's."""
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)


# -- what a process may use ------------------------------------------------------------


def forbid_new_privileges() -> None:
    """Let no program that is started from here gain privileges (Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def step_back(niceness: int, *, oom_score: int | None = None) -> None:
    """Let every other process have a contended core first.

    Where Linux gives each session an autogroup, nice counts only within it (sched(7)),
    and a process that leads a session is alone in its own: then the group steps back.
    ``oom_score`` is added to the kernel's choice of a process to kill when the machine
    runs out of memory (proc(5), ``oom_score_adj``).
    """
    os.nice(niceness)
    for name, value in (("autogroup", niceness), ("oom_score_adj", oom_score)):
        if value is not None:
            with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:
                file.write(str(value))


def lower_limit(which: int, most: int) -> None:
    """Lower a resource limit (``resource.RLIMIT_…``) for good; a lower one stays.

    A limit that the system refuses (macOS has some) is left alone.
    """
    most = _capped(which, most)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(which, (most, most))


def limit_cpu(seconds: float) -> None:
    """Limit the CPU time of this process to ``seconds`` more, all its threads together.

    Then it gets SIGXCPU. Called again, the limit counts from that moment. Raises
    OSError or ValueError if the system refuses: untrusted code must not run unlimited.
    """
    _, ceiling = resource.getrlimit(resource.RLIMIT_CPU)
    most = _capped(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))
    resource.setrlimit(resource.RLIMIT_CPU, (most, ceiling))


def _capped(which: int, most: int) -> int:
    """Return ``most``, or the hard limit if that is lower."""
    _, ceiling = resource.getrlimit(which)
    return most if ceiling == resource.RLIM_INFINITY else min(most, ceiling)


def raise_file_limit() -> int:
    """Raise the limit of open files as far as the system lets us; return the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def return_memory() -> None:
    """Give memory that is free in this process back to the system (glibc)."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


# -- how a process ends ----------------------------------------------------------------


def kill_group(pid: int, number: int = signal.SIGKILL) -> bool:
    """Signal the process group that ``pid`` leads; return whether there was one."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # macOS: only zombies are left in it
        return False
    return True


def kill_family(pid: int) -> None:
    """Kill a process and everything in the process group that it leads.

    A process that does not lead one yet is killed alone.
    """
    if not kill_group(pid):  # it has not come to its setsid() yet, or is gone
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def exit_text(status: int | None) -> str:
    """Return how a process ended, to follow its name in a line.

    ``status`` is an exit status, or minus the number of the signal that killed it; None
    if only its connection is known to have ended.
    """
    if status is None:
        return "closed its connection"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
