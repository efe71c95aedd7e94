"""``httpjob``: a model behind an HTTP API that a TOML file describes.

Theory of operation. A run submits the work, commits what the upstream calls it (the
checkpoint), and only then waits: the worker that takes over from a dead one asks for
the same work instead of paying for it twice. The checkpoint holds every piece of work
that this session has begun, and the pictures that were uploaded for it, so that all can
be forgotten. The last piece of work is the current one, unless it has ended.

A host that answers the submission with the result has none of that to ask for. If the
answer holds links, they are committed before they are followed.

Work that the upstream no longer knows is begun anew, by the next attempt, which finds
it lost again. So no attempt begins more than one piece of work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from tryon.processor import IMAGE_TYPES, Checkpoint, Info, Job, Output, ProcessorError, Reference, Report, Result
from worker.processors.httpjob.calls import GONE, Calls
from worker.processors.httpjob.outcome import Ended, Lost, State, Usage, failure, links_of, text_of, work_of
from worker.processors.httpjob.pictures import sniff
from worker.processors.httpjob.spec import SCHEMA, Call, Poll, Spec, read
from worker.processors.httpjob.templates import Values, find, first, render_text
from worker.processors.upstream import MAX_FILE_BYTES, MAX_JSON_BYTES, Answer, Rejected, waited_for

NOT_RUNNING: Final = (400, 409, 422)
"""Statuses of a cancel that mean: it has ended already."""

MAX_PREVIEW_BYTES: Final = 4 * 2**20
"""The limit of the interface for a preview."""

_log = logging.getLogger("tryon.httpjob")

Cleanup = Callable[[Reference, Checkpoint], Awaitable[None]]


class HttpJob:
    """A processor whose work is done by a server that answers to HTTP."""

    options_schema: Final = SCHEMA
    needs_network = True

    def __init__(self, **options: Any) -> None:
        """Take the options of :data:`~worker.processors.httpjob.spec.SCHEMA`.

        Raises ValueError: one line.
        """
        self._spec: Final[Spec] = read(options)
        self._calls = Calls(self._spec)
        # An upstream that offers neither has no such method: nothing is promised.
        self.cancel: Cleanup | None = self._cancel if self._spec.cancel is not None else None
        self.forget: Cleanup | None = self._forget if self._spec.forget is not None else None

    def __repr__(self) -> str:
        return f"<HttpJob {self.info.name} {self._calls}>"

    @property
    def info(self) -> Info:
        """Return what the TOML file says."""
        return self._spec.info

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()

    async def run(self, job: Job, report: Report) -> Result:
        """Submit the work and wait for its result."""
        return await self._begin(job, report, State())

    async def resume(self, job: Job, checkpoint: Checkpoint, report: Report) -> Result:
        """Wait for the work of an earlier attempt; begin anew if it has ended."""
        state = State.of(checkpoint)
        try:
            if state.links:
                return await self._fetch(state.links)
            if state.current is not None:
                return await self._wait(job, report, state, Usage(self._spec.usage, report))
        except (Lost, Ended):
            _log.warning("The upstream lost the work of %s, submitting it again", job.session_id)
        return await self._begin(job, report, replace(state, ended=True, links=()))

    # -- submit, wait, fetch -----------------------------------------------------------

    async def _begin(self, job: Job, report: Report, before: State) -> Result:
        """Submit the work; ``before`` is all that earlier attempts have begun."""
        usage = Usage(self._spec.usage, report)
        state, chosen, answer = await self._submitted(job, report, before)
        if self._spec.poll is None:
            return await self._at_once(answer, chosen, state, report, usage)
        body = answer.json()
        state = state.begun({**work_of(body, self._spec.submit.keep, self._spec.needed), **chosen})
        await usage.say(body)  # first: the checkpoint keeps it for a worker that dies
        await report.checkpoint(state.as_json())
        try:
            return await self._wait(job, report, state, usage)
        except Lost:
            raise ProcessorError("processor_error", requeue=True) from None

    async def _submitted(self, job: Job, report: Report, before: State) -> tuple[State, Values, Answer]:
        """Return the state with what was uploaded, the chosen ids, and the answer.

        What was uploaded for work that a busy upstream does not take is forgotten: the
        work goes elsewhere, or the pictures are uploaded again later.
        """
        submit, state = self._spec.submit, before
        chosen: Values = {}

        async def uploaded(picture: Values) -> None:
            nonlocal state
            state = replace(state, uploads=(*state.uploads, picture))
            await report.checkpoint(state.as_json())

        await report(None, "sending the photo")
        try:
            values = await self._calls.values(job, uploaded)
            chosen = {name: render_text(template, values) for name, template in submit.chosen.items()}
            if chosen:
                await report.checkpoint(state.begun(chosen).as_json())
            max_bytes = MAX_FILE_BYTES if self._spec.poll is None else MAX_JSON_BYTES
            return state, chosen, await self._calls.ask(submit, {**values, **chosen}, job, max_bytes)
        except Rejected as error:
            if error.retry_after is not None and not chosen:
                await self._forget_unused(state, report)
            raise

    async def _forget_unused(self, state: State, report: Report) -> None:
        """Forget all that was uploaded, also for earlier work, which is over."""
        if state.uploads:
            with contextlib.suppress(ProcessorError):
                await self._forget_uploads(state.uploads)
                await report.checkpoint(replace(state, uploads=()).as_json() if state.works else {})

    async def _at_once(self, answer: Answer, chosen: Values, state: State, report: Report, usage: Usage) -> Result:
        """Return the result that the answer to the submission holds."""
        links: tuple[str, ...] = ()
        if sniff(answer.body) is None:
            body = answer.json()
            work = {**work_of(body, self._spec.submit.keep, self._spec.needed), **chosen}
            links = links_of(find(body, self._spec.result.files)[: self._spec.result.count])
            if work or links:
                state = replace(state.begun(work, ended=True) if work else state, links=links)
                await usage.say(body, done=True)  # first, as above
                await report.checkpoint(state.as_json())
        try:
            return await self._files(answer, usage)
        except Ended as ended:
            raise ended.error from None
        except ProcessorError as error:
            raise (waited_for(error) if links else error) from None

    async def _wait(self, job: Job, report: Report, state: State, usage: Usage) -> Result:
        """Return the result of the current work. Raises :class:`Lost`."""
        poll = self._spec.poll
        if poll is None or state.current is None:  # the options have changed since
            raise Lost
        values = {**self._calls.constants, **state.current}
        try:
            answer = await self._until_done(poll, values, job, report)
            if (fetch := self._spec.result.fetch) is not None:
                await usage.say(answer.json())
                try:
                    answer = await self._calls.patiently(fetch, values, job, poll.every)
                except Rejected as error:  # the host's word, not a connection that failed
                    raise Ended(error) from None
            return await self._files(answer, usage)
        except Ended as ended:
            if ended.error.requeue or ended.error.retry_after is not None:  # the next attempt begins anew
                await report.checkpoint(replace(state, ended=True).as_json())
            raise ended.error from None
        except ProcessorError as error:
            raise waited_for(error) from None

    async def _until_done(self, poll: Poll, values: Values, job: Job, report: Report) -> Answer:
        shown: object = None
        while True:
            answer = await self._calls.patiently(poll, values, job, poll.every)
            body = answer.json()
            status = text_of(first(body, poll.status))
            if status in poll.lost:
                raise Lost
            if status in poll.failed:
                raise Ended(failure(self._spec.errors, 200, body, answer.headers))
            if status in poll.done:
                return answer
            await _say_progress(poll, status, body, report)
            if (preview := first(body, poll.preview)) != shown and isinstance(preview, str):
                shown = preview
                await self._show(preview, report)
            await asyncio.sleep(poll.every)

    async def _files(self, answer: Answer, usage: Usage) -> Result:
        """Return the files of an answer, or the answer that is itself one."""
        if (type := sniff(answer.body)) is not None:
            await usage.say(done=True)
            return Output(answer.body, type)
        body = answer.json()
        await usage.say(body, done=True)
        found = find(body, self._spec.result.files)[: self._spec.result.count]
        if not found or not all(isinstance(each, str) for each in found):
            _log.warning("The upstream's result holds no file at %r", self._spec.result.files)
            raise ProcessorError("processor_error")
        return [await self._file(each) for each in found]

    async def _show(self, text: str, report: Report) -> None:
        """Show an intermediate picture; one that cannot be had is left out."""
        with contextlib.suppress(ProcessorError, Ended):
            data = await self._calls.content(text, MAX_PREVIEW_BYTES)
            if (type := sniff(data)) in IMAGE_TYPES:
                assert type is not None
                await report.preview(data, type)

    async def _fetch(self, links: Sequence[str]) -> Result:
        """Return files whose links an earlier attempt was given.

        Raises :class:`Ended`: one has run out.
        """
        try:
            return [await self._file(each) for each in links]
        except ProcessorError as error:
            raise waited_for(error) from None

    async def _file(self, text: str) -> Output:
        data = await self._calls.content(text, MAX_FILE_BYTES)
        type = sniff(data)
        if type is None:
            _log.warning("The upstream's file is none of the types of a result")
            raise ProcessorError("processor_error")
        return Output(data, type)

    # -- clean up ----------------------------------------------------------------------

    async def _cancel(self, job: Reference, checkpoint: Checkpoint) -> None:
        """Stop the work, if it may still run."""
        call, current = self._spec.cancel, State.of(checkpoint).current
        if call is not None and current is not None:
            await self._clean(call, current, (*GONE, *NOT_RUNNING))

    async def _forget(self, job: Reference, checkpoint: Checkpoint) -> None:
        """Stop the work, and delete all that this session has begun."""
        await self._cancel(job, checkpoint)
        state = State.of(checkpoint)
        if (call := self._spec.forget) is not None:
            for work in state.works:
                await self._clean(call, work, GONE)
        await self._forget_uploads(state.uploads)

    async def _forget_uploads(self, pictures: Sequence[Values]) -> None:
        if self._spec.upload is not None and (call := self._spec.upload.forget) is not None:
            for picture in pictures:
                await self._clean(call, picture, GONE)

    async def _clean(self, call: Call, work: Values, fine: tuple[int, ...]) -> None:
        await self._calls.ask(replace(call, ok=(*call.ok, *fine)), {**self._calls.constants, **work}, None)


async def _say_progress(poll: Poll, status: str, body: Any, report: Report) -> None:
    progress, position = first(body, poll.progress), first(body, poll.position)
    known = isinstance(progress, int | float) and not isinstance(progress, bool)
    place = position - poll.position_first + 1 if isinstance(position, int) else 0
    await report(
        min(1.0, max(0.0, progress / poll.progress_scale)) if known else None,
        poll.stages.get(status, "working"),
        upstream_position=place if place > 0 else None,
    )
