"""The requests of one upstream, made from the templates of its TOML file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from tryon.processor import Job, ProcessorError
from worker.processors.httpjob.outcome import Ended, Lost, failure, work_of
from worker.processors.httpjob.pictures import Picture, decode, prepare, sniff
from worker.processors.httpjob.spec import Call, Spec, names_of
from worker.processors.httpjob.templates import Missing, Values, first, render, render_path
from worker.processors.upstream import MAX_FILE_BYTES, MAX_JSON_BYTES, Answer, Rejected, Upstream

MAX_FAILURES: Final = 5
"""Calls in a row that fail while the work runs, before the attempt is given up."""
GONE: Final = (404, 410)
"""Statuses that mean: there is no such work, or none any more."""

Uploaded: TypeAlias = Callable[[Values], Awaitable[None]]
Files: TypeAlias = Sequence[tuple[str, tuple[str, bytes, str]]]
"""Parts of a form: field, (name, content, type)."""

_log = logging.getLogger("tryon.httpjob")


class Calls:
    """The way to one upstream."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._key = {} if spec.key is None else {"key": spec.key}
        self._upstream = Upstream(
            spec.url,
            hosts=spec.hosts,
            private_hosts=spec.private_hosts,
            headers=render(spec.headers, {**self.constants, **self._key}),
            header_hosts=spec.header_hosts,
            ca_file=spec.ca_file,
        )

    def __repr__(self) -> str:
        return f"<Calls {self._upstream}>"

    async def close(self) -> None:
        """Close the connections."""
        await self._upstream.close()

    async def patiently(self, call: Call, values: Values, job: Job, pause: float) -> Answer:
        """Ask, again after a failure that may pass. Raises :class:`Lost`."""
        known = replace(call, ok=(*call.ok, *GONE))
        for failures in range(1, MAX_FAILURES + 1):
            try:
                answer = await self.ask(known, values, job, MAX_FILE_BYTES)
            except ProcessorError as error:
                if not (error.requeue or error.retry_after is not None) or failures == MAX_FAILURES:
                    raise
                await asyncio.sleep(error.retry_after or pause * 2**failures)
            else:
                if answer.status in GONE and answer.status not in call.ok:
                    raise Lost
                return answer
        raise AssertionError("unreachable")

    async def content(self, text: str, max_bytes: int) -> bytes:
        """Return the file of a link, a data URL or base64.

        Raises :class:`Ended`: the link has run out.
        """
        data = decode(text, max_bytes) if "://" not in text[:9] else None
        if data is not None and (sniff(data) is not None or text.startswith("data:")):
            return data
        if text.startswith("data:"):
            raise ProcessorError("processor_error")
        seconds = self._spec.result.seconds
        try:
            return (await self._upstream.download(text, seconds=seconds, max_bytes=max_bytes)).body
        except Rejected as error:
            if error.requeue or error.retry_after is not None:
                raise
            raise Ended(ProcessorError("processor_error", requeue=True)) from None

    @property
    def constants(self) -> Values:
        """Return the operator's own values."""
        return {f"vars.{name}": value for name, value in self._spec.variables.items()}

    async def values(self, job: Job, uploaded: Uploaded) -> Values:
        """Return what templates may name, the pictures in the form they are sent in.

        ``uploaded`` is called after each upload that can be forgotten, with its names.
        """
        values = {**self.constants, "session": job.session_id, "job": job.key, "seed": job.seed}
        values |= {f"params.{name}": value for name, value in job.params.items()}
        words = dict(values)
        for role, how in self._spec.pictures.items():
            pictures = await asyncio.to_thread(prepare, job.all(role), how.limits, merge=how.merge)
            forms = [await self._form(each, how.send, words, job, uploaded) for each in pictures]
            if forms:
                values |= {role: forms[0], f"{role}[]": forms}
                values |= {f"{role}.{number}": form for number, form in enumerate(forms)}
                values |= {
                    f"{role}.{name}": getattr(pictures[0], name) for name in ("type", "width", "height", "file_name")
                }
        return values

    async def _form(self, picture: Picture, send: str, words: Values, job: Job, uploaded: Uploaded) -> str:
        if send != "url":
            return picture.base64 if send == "base64" else picture.data_url
        upload = self._spec.upload
        assert upload is not None
        file = (upload.field, (picture.file_name, picture.data, picture.type))
        body = (await self.ask(upload, words, job, files=[file])).json()
        if upload.forget is not None:
            await uploaded(work_of(body, upload.keep, names_of(upload.forget)))
        url = first(body, upload.url)
        if not isinstance(url, str):
            raise ProcessorError("processor_error")
        return url

    async def ask(
        self, call: Call, values: Values, job: Job | None, max_bytes: int = MAX_JSON_BYTES, *, files: Files = ()
    ) -> Answer:
        """Return the answer to a request. Raises ProcessorError by the error table."""
        try:
            path = render_path(call.path, values)
            body = None if call.json is None else render(call.json, values)
        except Missing as error:
            _log.warning("The upstream gave no %s", error)
            raise ProcessorError("processor_error") from None
        answer = await self._upstream.call(
            call.method,
            path,
            headers=self._headers(call, values, job),
            json=body,
            files=files or None,
            seconds=call.seconds,
            max_bytes=max_bytes,
        )
        return self._passed(call, answer)

    def _headers(self, call: Call, values: Values, job: Job | None) -> dict[str, str]:
        headers: dict[str, str] = render(call.headers, {**values, **self._key})
        return headers if job is None or job.trace is None else {"traceparent": job.trace, **headers}

    def _passed(self, call: Call, answer: Answer) -> Answer:
        if answer.ok or answer.status in call.ok:
            return answer
        try:
            body = answer.json()
        except ProcessorError:
            body = None
        raise failure(self._spec.errors, answer.status, body, answer.headers)
