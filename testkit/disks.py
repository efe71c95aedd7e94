"""File systems of their own, so that they can be full, or answer nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

NOBODY: Final = 65534
"""The user that owns nothing, on Linux and macOS."""


@contextlib.contextmanager
def mounted_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of this size (bytes, or ``256k``, ``1m``) at a folder.

    The folder is made if missing. Raises PermissionError without the right to mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        raise PermissionError("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def out_of_reach(folder: Path) -> Iterator[None]:
    """Take a folder from this process until the block ends.

    No mode stops root, so root becomes another user meanwhile.
    """
    root, mode = os.geteuid() == 0, folder.stat().st_mode
    folder.chmod(0)
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(mode)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let a mounted file system take no change until the block ends.

    Files that are open for writing make the kernel refuse; it is asked for 10 s.
    """
    _remount(folder, "ro")
    try:
        yield
    finally:
        _remount(folder, "rw")


def _remount(folder: Path, mode: str) -> None:
    for _ in range(100):
        if not subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=False).returncode:
            return
        time.sleep(0.1)
    raise TimeoutError(f"{folder} cannot be made {mode}")


@contextlib.contextmanager
def silent_disk(folder: Path) -> Iterator[None]:
    """Mount a file system that answers nothing over a folder, until the block ends.

    It is a FUSE mount without a server: every call that looks into the folder waits, as
    on a network share that is gone, and can be ended by SIGKILL alone. At the end of
    the block such calls fail, and the folder is as it was. Raises PermissionError
    without the right to mount.
    """
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise PermissionError("a silent disk needs /dev/fuse") from error
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    command = ["mount", "-i", "-t", "fuse", "-o", options, "silent", str(folder)]
    try:
        if subprocess.run(command, check=False, capture_output=True, pass_fds=[device]).returncode:
            raise PermissionError("mounting a silent disk needs root")
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    finally:
        os.close(device)
