# ruff: noqa: ASYNC220, ASYNC221, ASYNC251 - blocking is what is wanted here
"""A processor that does what a job's params ask for: ``{"do": ...}``."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import logging
import multiprocessing
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from tests.server.system import attempts
from tryon.processor import OUTPUT_TYPES, Info, Job, Output, OutputRole, ProcessorError, Report
from tryon.processor.conformance import sample_photo

SECRET = re.compile(rb"h[u]sh-h[u]sh")
"""A pattern that does not match its own text."""


class Faulty:
    info = Info(name="faulty", outputs=(OutputRole(types=OUTPUT_TYPES, count=8),))

    def __init__(self) -> None:
        self.kept: list[bytearray] = []

    async def run(self, job: Job, report: Report) -> Output:
        said = await getattr(self, job.params["do"])(job, report)
        return Output(said if isinstance(said, bytes) else str(said).encode(), "image/png")

    # -- that end well -----------------------------------------------------------------

    async def echo(self, job: Job, report: Report) -> bytes:
        return b"".join(each.read() for each in job.inputs)

    async def describe(self, job: Job, report: Report) -> str:
        inputs = [(each.role, each.index, each.type, each.bytes, each.sha256, each.width) for each in job.inputs]
        said = (job.session_id, job.attempt, job.attempts_left, inputs, job.seed, job.deadline_at, job.trace, job.key)
        return f"{said} {job.number} {job.params['more']}"

    async def pid(self, job: Job, report: Report) -> int:
        return os.getpid()

    async def unspeakable(self, job: Job, report: Report) -> str:
        """Fail in a way that cannot be passed on."""

        class Unspeakable(ProcessorError):
            @property
            def code(self) -> str:
                raise ValueError("no code")

            @code.setter
            def code(self, code: str) -> None:
                pass

        raise Unspeakable("moderated_input")

    async def secrets(self, job: Job, report: Report) -> str:
        """Return the environment, and every match of the pattern in memory."""
        return repr((dict(os.environ), matches_in_memory(SECRET)))

    async def attempt(self, job: Job, report: Report) -> str:
        """Make the attempts of code that was taken over; return what it reached."""
        found = attempts.outcomes(attempts.ATTEMPTS, attempts.load(job.params["target"]))
        return ", ".join(name for name, how in found.items() if how == "reached") or "nothing"

    async def circumstances(self, job: Job, report: Report) -> str:
        core = resource.getrlimit(resource.RLIMIT_CORE)[0]
        return f"{os.getpgid(0) == os.getpid()} {os.nice(0)} {core} {sys.stdin.read()!r}"

    async def wait(self, job: Job, report: Report) -> bytes:
        """Report the process id; end when a signal comes."""
        go_on = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, go_on.set)
        await report(None, f"waiting {os.getpid()}")
        await go_on.wait()
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)
        return b"waited"

    async def report(self, job: Job, report: Report) -> bytes:
        await report(0.25, "rendering", 3)
        await report.checkpoint({})  # answered when the report has been passed on
        nonsense: tuple[Any, ...] = (float("nan"), "half", object(), 10**400)
        for value in nonsense:
            await report(value, value, value)
        for step in range(10_000):
            await report(step / 10_000, "\ud800 on its way")
        await asyncio.sleep(0.1)
        return b"reported"

    async def speak(self, job: Job, report: Report) -> bytes:
        try:
            raise ValueError("deep inside")
        except ValueError:
            logging.getLogger("a.library").exception("A library\nsays something")
        logging.getLogger("a.library").info("not worth telling")
        return b"spoke"

    async def litter(self, job: Job, report: Report) -> bytes:
        for file in (1, 2):
            os.write(file, os.urandom(1000))
        print("\x1b[2J garbage", flush=True)
        return b"littered"

    async def burn(self, job: Job, report: Report) -> int:
        until = time.process_time() + 0.4
        while time.process_time() < until:
            pass
        return os.getpid()

    async def keep(self, job: Job, report: Report) -> int:
        self.kept.append(filled(job.params["bytes"]))
        return os.getpid()

    async def helpers(self, job: Job, report: Report) -> bytes:
        """Use a program, a shell and a process that must be stopped, as a model may."""
        assert subprocess.run(["true"], check=False).returncode == 0
        sleeper = subprocess.Popen(["sleep", "60"])
        sleeper.terminate()
        assert sleeper.wait(5) == -signal.SIGTERM
        forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        forked.start()
        forked.terminate()
        forked.join(5)
        assert forked.exitcode == -signal.SIGTERM
        return b"helped"

    async def deaf_sigterm(self, job: Job, report: Report) -> bytes:
        os.kill(os.getpid(), signal.SIGTERM)
        return b"still here"

    # -- that fail ---------------------------------------------------------------------

    async def fail(self, job: Job, report: Report) -> NoReturn:
        raise ProcessorError("no_person", "Nobody is in it.", retryable=False)

    async def again(self, job: Job, report: Report) -> NoReturn:
        raise ProcessorError("gpu_gone", requeue=True)

    async def raise_error(self, job: Job, report: Report) -> NoReturn:
        raise ValueError("deep inside")

    async def sys_exit(self, job: Job, report: Report) -> NoReturn:
        sys.exit(3)

    async def cancel_itself(self, job: Job, report: Report) -> NoReturn:
        raise asyncio.CancelledError

    # -- that crash --------------------------------------------------------------------

    async def segfault(self, job: Job, report: Report) -> None:
        ctypes.string_at(0)

    async def abort(self, job: Job, report: Report) -> None:
        os.abort()

    async def exit_quietly(self, job: Job, report: Report) -> None:
        os._exit(0)

    async def kill_itself(self, job: Job, report: Report) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def close_everything(self, job: Job, report: Report) -> None:
        os.closerange(3, 256)
        await asyncio.Event().wait()

    async def babble(self, job: Job, report: Report) -> None:
        self._our_socket().send(b"\x00\x00\x00\x05hello")
        await asyncio.Event().wait()

    async def flood(self, job: Job, report: Report) -> None:
        to = self._our_socket()
        to.setblocking(True)
        while True:
            to.send(bytes(range(256)) * 256)

    async def answer_for_another(self, job: Job, report: Report) -> None:
        text = b'{"type":"Done","number":4711,"left_over":false,"outputs":[]}'
        self._our_socket().send(len(text).to_bytes(4) + text)
        await asyncio.Event().wait()

    def _our_socket(self) -> socket.socket:
        [file] = [file for file in range(3, 256) if _peer_of(file) not in (None, os.getpid())]
        return socket.socket(fileno=os.dup(file))

    async def orphans(self, job: Job, report: Report) -> None:
        """Crash, and leave a program, a copy and a shell's process group behind."""
        if os.fork() == 0:
            time.sleep(60)
        await report(None, subprocess.check_output("sleep 60 >/dev/null & echo $!", shell=True, text=True))
        ctypes.string_at(0)

    async def two_of_us(self, job: Job, report: Report) -> int:
        """Fork in the middle of the loop; both copies go on."""
        os.fork()
        await asyncio.sleep(0.1)
        await report(0.5, "two of us")
        return os.getpid()

    # -- that use too much -------------------------------------------------------------

    async def eat(self, job: Job, report: Report) -> None:
        while True:
            self.kept.append(filled(16 * 2**20))

    async def spin(self, job: Job, report: Report) -> None:
        await report(0.5, "began")
        while True:
            pass

    async def spin_in_c(self, job: Job, report: Report) -> None:
        await report(0.5, "began")
        hashlib.pbkdf2_hmac("sha256", b"x", b"x", 2**31 - 1)

    async def spin_in_threads(self, job: Job, report: Report) -> None:
        await asyncio.gather(*(asyncio.to_thread(hashlib.pbkdf2_hmac, "sha256", b"x", b"x", 2**31 - 1) for _ in "ab"))

    # -- that do not end ---------------------------------------------------------------

    async def never(self, job: Job, report: Report) -> None:
        await report(0.5, "began")
        await asyncio.Event().wait()

    async def with_a_program(self, job: Job, report: Report) -> None:
        os.system("sleep 60 & echo started $!")
        await asyncio.Event().wait()

    async def stubborn(self, job: Job, report: Report) -> None:
        await report(0.5, "began")
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    async def in_a_thread(self, job: Job, report: Report) -> None:
        thread = asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
        await report(0.5, "began")
        await thread

    async def report_for_ever(self, job: Job, report: Report) -> None:
        while True:
            await report(0.5, "busy")


