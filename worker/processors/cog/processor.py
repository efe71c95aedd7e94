"""Runs sessions on a Cog server.

A model that streams (``@cog.streaming``) is started in the background and followed by
its events: it goes on when its worker dies, and the next worker follows it on. One that
does not stream is run by a request that waits for its end, and is cancelled when that
request ends; what it prints is asked for meanwhile.

The id of a prediction is committed as the checkpoint before the prediction starts, and
is never used for another: an id that has ended would run once more. Links to what it
has made are committed before they are followed.

A requeue would cancel the prediction, which is paid for. So while one may still run,
or its links wait, a server that cannot be reached is waited for (``retry_after``).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from tryon.processor import IMAGE_TYPES, Checkpoint, Input, Job, Output, ProcessorError, Reference, Report
from worker.processors.cog.options import ERROR_CHARACTERS, SCHEMA, CogOptions
from worker.processors.cog.progress import Printed, Progress
from worker.processors.cog.results import File, decode, files_of, links_of, type_of
from worker.processors.cog.server import CogServer, Ended, Health, JsonObject, Model
from worker.processors.upstream import Event, Rejected, Upstream, waited_for

POLL_SECONDS: Final = 1.0
"""Time between two questions to a server that starts, or about a prediction that runs
and does not stream.
"""
POLL_SHARE: Final = 0.05
"""Most of the time that is spent on asking about a prediction: the answers echo its
photos.
"""
PREVIEW_BYTES: Final = 4 * 2**20

_COLD: Final = frozenset((Health.UNKNOWN, Health.STARTING))
_READY: Final = frozenset((Health.READY, Health.BUSY))
_AWAY: Final = frozenset((Health.UNREACHABLE, Health.UNHEALTHY))
"""States in which a prediction may go on; in all others that are not ready none does.
"""


class _Gone(ProcessorError):
    """Nothing of the prediction can be had any more: it may run anew."""


class _Truncated(_Gone):
    """The server has dropped events of a prediction that runs: its end is lost."""

    def __init__(self) -> None:
        super().__init__("backend_unreachable", requeue=True)


class CogProcessor:
    """A model on a Cog server."""

    options_schema: ClassVar[Mapping[str, Any]] = SCHEMA
    needs_network = True

    def __init__(self, **options: Any) -> None:
        self._options = CogOptions(**options)
        self._codes = self._options.codes()
        self.info = self._options.info()
        self._open_upstream: Upstream | None = None

    def __repr__(self) -> str:
        return f"<CogProcessor {self._open_upstream!r}>"

    async def start(self) -> None:
        """Prepare for calls; the server need not run yet."""
        options = self._options
        self._open_upstream = Upstream(
            options.url,
            hosts=options.hosts,
            # the operator has named this server; few have a public address
            private_hosts=(urlsplit(options.url).netloc, *options.private_hosts),
            headers={} if options.token is None else {"Authorization": f"Bearer {options.token}"},
        )

    async def close(self) -> None:
        """Close what is open."""
        if self._open_upstream is not None:
            await self._open_upstream.close()

    @property
    def _server(self) -> CogServer:
        assert self._open_upstream is not None, "start() comes first"
        image = next(iter(self._options.roles.values()))["input"]
        return CogServer(self._open_upstream, image=image, busy_seconds=self._options.busy_seconds)

    # -- the interface -----------------------------------------------------------------

    async def health(self) -> None:
        """Return if the server takes predictions now or soon."""
        state = await self._server.health()
        if state in _COLD:
            raise ProcessorError("backend_cold")
        if state not in _READY:
            raise ProcessorError("backend_unreachable")

    async def run(self, job: Job, report: Report) -> list[Output]:
        """Run a new prediction."""
        if await self._ready(report) is Health.BUSY:
            raise ProcessorError("backend_busy", retry_after=self._options.busy_seconds)
        model = await self._server.model()
        body = {"input": _input(self._options, job)}
        run = self._stream if model.streams else self._wait
        return await self._result(await run(body, model, job, report), report)

    async def resume(self, job: Job, checkpoint: Checkpoint, report: Report) -> list[Output]:
        """Follow the prediction if it still runs; else run a new one.

        The server keeps nothing of a prediction that has ended.
        """
        if links := checkpoint.get("links"):
            with contextlib.suppress(Rejected):  # they have run out
                return await self._outputs([File(*each) for each in links])
            return await self.run(job, report)
        end = await self._rejoin(str(checkpoint["id"]), report)
        return await self.run(job, report) if end is None else await self._result(end, report)

    async def cancel(self, job: Reference, checkpoint: Checkpoint) -> None:
        """Cancel the prediction, also one that arrives later; the server forgets it."""
        if "id" in checkpoint:  # else it has ended
            await self._server.cancel(str(checkpoint["id"]), overtakes=True)

    async def forget(self, job: Reference, checkpoint: Checkpoint) -> None:
        """Cancel the prediction: of one that has ended the server keeps nothing."""
        await self.cancel(job, checkpoint)

    # -- before the run ----------------------------------------------------------------

    async def _ready(self, report: Report) -> Health:
        """Wait until the server takes predictions."""
        loop, options = asyncio.get_running_loop(), self._options
        began = loop.time()
        while True:
            waited = loop.time() - began
            try:
                state = await self._server.health()
            except ProcessorError as error:
                if not error.requeue:
                    raise
                state = Health.UNREACHABLE
            if state in _READY:
                return state
            cold = state in _COLD
            if waited >= (options.warming_seconds if cold else options.unreachable_seconds):
                kind = ProcessorError if state in _AWAY else _Gone
                raise kind("backend_cold" if cold else "backend_unreachable", requeue=True)
            await report(None, "warming" if cold else "waiting for the model server")
            await asyncio.sleep(POLL_SECONDS)

    async def _checkpoint(self, job: Job, report: Report) -> str:
        """Return the id of a new prediction, which is committed."""
        prediction = f"{job.key}-{secrets.token_hex(4)}"
        await report.checkpoint({"id": prediction})
        return prediction

    # -- the run -----------------------------------------------------------------------

    async def _stream(self, body: JsonObject, model: Model, job: Job, report: Report) -> JsonObject:
        """Run a prediction that does not need this worker, and return its end."""
        prediction = await self._checkpoint(job, report)
        await self._server.submit(prediction, body, job.trace)
        try:
            with _held():
                return await self._follow(prediction, model, report)
        except Ended:  # while no stream was open; nothing is left of it
            prediction = await self._checkpoint(job, report)
        except _Truncated:
            await self._server.cancel(prediction)
            raise
        # This one is started by its stream: never missed, but it ends with this worker.
        async with self._server.stream(prediction, body, job.trace) as events:
            return await self._read(events, report)

    async def _rejoin(self, prediction: str, report: Report) -> JsonObject | None:
        """Return the end of an earlier attempt's prediction; None: it runs no more."""
        with _held():
            await self._ready(report)
            model = await self._server.model()
            if model.streams:
                with contextlib.suppress(Ended, _Truncated):
                    return await self._follow(prediction, model, report)
            await self._server.cancel(prediction)
        return None

    async def _follow(self, prediction: str, model: Model, report: Report) -> JsonObject:
        """Return the end of a prediction that runs on the server.

        Raises :class:`Ended`: it runs no more; :class:`_Truncated`; ProcessorError: the
        server is lost.
        """
        assert model.refused is not None
        loop = asyncio.get_running_loop()
        lost: float | None = None
        while True:
            try:
                async with self._server.stream(prediction, model.refused) as events:
                    lost = None
                    return await self._read(events, report)
            except ProcessorError as error:
                lost = loop.time() if lost is None else lost
                waited = loop.time() - lost
                if isinstance(error, _Truncated) or not error.requeue or waited >= self._options.unreachable_seconds:
                    raise
            await report(None, "waiting for the model server")
            await asyncio.sleep(POLL_SECONDS)

    async def _read(self, events: AsyncIterator[Event], report: Report) -> JsonObject:
        """Return the end of a prediction; report what its events say until then."""
        printed = Printed()
        async for event in events:
            match event.name:
                case "completed":
                    end = event.json()
                    return end if isinstance(end, dict) else {}
                case "error":
                    raise _Truncated
                case "log":
                    await _tell(printed.add(_text(event, "data")), report)
                case "output" if self._options.result == "last":
                    await _preview(_text(event, "chunk"), report)
        raise ProcessorError("backend_unreachable", requeue=True)

    async def _wait(self, body: JsonObject, model: Model, job: Job, report: Report) -> JsonObject:
        """Run a prediction and return its end; report what it prints until then."""
        prediction = await self._checkpoint(job, report)
        seconds = max(1.0, job.deadline_at - time.time())
        running = asyncio.create_task(self._server.predict(prediction, body, job.trace, seconds=seconds))
        printed, known, pause = Printed(), 0, POLL_SECONDS
        loop = asyncio.get_running_loop()
        try:
            while model.refused is not None and not (await asyncio.wait({running}, timeout=pause))[0]:
                asked = loop.time()
                with contextlib.suppress(Ended, ProcessorError):  # the request itself says what went wrong
                    logs = str((await self._server.peek(prediction, model.refused)).get("logs", ""))
                    await _tell(printed.add(logs[known:]), report)
                    known = len(logs)
                pause = max(POLL_SECONDS, (loop.time() - asked) / POLL_SHARE)
            return await running
        finally:
            running.cancel()
            await asyncio.wait({running})

    # -- the end -----------------------------------------------------------------------

    async def _result(self, end: JsonObject, report: Report) -> list[Output]:
        """Return the outputs of a prediction that has ended."""
        seconds = end["metrics"].get("predict_time") if isinstance(end.get("metrics"), dict) else None
        if isinstance(seconds, int | float) and math.isfinite(seconds):
            await report.usage(gpu_seconds=float(seconds))
        match end.get("status"):
            case "succeeded":
                output = end.get("output")
                if self._options.result == "last" and isinstance(output, list):
                    output = output[-1:]
                files = files_of(output, self._options.outputs)
                if links := links_of(files):
                    await report.checkpoint({"links": links})
                return await self._outputs(files)
            case "failed":
                raise _failure(str(end.get("error")), self._codes)
            case "canceled":  # by another client, or because the server stops
                raise ProcessorError("backend_unreachable", requeue=True)
        raise ValueError("the prediction has no known status")

    async def _outputs(self, files: Sequence[File]) -> list[Output]:
        with _held():
            return [await self._fetch(each) for each in files]

    async def _fetch(self, file: File) -> Output:
        data = await self._server.download(file.url) if file.is_link else decode(file.url)
        return Output(data, type_of(data), file.role)


