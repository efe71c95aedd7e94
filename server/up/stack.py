"""Everything that ``tryon up`` starts, in the order in which it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from server.config.authorities import served_name
from server.config.parsing import private_token
from server.config.settings import Config
from server.system.processes import exit_text, python, python_environment
from server.telemetry import metric_files
from server.up.errors import Reported, UpError
from server.up.probes import (
    PROCESSOR_SECONDS,
    api_ready,
    healthy,
    processor_published,
    reachable,
    until,
    valkey_answers,
)
from server.up.program import MISCONFIGURED, Migrations, Program, spawn
from server.up.reservations import at, data_dir_lock, reserved_port, valkey_socket
from server.up.valkey import EmbeddedValkey

# Stopping takes 10 s at most (with TRYON_DRAIN_SECONDS at 5): 2.5 + 6.5 + 1.
WEB_HEAD_START_SECONDS: Final = 2.5
"""Time between the stop of the web processes and the stop of the workers: a web process
that still notifies its clients goes on while the workers stop.
"""
WEB_GRACE_SECONDS: Final = 5.0
"""Time for a web process to stop; then it is killed."""
WORKER_GRACE_SECONDS: Final = 1.5
"""Time for a worker to stop, beyond TRYON_DRAIN_SECONDS; 0.15 s on an idle machine."""
VALKEY_GRACE_SECONDS: Final = 1.0
"""Time for Valkey to stop; then it is killed."""


def up(config: Config, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Run the stack until SIGINT, SIGTERM or SIGHUP.

    ``on_ready`` is called once with its address, in a thread. Returns when every
    program has ended. Raises :class:`UpError`.
    """

    async def run(port: int, valkey: Path | None) -> None:
        await Stack(config, port, valkey, on_ready=on_ready).run()

    with (
        data_dir_lock(config.data_dir),
        reserved_port(config.host, config.port) as port,
        valkey_socket(config) as valkey,
    ):
        asyncio.run(run(port, valkey))


class Stack:
    """The programs of a stack. Made inside the running loop."""

    def __init__(
        self,
        config: Config,
        port: int,
        valkey_socket: Path | None,
        *,
        on_ready: Callable[[str], None] | None = None,
    ) -> None:
        self._config = config
        self._on_ready = on_ready
        self._metrics = config.data_dir.absolute() / "metrics"
        self._port = port
        self._valkey_socket = valkey_socket
        self._migrations = Migrations()
        self._ready = asyncio.Event()
        self._end = asyncio.get_running_loop().create_future()  # done: stop; an exception: because of that
        self._valkey: list[Program] = []
        self._web: list[Program] = []
        self._workers: list[Program] = []

    def __repr__(self) -> str:
        programs = (*self._valkey, *self._web, *self._workers)
        return f"<Stack port={self._port} {'ready' if self._ready.is_set() else 'starting'} {programs}>"

    async def run(self) -> None:
        """Start everything, wait for a signal or a failure, and stop everything."""
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

    def _give_up(self, error: BaseException) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    def _module(self, name: str, arguments: Sequence[str], settings: dict[str, str]) -> Program:
        """Keep ``python -m`` running; its metrics go by its name."""
        counting = name.replace(" ", "")
        env = python_environment(os.environ) | settings | {metric_files.NAME_VARIABLE: counting}
        start = functools.partial(self._migrations.start_module, arguments, env)
        return self._program(name, start, on_end=lambda: metric_files.forget_gauges(self._metrics, counting))

    def _program(
        self,
        name: str,
        start: Callable[[], Awaitable[asyncio.subprocess.Process]],
        *,
        on_end: Callable[[], None] = lambda: None,
        reason: Callable[[], str] = str,
    ) -> Program:
        return Program(name, start, ready=self._ready, on_failure=self._give_up, on_end=on_end, reason=reason)

    def _asked_to_stop(self) -> None:
        if not self._end.done():
            self._end.set_result(None)
        else:  # a second Ctrl-C: at once
            for program in (*self._web, *self._workers, *self._valkey):
                program.kill()

    def _started(self, starting: asyncio.Task[None]) -> None:
        if starting.cancelled() or (error := starting.exception()) is None:
            return
        if isinstance(error, OSError):  # a folder that cannot be made
            error = UpError(f"TRYON_DATA_DIR: cannot use {error.filename}: {error.strerror}")
        self._give_up(error)

    async def _start(self) -> None:
        settings = {"TRYON_PORT": str(self._port), "TRYON_DATA_DIR": str(self._config.data_dir.absolute())}
        if path := self._valkey_socket:
            settings["TRYON_REDIS_URL"] = f"unix://{path}"
            embedded = EmbeddedValkey(self._config.data_dir.absolute() / "valkey", path)
            self._valkey.append(self._program("Valkey", embedded.start, reason=embedded.last_words))
        webs = [f"web {number}" for number in range(1, self._config.web_processes + 1)]
        workers = [f"worker {number}" for number in range(1, self._config.worker_processes + 1)]
        asked = python_environment(os.environ) | settings
        settings["TRYON_WORKER_METRICS_PORT"] = "off"  # the web processes count the workers, too
        settings["TRYON_START_CHECK"] = "no"  # one that is started again later meets an outage, no wrong setting
        settings[metric_files.FOLDER_VARIABLE] = str(self._metrics)
        metric_files.prepare(self._metrics, [name.replace(" ", "") for name in (*webs, *workers)])
        self._web += [self._module(name, ("server", "serve", "--reuse-port"), settings) for name in webs]
        self._workers += [self._module(name, ("arq", "worker.Settings"), settings) for name in workers]
        await _migrate(asked, check=path is None)
        if path:
            await until(functools.partial(valkey_answers, path), "Valkey")
        self._migrations.release()
        host = reachable(self._config.host)
        token = private_token(self._config.private_paths)
        name = served_name(self._config.hosts, at(host, self._port))
        await until(functools.partial(api_ready, host, self._port, name=name), "the stack")
        published = functools.partial(processor_published, host, self._port, name=name)
        await until(published, "the processor", PROCESSOR_SECONDS)
        whole = functools.partial(healthy, host, self._port, name=name, workers=len(workers), token=token)
        await until(whole, "the stack")
        self._ready.set()
        url = f"http://{at(host, self._port)}"
        with contextlib.suppress(OSError):
            print(f"TryOn Push is ready at {url}  (Ctrl-C stops it)", flush=True)
        if self._on_ready is not None:
            await asyncio.to_thread(self._on_ready, url)

    async def _stop(self) -> None:
        web = asyncio.gather(*(program.stop(WEB_GRACE_SECONDS) for program in self._web))
        await asyncio.wait({web}, timeout=WEB_HEAD_START_SECONDS)
        grace = self._config.drain_seconds + WORKER_GRACE_SECONDS
        await asyncio.gather(web, *(program.stop(grace) for program in self._workers))
        for program in self._valkey:
            await program.stop(VALKEY_GRACE_SECONDS)


async def _migrate(env: dict[str, str], *, check: bool) -> None:
    """Run the migrations in a process of their own: this one stays small.

    ``check``: ask there, too, whether a Redis that is not embedded can be used.
    """
    process = await spawn(python("-m", "server", "migrate", *(["--then-check"] if check else [])), env)
    try:
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status == MISCONFIGURED:
        raise Reported
    if status:
        raise UpError(f"the migrations failed: `tryon migrate` {exit_text(status)}")
