"""The processor: it uploads the inputs, makes the calls in their order, and fetches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tryon.processor import Checkpoint, Info, Job, Output, ProcessorError, Reference, Report
from worker.processors.gradio.app import GradioApp, Visit
from worker.processors.gradio.failures import NOTE_LENGTH, Rule, failure_of, noted
from worker.processors.gradio.messages import (
    Cancelled,
    Completed,
    Failed,
    Generated,
    Lost,
    Progressed,
    Queued,
    Started,
    Word,
)
from worker.processors.gradio.settings import SCHEMA, Call, GradioOptions
from worker.processors.gradio.templates import Json, Values, files_in, filled, roles_of
from worker.processors.upstream import Upstream

PREVIEW_BYTES: Final = 4 * 2**20
"""The limit of the interface for one preview."""
PREVIEW_SECONDS: Final = 1.0
"""Shortest time between two previews."""


class GradioProcessor:
    """A processor whose model is a Gradio app; its options are :class:`GradioOptions`.

    It has no ``resume``: Gradio ends a call with its stream, so that the work of a
    worker that died runs anew.
    """

    options_schema = SCHEMA
    needs_network = True

    def __init__(self, **options: Any) -> None:
        self._options = GradioOptions(**options)
        self._rules = self._options.rules()
        self._upstream = Upstream(
            self._options.url,
            private_hosts=self._options.private_hosts,
            headers=self._options.headers(),
            ca_file=self._options.ca_file,
        )
        self._app = GradioApp(self._upstream, self._rules)
        self._info = self._options.info()

    def __repr__(self) -> str:
        return f"<GradioProcessor {self._app!r}>"

    @property
    def info(self) -> Info:
        """What the options say; nothing is asked of the app."""
        return self._info

    async def close(self) -> None:
        """Close the connections."""
        await self._upstream.close()

    async def health(self) -> None:
        """Return if the app describes itself and has the functions that are called."""
        try:
            visit = await self._app.visit()
            for call in self._options.calls_in_order():
                visit.check(call.api)
        except ValueError as error:
            raise ProcessorError("processor_error", str(error)) from error

    async def run(self, job: Job, report: Report) -> Sequence[Output]:
        """Upload the inputs, make the calls one after the other, fetch the outputs."""
        try:
            await report(0.0, "sending the photo")
            visit = await self._app.visit(job.trace)
            return await _Run(self._options, self._rules, visit, job, report).outputs()
        except ValueError as error:
            await report.log(f"The Gradio app does not fit the options: {str(error)[:NOTE_LENGTH]}")
            raise ProcessorError("processor_error") from error
        except ProcessorError as error:
            for note in getattr(error, "__notes__", ()):
                await report.log(note)
            raise

    async def cancel(self, job: Reference, checkpoint: Checkpoint) -> None:
        """Cancel the call that waits or runs."""
        await self._app.cancel(checkpoint)


class _Run:
    """One run: what the calls have returned so far, and how far it is."""

    def __init__(self, options: GradioOptions, rules: Sequence[Rule], visit: Visit, job: Job, report: Report) -> None:
        self._rules = rules
        self._visit = visit
        self._job = job
        self._report = report
        self._calls = options.calls_in_order()
        self._outputs = options.named_outputs()
        self._previews = options.previews
        self._max_outputs = options.max_outputs
        self._results: dict[str, Sequence[Json]] = {}
        self._files: Mapping[str, Sequence[Json]] = {}
        self._previewed_at = float("-inf")

    def __repr__(self) -> str:
        return f"<_Run {self._job.key} results={list(self._results)}>"

    async def outputs(self) -> Sequence[Output]:
        """Return the files of each output role.

        Raises ValueError: the first role has none.
        """
        used = set().union(*(roles_of(call.data) for call in self._calls))
        self._files = await self._visit.upload([each for each in self._job.inputs if each.role in used])
        whole, before = sum(call.weight for call in self._calls), 0.0
        for call in self._calls:
            self._results[call.name] = await self._call(call, before / whole, call.weight / whole)
            before += call.weight
        await self._report(1.0, "fetching the result")
        found: list[Output] = []
        for role, reference in self._outputs.items():
            files = files_in(filled(reference, self._values(self._results)))[: self._max_outputs]
            if not files and not found:
                raise ValueError(f"it returned no file as {reference}")
            for file in files:
                output = await self._visit.fetch(file)
                found.append(Output(output.data, output.type, role))
        return found

    def _values(self, results: Mapping[str, Sequence[Json]]) -> Values:
        return Values(files=self._files, params=self._job.params, seed=self._job.seed, results=results)

    async def _call(self, call: Call, start: float, share: float) -> Sequence[Json]:
        """Return what the function returned.

        ``start`` and ``share`` are the call's part of the run's progress.
        """
        joined = await self._visit.join(call.api, filled(call.data, self._values(self._results)))
        await self._report.checkpoint(joined)
        async with contextlib.aclosing(self._visit.words(joined)) as words:
            async for word in words:
                if isinstance(word, Completed):
                    return word.values
                await self._hear(word, call, start, share)
        raise AssertionError("the stream of words ends with Lost")

    async def _hear(self, word: Word, call: Call, start: float, share: float) -> None:
        """Report what the app says. Raises ProcessorError: the call has failed."""
        match word:
            case Queued(position, eta_seconds):
                await self._report(start, "waiting for the model", eta_seconds, upstream_position=position)
            case Started(eta_seconds):
                await self._report(start, "running", eta_seconds)
            case Progressed(progress, stage, step, steps):
                known = None if progress is None else start + share * progress
                await self._report(known, stage or "running", step=step, steps=steps)
            case Generated(values):
                await self._show(call, values)
            case Failed(text):
                raise failure_of(text, self._rules)
            case Cancelled():
                raise noted(ProcessorError("processor_error", requeue=True), "the call was cancelled there")
            case Lost(text):
                raise noted(ProcessorError("backend_unreachable", requeue=True), text)

    async def _show(self, call: Call, values: Sequence[Json]) -> None:
        """Show the first output of an intermediate result, if it is there already."""
        now = asyncio.get_running_loop().time()
        reference = next(iter(self._outputs.values()))
        if not self._previews or call is not self._calls[-1] or now - self._previewed_at < PREVIEW_SECONDS:
            return
        try:
            files = files_in(filled(reference, self._values({**self._results, call.name: values})))
            if files:
                picture = await self._visit.fetch(files[0], max_bytes=PREVIEW_BYTES)
                await self._report.preview(picture.data, picture.type)
                self._previewed_at = asyncio.get_running_loop().time()
        except (ValueError, ProcessorError):
            return  # the result counts, and tells what is wrong with it
