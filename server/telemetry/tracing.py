"""Traces (W3C Trace Context): the one that this task belongs to, and its spans.

A trace begins with a request, or with its ``traceparent`` header. It is stored with the
session, so that the worker's span follows it through any queue, and goes on to upstream
servers and, where asked for, into pushed frames. Without an exporter
(:mod:`server.telemetry.otel`) nothing is recorded, but a client's trace is passed on.

Spans hold no personal data: ids of sessions, names of routes and processors, states
and error codes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Final, Literal, Protocol

Attributes = Mapping[str, str | int]
Kind = Literal["server", "consumer"]

_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?", re.ASCII
)
"""W3C Trace Context, section 3.2.2; a newer version may have more fields."""

_current: Final[ContextVar[str | None]] = ContextVar("traceparent", default=None)


class Span(Protocol):
    """A span that is under way."""

    @property
    def traceparent(self) -> str:
        """The context that children of the span carry on."""
        ...

    def set(self, attributes: Attributes, *, name: str | None = None, failed: bool = False) -> None:
        """Add attributes; rename the span; mark it as failed."""
        ...

    def end(self) -> None:
        """End the span. It is exported later, in a thread of its own."""
        ...


class Tracer(Protocol):
    """A recorder of spans."""

    def start(self, name: str, kind: Kind, parent: str | None, attributes: Attributes) -> Span:
        """Begin a span; ``parent``: a traceparent, or None for a new trace."""
        ...


_tracer: Tracer | None = None
_frames = False
_span: Final[ContextVar[Span | None]] = ContextVar("span", default=None)


def enable(tracer: Tracer | None, *, frames: bool) -> None:
    """Record spans from now on; ``frames``: whether pushed frames carry their trace."""
    global _tracer, _frames
    _tracer, _frames = tracer, frames


def parsed(text: str | None) -> str | None:
    """Return a ``traceparent`` that may be passed on, or None if it is malformed.

    Only version 00 is passed on: fields of a newer one mean nothing to this server.
    """
    match = _TRACEPARENT.fullmatch(text or "")
    if match is None or (match[1] == "00" and match[5]):
        return None
    return f"00-{match[2]}-{match[3]}-{match[4]}"


def current() -> str | None:
    """Return the ``traceparent`` for a call that this task makes, or None."""
    return _current.get()


def shown(stored: str | None) -> str | None:
    """Return the trace that an event's frame carries, or None where none does.

    ``stored``: the trace of its session, for an event that no span of its own causes.
    """
    return (_current.get() or stored) if _frames else None


@contextlib.contextmanager
def span(name: str, kind: Kind, parent: str | None, attributes: Attributes) -> Iterator[None]:
    """Run the block in a span that follows ``parent``, and in its trace.

    An exception marks the span as failed by its type alone: its text may hold anything.
    """
    if _tracer is None:
        token = _current.set(parent)
        try:
            yield
        finally:
            _current.reset(token)
        return
    begun = _tracer.start(name, kind, parent, attributes)
    tokens = _current.set(begun.traceparent), _span.set(begun)
    try:
        yield
    except Exception as error:
        begun.set({"error.type": type(error).__name__}, failed=True)
        raise
    finally:
        _current.reset(tokens[0])
        _span.reset(tokens[1])
        begun.end()


def note(attributes: Attributes, *, name: str | None = None, failed: bool = False) -> None:
    """Add attributes to the span of this task, if there is one."""
    if (begun := _span.get()) is not None:
        begun.set(attributes, name=name, failed=failed)
