"""A program that is kept running, and programs that wait for the migrations."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from server.system.processes import dying_with_parent, exit_text, kill_group, python
from server.up.errors import Reported, UpError

FIRST_DELAY_SECONDS: Final = 0.1
"""Pause before a program is started again; doubles from one start to the next."""
LONGEST_DELAY_SECONDS: Final = 3.2
"""Longest such pause: a killed program is back within 5 s, its own start included."""
STEADY_SECONDS: Final = 10.0
"""Life after which a program starts over at the first delay."""
START_TRIES: Final = 5
"""Starts of a program that ends before the stack was ever ready."""
MISCONFIGURED: Final = 2
"""Exit status of a program that has reported, in one line, what is wrong with the
settings: starting it again would only repeat that.
"""


async def spawn(
    command: Sequence[str], env: dict[str, str] | None, *, stdin: int = asyncio.subprocess.DEVNULL
) -> asyncio.subprocess.Process:
    """Start a program that dies with this process.

    Call it from the main thread: the kernel ties that wish to the thread.
    """
    return await asyncio.create_subprocess_exec(
        *command,
        env=env,
        stdin=stdin,
        start_new_session=True,
        preexec_fn=dying_with_parent(),  # Valkey, for one, has no such wish of its own
    )


def say(message: str) -> None:
    """Print a line for the person at the terminal, which may be closed."""
    with contextlib.suppress(OSError):
        print(f"tryon: {message}", file=sys.stderr, flush=True)


class Migrations:
    """Python modules that load their code at once, and begin after the migrations."""

    def __init__(self) -> None:
        self._done = asyncio.Event()
        self._held: list[asyncio.subprocess.Process] = []

    def __repr__(self) -> str:
        return f"<Migrations {'done' if self._done.is_set() else 'running'} held={len(self._held)}>"

    async def start_module(self, arguments: Sequence[str], env: dict[str, str]) -> asyncio.subprocess.Process:
        """Start ``python -m`` with the arguments, held back as long as necessary."""
        if self._done.is_set():
            return await spawn(python("-m", *arguments), env)
        command = python("-m", "server.system.preload", *arguments)
        held = await spawn(command, env, stdin=asyncio.subprocess.PIPE)
        self._held.append(held)
        if self._done.is_set():  # while the process was being made
            self.release()
        return held

    def release(self) -> None:
        """Let the modules that are held back begin."""
        self._done.set()
        for held in self._held:
            assert held.stdin is not None
            held.stdin.write(b"\n")  # the transport ignores that one has ended meanwhile
            held.stdin.close()
        self._held.clear()


class Program:
    """A program that is kept running; one that cannot start at all is reported.

    ``ready`` is set once the whole stack was ready: from then on no start is final.
    ``on_failure`` gets the error of a final start; ``on_end`` is called when a process
    has ended, before the next one starts. ``reason`` returns what the program's own log
    says of its end; one that prints to the terminal has none.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[asyncio.subprocess.Process]],
        *,
        ready: asyncio.Event,
        on_failure: Callable[[UpError], None],
        on_end: Callable[[], None],
        reason: Callable[[], str] = str,
    ) -> None:
        self.name = name
        self._start = start
        self._ready = ready
        self._on_failure = on_failure
        self._on_end = on_end
        self._reason = reason
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._task = asyncio.create_task(self._keep(), name=name)

    def __repr__(self) -> str:
        return f"<Program {self.name} pid={self._process.pid if self._process else None}>"

    async def _keep(self) -> None:
        delay, tries = FIRST_DELAY_SECONDS, 0
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            started = clock()
            try:
                process = self._process = await self._start()
            except OSError as error:
                self._on_failure(UpError(f"{self.name} cannot start: {error}"))
                return
            if self._stopping.is_set():  # asked to while the process was being made
                self._signal(signal.SIGTERM)
            status = await process.wait()
            self._process = None
            self._on_end()
            if self._stopping.is_set():
                return
            tries += 1
            if not self._ready.is_set() and (status == MISCONFIGURED or tries == START_TRIES):
                said, ended = status == MISCONFIGURED, " ".join(filter(None, (exit_text(status), self._reason())))
                self._on_failure(Reported() if said else UpError(f"{self.name} cannot start: it {ended}"))
                return
            if clock() - started >= STEADY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            if self._ready.is_set():  # before that, only a start that is final is worth a line
                say(f"{self.name} {exit_text(status)}; starting it again in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
            delay = min(delay * 2, LONGEST_DELAY_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it with its process group, and start it no more."""
        self._stopping.set()
        if self._process is not None:
            kill_group(self._process.pid)

    async def stop(self, grace_seconds: float) -> None:
        """Stop it by SIGTERM, and by SIGKILL after ``grace_seconds``.

        Returns when it has ended.
        """
        self._stopping.set()
        self._signal(signal.SIGTERM)
        await asyncio.wait({self._task}, timeout=grace_seconds)
        if not self._task.done():
            say(f"{self.name} did not stop within {grace_seconds:g} s; killing it")
            self.kill()
        await self._task
