"""Server-Sent Events are read however the network cuts them into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tryon.client.event_stream import EventStream

STREAM = b'retry: 1500\n\n: a comment\nid: 1\ndata: {"a":\ndata:1}\n\nevent: x\ndata: {"b":2}\r\n\r\ndata: unfinished'


def test_stream_is_read_piece_by_piece() -> None:
    """Join the lines of an event, ignore other fields, keep what is unfinished."""
    events = EventStream()
    assert list(events.feed(STREAM)) == [b'{"a":\n1}', b'{"b":2}']
    assert events.retry_seconds == 1.5
    assert list(events.feed(b"\n")) == []
    assert list(events.feed(b"\n")) == [b"unfinished"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=10))
def test_pieces_change_nothing(cuts: list[int]) -> None:
    """Read the same events wherever the stream is cut."""
    edges = [0, *sorted(cuts), len(STREAM)]
    events, found = EventStream(), []
    for start, end in itertools.pairwise(edges):
        found += list(events.feed(STREAM[start:end]))
    assert found == [b'{"a":\n1}', b'{"b":2}']


def test_malformed_retry_is_an_error() -> None:
    """Refuse a stream that cannot be the server's."""
    with pytest.raises(ValueError, match="invalid literal"):
        list(EventStream().feed(b"retry: soon\n"))
