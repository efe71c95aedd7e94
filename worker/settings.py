"""One worker process, as the stock ``arq worker.Settings`` runs it.

arq reads only attributes of the class body itself, and reads them once, when the
process starts. :class:`Lifetime` builds everything that a worker needs.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import platform
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

from arq import func

from server import __version__
from server.adapters.imaging.pool import Imaging
from server.adapters.redis.errors import QueueUnavailable
from server.adapters.redis.queue import CLEANUP_FUNCTION, FUNCTION, ArqQueue, arq_settings, deserialize, serialize
from server.adapters.redis.rights import Role
from server.adapters.redis.start_check import check_redis_urls
from server.config.settings import Config, ConfigError
from server.domain.outputs import output_limits
from server.services import open_services
from server.startup import check_start
from server.system.clock import SystemClock
from server.system.processes import make_files_private
from server.system.randomness import SystemRandomness
from server.telemetry import logs, metrics
from server.telemetry.reporting import start_reporting
from worker.chain import Chain
from worker.cleaning import Cleaner, run_cleanup
from worker.isolation.errors import NotStartedAgain
from worker.isolation.pool import ProcessPool
from worker.metrics_page import metrics_page
from worker.pickup import DoorbellRedis
from worker.publishing import Publisher
from worker.tasks import SessionRunner, run_session

log = logging.getLogger("tryon.worker")

NOTE_SECONDS: Final = 3.0
"""Time between two presence records of a worker."""

HEALTH_SECONDS: Final = 5.0
"""Time between two of arq's own health records, which ``arq --check worker.Settings``
reads.
"""

REPORTING_SECONDS: Final = 0.2
"""Time for the last traces and errors of a worker that ends."""

EXIT_SECONDS: Final = 0.5
"""Time for a worker to close its connections after its sessions were handed back.

Then the process ends, even if a server does not answer.
"""

MARGIN_SECONDS: Final = 60.0
"""Time that arq gives a job beyond the one in which it must end by itself. Of a
clean-up it bounds the start of its processor as well.
"""

POLL_DELAY_SECONDS: Final = 0.002
"""arq's pause between two looks at the queue.

