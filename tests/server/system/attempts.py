"""Attempts of code that was taken over: each reaches something, or raises OSError.

A test makes each twice: in a sandbox, where it must fail, and outside of one, where it
must succeed; so none fails for a reason of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from server.system import syscalls
from server.system.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Target:
    """The things of the product that an attempt tries to reach."""

    data: Path
    """The data folder, with ``tryon.db``, ``secret.key`` and ``uploads/photo.jpg``."""
    service: Path
    """A socket of a service, as Valkey's."""
    datagrams: Path
    """A socket that takes datagrams, as the system log's."""
    port: int
    """A port of a service on loopback."""
    pid: int
    """The process that has the secrets, in its environment and its memory."""
    address: int
    """Where :data:`SECRET` is in that process's memory."""

    def dump(self) -> str:
        """Return it as text without blanks, for :func:`load`."""
        fields = (self.data, self.service, self.datagrams, self.port, self.pid, self.address)
        return json.dumps([str(each) if isinstance(each, Path) else each for each in fields], separators=(",", ":"))


SECRET: Final = b"hush"


def load(text: str | bytes) -> Target:
    data, service, datagrams, port, pid, address = json.loads(text)
    return Target(Path(data), Path(service), Path(datagrams), port, pid, address)


_OWNER: Final = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # where Yama is: everybody of this user may trace it
secret = ctypes.create_string_buffer(b"hush")
print(ctypes.addressof(secret), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def open_target(folder: Path) -> Iterator[Target]:
    """Make a target of real files, sockets and a real process."""
    data = folder / "product"
    (data / "uploads").mkdir(parents=True, exist_ok=True)
    for name in ("tryon.db", "secret.key", "victim", "uploads/photo.jpg"):
        (data / name).write_bytes(SECRET)
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(socket.socket(socket.AF_UNIX))
        service.bind(str(folder / "service"))
        service.listen(64)
        datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagrams.bind(str(folder / "datagrams"))
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64)).getsockname()[1]
        command = [sys.executable, "-c", _OWNER]
        owner = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        stack.callback(owner.kill)
        assert owner.stdout is not None
        address = int(owner.stdout.readline())
        yield Target(data, folder / "service", folder / "datagrams", port, owner.pid, address)


def need_layers(sandbox: Sandbox) -> None:
    """Skip a test where the kernel lacks a layer; fail it in CI, which has them all."""
    if sandbox.missing and not os.environ.get("CI"):
        pytest.skip(f"this machine lacks {', '.join(sandbox.missing)}")


def reached_without_sandbox(target: Target) -> dict[str, str]:
    """Make all attempts in a process without a sandbox."""
    arguments = [sys.executable, "-m", __name__, target.dump()]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    outcome: dict[str, str] = json.loads(done.stdout)
    return outcome


def _read(path: Path) -> None:
    path.read_bytes()


def read_memory(target: Target) -> None:
    with open(f"/proc/{target.pid}/mem", "rb", buffering=0) as memory:
        memory.seek(target.address)
        assert memory.read(4) == SECRET


def write_file(target: Target) -> None:
    (target.data / f"new-{os.getpid()}").write_bytes(b"!")


def change_file(target: Target) -> None:
    with open(target.data / "tryon.db", "r+b") as file:
        file.write(b"!")


def change_mode(target: Target) -> None:
    (target.data / "tryon.db").chmod(0o600)


def list_files(target: Target) -> None:
    assert os.listdir(target.data)


def delete_file(target: Target) -> None:
    (target.data / "victim").unlink()
    (target.data / "victim").touch()


def watch_files(target: Target) -> None:
    file = ctypes.CDLL(None, use_errno=True).inotify_init()
    _checked(file)
    os.close(file)


def connect_tcp(target: Target) -> None:
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", target.port))


def connect_unix(target: Target) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(target.service))


def listen(target: Target) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()


def send_datagram(target: Target) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(b"!", str(target.datagrams))


def trace(target: Target) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    attach, detach = 16, 17
    _checked(libc.ptrace(attach, target.pid, None, None))
    os.waitpid(target.pid, 0x40000000)  # __WALL
    libc.ptrace(detach, target.pid, None, None)


def read_other_memory(target: Target) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    kept = ctypes.create_string_buffer(4)
    ours = (ctypes.c_size_t * 2)(ctypes.addressof(kept), 4)
    theirs = (ctypes.c_size_t * 2)(target.address, 4)
    _checked(libc.process_vm_readv(target.pid, ours, 1, theirs, 1, 0))
    assert kept.raw == SECRET


def take_descriptor(target: Target) -> None:
    file = os.pidfd_open(target.pid)
    try:
        os.close(syscalls.call("pidfd_getfd", file, 0, 0))
    finally:
        os.close(file)


def signal_it(target: Target) -> None:
    os.kill(target.pid, 0)


def fork(target: Target) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def start_program(target: Target) -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True, env={})


def leave_group(target: Target) -> None:
    pid = os.getpid()
    if os.getpgid(0) != pid:
        os.setpgid(0, pid)
        os.setpgid(0, os.getpgid(target.pid))
    else:
        os.setsid()


def new_namespace(target: Target) -> None:
    _checked(ctypes.CDLL(None, use_errno=True).unshare(0x02000000))  # CLONE_NEWCGROUP


def set_up_ring(target: Target) -> None:
    parameters = ctypes.create_string_buffer(120)
    os.close(syscalls.call("io_uring_setup", 2, parameters))


def share_memory(target: Target) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    segment = libc.shmget(0, 4096, 0o1600)
    _checked(segment)
    libc.shmctl(segment, 0, None)


def _checked(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


ATTEMPTS: Final[Mapping[str, Callable[[Target], None]]] = {
    "read the database": lambda target: _read(target.data / "tryon.db"),
    "read the secret": lambda target: _read(target.data / "secret.key"),
    "read an upload": lambda target: _read(target.data / "uploads" / "photo.jpg"),
    "list files": list_files,
    "write a file": write_file,
    "change a file": change_file,
    "change a file's mode": change_mode,
    "delete a file": delete_file,
    "watch files": watch_files,
    "read the environment": lambda target: _read(Path(f"/proc/{target.pid}/environ")),
    "read memory as a file": read_memory,
    "read memory": read_other_memory,
    "trace": trace,
    "take a descriptor": take_descriptor,
    "signal": signal_it,
    "connect to a port": connect_tcp,
    "connect to a service": connect_unix,
    "send a datagram": send_datagram,
    "listen": listen,
    "new namespace": new_namespace,
    "set up a ring": set_up_ring,
    "share memory": share_memory,
}
"""What no sandbox lets through."""

ALONE: Final[Mapping[str, Callable[[Target], None]]] = {
    "fork": fork,
    "start a program": start_program,
    "leave the group": leave_group,
}
"""What the sandbox of a photo doesn't let through either."""


def outcomes(attempts: Mapping[str, Callable[[Target], None]], target: Target) -> dict[str, str]:
    """Make every attempt; return for each ``reached``, or how it failed."""
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt(target)
        except OSError as error:
            found[name] = f"{type(error).__name__} {error.errno}"
        except subprocess.SubprocessError as error:
            found[name] = type(error).__name__
        else:
            found[name] = "reached"
    return found


if __name__ == "__main__":
    print(json.dumps(outcomes({**ATTEMPTS, **ALONE}, load(sys.argv[1]))))