def _peer_of(file: int) -> int | None:
    """Return the process at the other end of a socket.

    The event loop has a socket pair within this process.
    """
    try:
        with socket.socket(fileno=os.dup(file)) as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    except OSError:
        return None
    return int.from_bytes(credentials[:4], sys.byteorder)


def matches_in_memory(pattern: re.Pattern[bytes]) -> list[bytes]:
    """Return what the pattern finds in this process's own memory (Linux)."""
    found: list[bytes] = []
    if sys.platform == "linux":
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
            for line in maps.read().splitlines():
                where, rights, *_ = line.split()
                if rights.startswith("rw"):
                    start, end = (int(each, 16) for each in where.split("-"))
                    memory.seek(start)
                    found += pattern.findall(memory.read(end - start))
    return found


def filled(size: int) -> bytearray:
    """Return memory that is resident, not just promised."""
    memory = bytearray(size)
    memory[::4096] = b"x" * len(memory[::4096])
    return memory


class Slow:
    """A processor that is ready when a file is there."""

    info = Info(name="slow", outputs=(OutputRole(types=("image/png",)),))

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)

    async def start(self) -> None:
        self.closed = (self.folder / f"closed-{os.getpid()}").open("w")
        while not (self.folder / "warm").exists():
            await asyncio.sleep(0.01)
        if (self.folder / "warm").read_text() == "crash":
            os.abort()

    async def run(self, job: Job, report: Report) -> Output:
        return Output(str(os.getpid()).encode(), "image/png")

    async def close(self) -> None:
        self.closed.write("closed")
        self.closed.close()


class Wrapped:
    """A slow processor behind a wrapper that has no method of its own."""

    def __init__(self, *, folder: str) -> None:
        self._wrapped = Slow(folder=folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class Making(Faulty):
    """A processor whose constructor waits for a file."""

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        (Path(folder) / "making").touch()
        while not (Path(folder) / "made").exists():
            time.sleep(0.01)


class Drawing(Faulty):
    """A faulty processor whose result is a picture, whatever it has to say."""

    async def run(self, job: Job, report: Report) -> Output:
        await super().run(job, report)
        return Output(sample_photo(), "image/png")


class Unmakeable:
    def __init__(self) -> None:
        raise OSError("no GPU\nhere")


class Aborting:
    def __init__(self) -> None:
        os.abort()