An idle worker waits for the doorbell instead; this bounds how long a freed slot of a
full worker stays empty. Looking for one costs a full worker 2.6 % of a core
(5 ms: 1.1 %).
"""


def _read() -> tuple[Config, str]:
    """Return the settings and the URL of the queue's Redis.

    End the process if they are wrong.
    """
    make_files_private()  # arq runs this module without the `tryon` command
    try:
        config = Config.load()
        check_redis_urls(config)
        return config, config.queue_redis
    except ConfigError as error:
        _refuse(error)


MISCONFIGURED: Final = 2
"""Exit status of a worker that cannot work; ``tryon up`` does not retry its start."""


def _refuse(error: ConfigError) -> NoReturn:
    """End the process with one line."""
    _report(error)
    raise SystemExit(MISCONFIGURED) from None


def _report(error: Exception) -> None:
    print(f"tryon: {error}", file=sys.stderr, flush=True)


def _worth_logging(record: logging.LogRecord) -> bool:
    """Return whether a line of arq's says more than our own lines do.

    Not each job's start and end, and not the trace of each job that is handed back when
    the worker stops.
    """
    handed_back = record.exc_info and record.exc_info[0] is asyncio.CancelledError
    return record.levelno >= logging.WARNING and not handed_back


config, redis_url = _read()
if config.start_check:  # what is said before the log is set up is said again by the check, in one line
    logging.getLogger("tryon").addHandler(logging.NullHandler())
redis_settings = arq_settings(redis_url)
logging.getLogger("arq.worker").addFilter(_worth_logging)  # a level would be reset by arq's own logging configuration


class Lifetime:
    """The open parts of a worker, opened and closed by one task (some must be)."""

    def __init__(self) -> None:
        self._ready: asyncio.Future[tuple[SessionRunner, Cleaner]] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._task = asyncio.create_task(self._live(), name="lifetime")

    def __repr__(self) -> str:
        state = "ended" if self._task.done() else "open" if self._ready.done() else "opening"
        return f"<Lifetime {state}>"

    async def open(self) -> tuple[SessionRunner, Cleaner]:
        """Wait until everything is open; raise the error that kept a part closed."""
        return await self._ready

    async def close(self) -> None:
        """Close everything, in order; wait until it is done."""
        self._ended.set()
        if not self._ready.done() or self._ready.cancelled():  # the processor's code may take minutes to load
            self._task.cancel()
        await asyncio.wait({self._task})

    async def _live(self) -> None:
        clock, randomness = SystemClock(), SystemRandomness()
        worker_id = f"{socket.gethostname()}:{os.getpid()}:{randomness.bytes(2).hex()}"
        try:
            async with AsyncExitStack() as stack:
                # First: it is asked for life while a model loads for minutes.
                stack.enter_context(metrics_page(config, asyncio.get_running_loop()))
                first, *others = config.processors
                pools = [ProcessPool(config, processor=first, on_start_error=_stop)]
                pools += [
                    ProcessPool(config, processor=name, on_start_error=functools.partial(_go_on, name))
                    for name in others
                ]
                for pool in pools:
                    stack.push_async_callback(pool.close)
                    pool.start()
                services = await stack.enter_async_context(open_services(config, clock=clock, randomness=randomness))
                imaging = Imaging(output_limits(config.image_max_pixels), keep=0)
                stack.push_async_callback(imaging.close)
                for pool in pools:
                    await pool.built()
                await stack.enter_async_context(services.reconciling.maintenance.running())
                noting = asyncio.create_task(_note(services.queue, worker_id), name="presence")
                stack.push_async_callback(_unnote, noting, services.queue, worker_id)
                directory = services.sessions.processors
                publisher = Publisher(directory, worker_id, pools[0].described, on_error=_stop)
                await stack.enter_async_context(publisher.running())
                metrics.note_process("worker", __version__, platform.python_version())
                metrics.slots.set(config.worker_jobs)
                chain = Chain(pools)
                self._ready.set_result(
                    (SessionRunner(services, chain, worker_id, imaging), Cleaner(services.sessions.cleaning, chain))
                )
                await self._ended.wait()
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)


def _go_on(name: str, error: Exception) -> None:
    """Go on without a processor that was to run when the first one fails."""
    log.error("The processor %s did not start; the worker goes on without it", name, exc_info=error)


_failures: list[Exception] = []
"""Why the worker stops, if it does because of its processor."""


def _stop(error: Exception) -> None:
    """Stop the worker: without a processor it would only hand sessions back.

    Another worker, or this one started again, may do better. :func:`shutdown` prints
    the reason. The setting is to blame at the first start only: a processor that has
    worked lacks something else now, such as memory, and its trace belongs into the log.
    """
    name = config.processors[0]
    if isinstance(error, NotStartedAgain):
        log.error("The processor %s cannot be started any more; the worker stops", name, exc_info=error.__cause__)
        error = ConfigError(f"the processor {name!r} has worked, and cannot be started any more ({_summary(error)})")
    elif not isinstance(error, ConfigError):
        log.debug("The processor did not start", exc_info=error)
        error = not_started(name, error)
    _failures.append(error)
    signal.raise_signal(signal.SIGTERM)


def not_started(name: str, error: Exception) -> ConfigError:
    """Return the error of a processor that raised in its ``start()``, on one line."""
    return ConfigError(f"TRYON_PROCESSOR: {name!r} did not start ({_summary(error)})")


def _summary(error: Exception) -> str:
    """Return an error on one line.

    Its text may be a traceback: the last line counts, and the last place.
    """
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    places = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    where = f", {Path(places[-1][0]).name}:{places[-1][1]}" if places else ""
    return f"{lines[-1].strip()}{where}"


def _crash(runner: SessionRunner, session_id: str) -> None:
    """Kill this process if it runs the session: its owner wants to see it recover."""
    if runner.runs(session_id):
        os.kill(os.getpid(), signal.SIGKILL)


async def _note(queue: ArqQueue, worker_id: str) -> None:
    """Record the worker's presence, as long as it lives."""
    while True:
        with suppress(QueueUnavailable):
            await queue.note_worker(worker_id)
        await asyncio.sleep(NOTE_SECONDS)


