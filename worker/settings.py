"""What the stock ``arq worker.Settings`` runs: one worker process.

arq reads only what stands in the class body itself, and reads it once, when the process
starts.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, ClassVar, Final, NoReturn

from arq import func
from arq.connections import RedisSettings

from server.adapters.redis.queue import FUNCTION, ArqQueue, QueueAway, deserialize, serialize
from server.config.settings import Config, ConfigError
from server.services import open_services
from server.telemetry import logs
from worker.isolation.pool import ProcessPool
from worker.pickup import DoorbellRedis
from worker.tasks import SessionRunner, run_session

log = logging.getLogger("tryon.worker")

NOTE_SECONDS: Final = 3.0
"""How often a worker says that it lives."""

HEALTH_SECONDS: Final = 5.0
"""How often arq's own health record (``arq --check worker.Settings``) is written."""

EXIT_SECONDS: Final = 0.5
"""How long a worker may take to close its connections, all sessions written down.

Then it is gone, whatever thread of a processor still runs and whatever server does not
answer.
"""

POLL_DELAY_SECONDS: Final = 0.002
"""arq's pause between two looks at the queue.

An idle worker spends its time in the doorbell instead; this bounds how long a freed
slot of a full worker stays empty. Looking for one costs a full worker 2.6 % of a core
(5 ms: 1.1 %).
"""


def _read() -> tuple[Config, str]:
    try:
        config = Config.load()
        return config, config.redis
    except ConfigError as error:
        _refuse(error)


def _refuse(error: ConfigError) -> NoReturn:
    print(f"tryon worker: {error}", file=sys.stderr)
    raise SystemExit(2) from None


def _worth_telling(record: logging.LogRecord) -> bool:
    """Not each job's start and end, which our own lines say better; not the trace of
    each that is handed back at the end.
    """
    handed_back = record.exc_info and record.exc_info[0] is asyncio.CancelledError
    return record.levelno >= logging.WARNING and not handed_back


config, redis_url = _read()
redis_settings = RedisSettings.from_dsn(redis_url)
logging.getLogger("arq.worker").addFilter(_worth_telling)  # a level would be reset by arq's own logging configuration


class Lifetime:
    """Everything a worker has open, opened and closed by one task: some of it insists
    on that.
    """

    def __init__(self) -> None:
        self._ready: asyncio.Future[SessionRunner] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._task = asyncio.create_task(self._live(), name="lifetime")

    async def open(self) -> SessionRunner:
        """Raises whatever kept something from opening."""
        return await self._ready

    async def close(self) -> None:
        self._ended.set()
        if not self._ready.done() or self._ready.cancelled():  # the processor's code may take minutes to load
            self._task.cancel()
        await asyncio.wait({self._task})

    async def _live(self) -> None:
        worker_id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(2)}"
        try:
            async with AsyncExitStack() as stack:
                pool = ProcessPool(config, on_start_error=_stop)
                stack.push_async_callback(pool.close)
                pool.start()
                services = await stack.enter_async_context(open_services(config))
                await pool.built()
                await stack.enter_async_context(services.reconciling.maintenance.running())
                noting = asyncio.create_task(_note(services.queue, worker_id), name="presence")
                stack.push_async_callback(_unnote, noting, services.queue, worker_id)
                self._ready.set_result(SessionRunner(services, pool, worker_id))
                await self._ended.wait()
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)


def _stop(error: Exception) -> None:
    """A processor that cannot start makes a worker that hands everything back: better
    none, and one that tries again.
    """
    log.error("The processor did not start; the worker stops", exc_info=error)
    signal.raise_signal(signal.SIGTERM)


async def _note(queue: ArqQueue, worker_id: str) -> None:
    while True:
        with suppress(QueueAway):
            await queue.note_worker(worker_id)
        await asyncio.sleep(NOTE_SECONDS)


async def _unnote(noting: asyncio.Task[None], queue: ArqQueue, worker_id: str) -> None:
    noting.cancel()
    with suppress(asyncio.CancelledError):
        await noting
    with suppress(QueueAway):
        await queue.drop_worker(worker_id)


async def startup(ctx: dict[Any, Any]) -> None:
    logging.getLogger("arq").handlers.clear()  # arq has just given itself one; all lines go through ours
    logs.setup_logging(log_format=config.log_format, log_level=config.log_level)
    lifetime = ctx["lifetime"] = Lifetime()
    try:
        ctx["runner"] = await lifetime.open()
        ctx["redis"].on_cancel = ctx["runner"].look_now
        _on_signal(ctx["redis"].take_no_more)
    except ConfigError as error:
        _refuse(error)


async def shutdown(ctx: dict[Any, Any]) -> None:
    if "runner" in ctx:
        last = threading.Timer(EXIT_SECONDS, os._exit, (0,))
        last.daemon = True
        last.start()
    await ctx["redis"].hang_up()
    if "lifetime" in ctx:
        await ctx["lifetime"].close()
    gc.freeze()  # the interpreter's last collections would take 0.2 s of CPU to free what is gone with the process


def _on_signal(call: Callable[[], None]) -> None:
    """Call it on SIGINT and SIGTERM too. arq's own handlers go on: asyncio hears of a
    signal by its wakeup fd, whatever handler Python has for it
    (``loop.add_signal_handler`` would replace arq's).
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(call))
        signal.siginterrupt(number, False)  # as asyncio has it


class Settings:
    """Of arq.

    The database decides what becomes of a session: arq keeps no result and tries
    nothing again.
    """

    functions: ClassVar = [func(run_session, name=FUNCTION, max_tries=1_000_000)]
    redis_pool: ClassVar = DoorbellRedis(redis_url, config.queue_name, config.key_prefix)
    redis_settings: ClassVar = redis_settings  # only `arq --check` reads it
    queue_name: ClassVar = config.queue_name
    job_serializer: ClassVar = serialize
    job_deserializer: ClassVar = deserialize
    max_jobs: ClassVar = config.worker_jobs
    job_timeout: ClassVar = config.deadline_seconds + 60  # never the one that strikes: `tasks` watches the deadline
    job_completion_wait: ClassVar = config.drain_seconds
    keep_result: ClassVar = 0
    retry_jobs: ClassVar = False
    poll_delay: ClassVar = POLL_DELAY_SECONDS
    health_check_interval: ClassVar = HEALTH_SECONDS
    on_startup: ClassVar = startup
    on_shutdown: ClassVar = shutdown
