"""What upstreams answer, and the failures that their statuses stand for."""

from __future__ import annotations

import email.utils
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tryon.processor import ProcessorError

BUSY_SECONDS: Final = 5.0
"""Wait for a busy upstream that does not say how long it will be."""
AWAY_SECONDS: Final = 5.0
"""Wait for an upstream that has the work and cannot be reached, or fails."""
MAX_WAIT_SECONDS: Final = 3600.0
"""Longest wait that is taken from an upstream's word."""
MAX_DIGITS: Final = 300
"""Of a whole number in JSON: a float holds any that is not longer."""

_AUTH: Final = frozenset((401, 403))
_QUOTA: Final = 402
_BUSY: Final = frozenset((409, 429, 503))
_TRANSIENT: Final = frozenset((408, 425))

_log = logging.getLogger("tryon.upstream")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of an upstream."""

    status: int
    headers: Mapping[str, str]
    """Their names are found in any case."""
    body: bytes = field(repr=False)

    @property
    def ok(self) -> bool:
        """Return whether the status says success."""
        return 200 <= self.status < 300

    def checked(self) -> Answer:
        """Return this answer. Raises :class:`Rejected` unless it is a success."""
        if not self.ok:
            _log.warning("The upstream answered %d", self.status)
            raise failure_of(self.status, self.headers)
        return self

    def json(self) -> Any:
        """Return the body's JSON value. Raises ProcessorError: it is none."""
        return read_json(self.body)


class Rejected(ProcessorError):
    """An answer that is no success; ``status`` is the upstream's."""

    def __init__(
        self,
        status: int,
        code: str,
        *,
        retryable: bool | None = None,
        requeue: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, retryable=retryable, requeue=requeue, retry_after=retry_after)
        self.status = status


def failure_of(status: int, headers: Mapping[str, str]) -> Rejected:
    """Return the error that a status stands for."""
    if status in _AUTH:
        return Rejected(status, "backend_auth", retryable=False)
    if status == _QUOTA:
        return Rejected(status, "quota_exceeded", retryable=False)
    if status in _BUSY:
        seconds = retry_after(headers)
        return Rejected(status, "backend_busy", retry_after=BUSY_SECONDS if seconds is None else seconds)
    if status >= 500 or status in _TRANSIENT:
        return Rejected(status, "backend_unreachable", requeue=True)
    return Rejected(status, "processor_error")


def waited_for(error: ProcessorError) -> ProcessorError:
    """Return the error of a call about work that was begun upstream, and paid for.

    After a requeue the work would be forgotten. So the worker waits, and resumes it.
    """
    return ProcessorError(error.code, retry_after=AWAY_SECONDS) if error.requeue else error


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Return the seconds of a ``Retry-After`` (RFC 9110, section 10.2.3).

    From 1 to :data:`MAX_WAIT_SECONDS`; None: there is none, or a malformed one. ``now``
    is in Unix seconds.
    """
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now)
        except (ValueError, TypeError, OverflowError):
            return None
    return min(MAX_WAIT_SECONDS, max(1.0, seconds)) if math.isfinite(seconds) else None


def malformed(what: str) -> ProcessorError:
    """Return the error of an upstream that broke the protocol, and log it."""
    _log.warning("The upstream sent %s", what)
    return ProcessorError("processor_error")


def read_json(text: bytes | str) -> Any:
    """Return a JSON value. Raises ProcessorError: it is none."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_float, parse_int=_int)
    except (ValueError, RecursionError):
        raise malformed("what is no JSON") from None


def _float(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError("a number beyond all floats")
    return number


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:  # no caller need be ready for an OverflowError
        raise ValueError("a number beyond all floats")
    return int(text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