async def _unnote(noting: asyncio.Task[None], queue: ArqQueue, worker_id: str) -> None:
    """Delete the worker's presence record."""
    noting.cancel()
    with suppress(asyncio.CancelledError):
        await noting
    with suppress(QueueUnavailable):
        await queue.drop_worker(worker_id)


async def startup(ctx: dict[Any, Any]) -> None:
    """Open everything; arq calls this before its first look at the queue."""
    logging.getLogger("arq").handlers.clear()  # arq has just given itself one; all lines go through ours
    logs.setup_logging(log_format=config.log_format, log_level=config.log_level)
    try:
        ctx["report_the_rest"] = start_reporting(config, "worker")
        if config.start_check:
            await check_start(config, Role.WORKER)
        lifetime = ctx["lifetime"] = Lifetime()
        ctx["runner"], ctx["cleaner"] = await lifetime.open()
        ctx["redis"].on_cancel = ctx["runner"].hurry
        if config.demo:
            ctx["redis"].on_crash = functools.partial(_crash, ctx["runner"])
        _on_stop_signal(ctx["redis"].take_no_more, ctx["runner"].claim_no_more)
    except ConfigError as error:
        _refuse(error)


async def shutdown(ctx: dict[Any, Any]) -> None:
    """Close everything; arq calls this when no job runs any more."""
    if _failures:
        _report(_failures[0])  # first: the timer may end the process while a part does not close
    if "runner" in ctx:
        last = threading.Timer(EXIT_SECONDS, os._exit, (MISCONFIGURED if _failures else 0,))
        last.daemon = True
        last.start()
    await ctx["redis"].hang_up()
    if "lifetime" in ctx:
        await ctx["lifetime"].close()
    if "report_the_rest" in ctx:
        await asyncio.to_thread(ctx["report_the_rest"], REPORTING_SECONDS)
    if _failures:
        raise SystemExit(MISCONFIGURED)
    gc.freeze()  # the interpreter's last collections would take 0.2 s of CPU to free memory that ends with the process


def _on_stop_signal(*calls: Callable[[], None]) -> None:
    """Call functions on SIGINT and SIGTERM, beside arq's own handlers.

    asyncio notices a signal by its wakeup descriptor, whatever handler Python has for
    it; ``loop.add_signal_handler`` would replace arq's.
    """
    loop = asyncio.get_running_loop()

    def pass_on(*_: object) -> None:
        for call in calls:
            loop.call_soon_threadsafe(call)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
        signal.siginterrupt(number, False)  # as asyncio has it


def _longest_session(config: Config) -> float:
    """Return the seconds after which arq cancels the run of a session: never.

    ``tasks`` watches the deadline, which moves while the processor starts, at most to
    the expiry. arq would count that start, and its cancel looks like a worker's stop.
    """
    return max(config.deadline_seconds, config.retention_seconds) + MARGIN_SECONDS


class Settings:
    """The settings that arq reads.

    The database decides what becomes of a session: arq keeps no result and retries
    nothing.
    """

    functions: ClassVar = [
        func(run_session, name=FUNCTION, max_tries=1_000_000, timeout=_longest_session(config)),
        func(run_cleanup, name=CLEANUP_FUNCTION, max_tries=1_000_000, timeout=config.deadline_seconds + MARGIN_SECONDS),
    ]
    redis_pool: ClassVar = DoorbellRedis(redis_url, config.queue_name, config.key_prefix)
    redis_settings: ClassVar = redis_settings  # only `arq --check` reads it
    queue_name: ClassVar = config.queue_name
    job_serializer: ClassVar = serialize
    job_deserializer: ClassVar = deserialize
    max_jobs: ClassVar = config.worker_jobs
    job_completion_wait: ClassVar = config.drain_seconds
    keep_result: ClassVar = 0
    retry_jobs: ClassVar = False
    poll_delay: ClassVar = POLL_DELAY_SECONDS
    health_check_interval: ClassVar = HEALTH_SECONDS
    on_startup: ClassVar = startup
    on_shutdown: ClassVar = shutdown
