"""What became of work upstream: the checkpoint, and the error table."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tryon.processor import Checkpoint, ProcessorError, Report
from worker.processors.httpjob.spec import Rule
from worker.processors.httpjob.templates import Values, find, first
from worker.processors.upstream import BUSY_SECONDS, Rejected, failure_of, retry_after

MAX_WORKS: Final = 8
"""Pieces of work that a checkpoint names; the oldest is dropped."""
MAX_UPLOADS: Final = 64
"""Uploaded pictures that a checkpoint names; the oldest is dropped."""
MAX_VALUE_BYTES: Final = 1024
"""JSON of one value in a checkpoint: an id, or a URL."""
MAX_WORK_BYTES: Final = 6000
"""JSON of one piece of work, or one upload: the current one fits beside all links."""
MAX_LINK_BYTES: Final = 8192
"""JSON of all links in a checkpoint; longer ones are left out."""
MAX_BYTES: Final = 15_000
"""JSON of a checkpoint; a longer one drops its oldest upload, then its oldest work, but
never the current work.
"""

_log = logging.getLogger("tryon.httpjob")


class Lost(Exception):
    """The upstream does not know the work any more."""


class Ended(Exception):
    """The upstream has ended the work, with this error."""

    def __init__(self, error: ProcessorError) -> None:
        super().__init__(error.code)
        self.error = error


@dataclass(frozen=True, slots=True)
class State:
    """The checkpoint: the work that was begun, each by the names of ``submit.keep``."""

    works: tuple[Values, ...] = ()
    ended: bool = False
    """Whether the last work has ended, so that another attempt begins anew."""
    uploads: tuple[Values, ...] = ()
    """The pictures that were uploaded, each by the names of ``upload.keep``."""
    links: tuple[str, ...] = ()
    """Files of a result that the answer to the submission held, to be fetched still."""

    @property
    def current(self) -> Values | None:
        """Return the work that may still run, or whose result may still be there."""
        return None if self.ended or not self.works else self.works[-1]

    def begun(self, work: Values, *, ended: bool = False) -> State:
        """Return the state once another piece of work is the last one.

        ``ended``: the answer to its submission held the result.
        """
        return replace(self, works=(*self.works, work), ended=ended)

    def as_json(self) -> dict[str, object]:
        """Return the checkpoint."""
        works = [dict(each) for each in self.works[-MAX_WORKS:]]
        uploads = [dict(each) for each in self.uploads[-MAX_UPLOADS:]]
        links = list(self.links)
        while _bytes([works, uploads, links]) > MAX_BYTES and (uploads or works[1:]):
            (uploads or works).pop(0)
        more = {"uploads": uploads} if uploads else {}
        return {"works": works, "ended": self.ended, **more, **({"links": links} if links else {})}

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> State:
        """Return the state of a checkpoint; nothing, if it is another processor's."""
        works, uploads, links = (checkpoint.get(name, []) for name in ("works", "uploads", "links"))
        if not _all(works, Mapping) or not _all(uploads, Mapping) or not _all(links, str):
            return cls()
        return cls(tuple(works), checkpoint.get("ended") is True, tuple(uploads), tuple(links))


class Usage:
    """What one run has used, as far as answers have said it by now."""

    def __init__(self, sources: Mapping[str, str | float], report: Report) -> None:
        self._sources = sources
        self._report = report
        self._used: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Usage {self._used}>"

    async def say(self, body: Any = None, *, done: bool = False) -> None:
        """Report it with what an answer says, and fixed numbers once it is done."""
        for name, source in self._sources.items():
            found = first(body, source) if isinstance(source, str) else source if done else None
            if isinstance(found, int | float) and not isinstance(found, bool):
                self._used[name] = float(found)
        if self._used:
            await self._report.usage(**self._used)


def _all(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(each, kind) for each in values)


def links_of(files: Sequence[object]) -> tuple[str, ...]:
    """Return files of an answer that are links; nothing if one is something else."""
    links = tuple(each for each in files if isinstance(each, str) and each.startswith(("https://", "http://")))
    fit = len(links) == len(files) and _bytes(links) <= MAX_LINK_BYTES
    return links if fit else ()


def _bytes(value: object) -> int:
    """Return the size of a value in a checkpoint: JSON in ASCII."""
    return len(json.dumps(value))


def text_of(status: Any) -> str:
    """Return a status as TOML would say it: ``true``, ``3``, ``done``."""
    return str(status).lower() if isinstance(status, bool) else str(status)


def work_of(body: Any, keep: Mapping[str, str], needed: Collection[str]) -> Values:
    """Return what an answer calls the work, or the picture that was uploaded.

    A name without a value is left out, unless it is ``needed`` by a later request: then
    ProcessorError is raised, as for names that are too long together.
    """
    found = {name: first(body, path) for name, path in keep.items()}
    work = {name: value for name, value in found.items() if _is_name(value)}
    if lacking := sorted(set(needed) - set(work)):
        _log.warning("The upstream gave no usable %s", lacking[0])
        raise ProcessorError("processor_error")
    if _bytes(work) > MAX_WORK_BYTES:
        raise ProcessorError("processor_error")
    return work


def _is_name(value: object) -> bool:
    return isinstance(value, str | int) and _bytes(value) <= MAX_VALUE_BYTES


def failure(rules: Sequence[Rule], status: int, body: Any, headers: Mapping[str, str]) -> Rejected:
    """Return the error of an answer, or of work that failed (``status`` is then 200).

    By the first rule that fits, else by the status.
    """
    for rule in rules:
        if _fits(rule, status, body):
            wait = rule.retry_after
            if wait is None and rule.code == "backend_busy" and not rule.requeue:
                wait = retry_after(headers) or BUSY_SECONDS
            return Rejected(status, rule.code, retryable=rule.retryable, requeue=rule.requeue, retry_after=wait)
    return Rejected(status, "processor_error") if status < 300 else failure_of(status, headers)


def _fits(rule: Rule, status: int, body: Any) -> bool:
    if rule.status and status not in rule.status:
        return False
    if not rule.at:
        return bool(rule.status)
    texts = [text_of(each) for each in find(body, rule.at)]
    if not rule.equals and not rule.contains:
        return bool(texts)
    lower = [each.lower() for each in texts]
    return any(each in texts for each in rule.equals) or any(
        part.lower() in text for part in rule.contains for text in lower
    )