def _failure(error: str, codes: Iterable[tuple[re.Pattern[str], str]]) -> ProcessorError:
    """Return the failure that the model's error stands for.

    The text may hold parts of the input: it goes nowhere.
    """
    found = (code for pattern, code in codes if pattern.search(error[:ERROR_CHARACTERS]))
    return ProcessorError(next(found, "processor_error"))


@contextlib.contextmanager
def _held() -> Iterator[None]:
    """Have the worker wait for a server that is away, and resume this prediction."""
    try:
        yield
    except _Gone:
        raise
    except ProcessorError as error:
        raise waited_for(error) from None


def _input(options: CogOptions, job: Job) -> JsonObject:
    """Return the model's input."""
    filled = {options.params.get(name, name): value for name, value in job.params.items()}
    filled |= options.fixed
    if options.seed is not None:
        filled[options.seed] = job.seed
    for role, said in options.roles.items():
        filled.pop(said["input"], None)
        if urls := [_data_url(each) for each in job.all(role)]:
            filled[said["input"]] = urls if said.get("count", 1) > 1 else urls[0]
    return filled


def _data_url(image: Input) -> str:
    return f"data:{image.type};base64,{base64.b64encode(image.read()).decode()}"


def _text(event: Event, name: str) -> str:
    """Return a text of the event's data; empty if there is none."""
    found = event.json()
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) else ""


async def _tell(progress: Progress | None, report: Report) -> None:
    if progress is not None:
        stage = progress.stage or "running"
        await report(progress.share, stage, progress.eta_seconds, step=progress.step, steps=progress.steps)


async def _preview(url: str, report: Report) -> None:
    """Show a picture that the model has yielded, if it is one that can be shown."""
    with contextlib.suppress(ValueError):
        data = decode(url)
        if len(data) <= PREVIEW_BYTES and (kind := type_of(data)) in IMAGE_TYPES:
            await report.preview(data, kind)
