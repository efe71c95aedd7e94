"""W3C Trace Context: what is passed on, and what is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.telemetry import tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.fixture(autouse=True)
def without_tracer() -> Iterator[None]:
    yield
    tracing.enable(None, frames=False)


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        (f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01"),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", f"00-{TRACE}-{SPAN}-01"),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f" 00-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        ("", None),
        (None, None),
    ],
)
def test_traceparent_is_passed_on_or_dropped(text: str | None, passed: str | None) -> None:
    """Version 00 as it is, a newer one without what it adds, anything else not."""
    assert tracing.parsed(text) == passed


def test_trace_is_passed_on_without_a_tracer() -> None:
    """Nothing is recorded here, but the next server may."""
    parent = f"00-{TRACE}-{SPAN}-01"
    assert tracing.current() is None
    with tracing.span("GET", "server", parent, {}):
        assert tracing.current() == parent
        tracing.note({"http.route": "/"})
    assert tracing.current() is None


def test_frames_carry_their_trace_where_asked_for() -> None:
    """The span under way, else the trace that is stored with the session."""
    parent, stored = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
    with tracing.span("GET", "server", parent, {}):
        assert tracing.shown(stored) is None
        tracing.enable(None, frames=True)
        assert tracing.shown(stored) == parent
    assert tracing.shown(stored) == stored
    assert tracing.shown(None) is None
