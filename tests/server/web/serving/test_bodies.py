"""Bodies: their content, their end, and limits on everything else in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.web.serving.bodies import MAX_LINE_BYTES, MAX_TRAILER_BYTES, Body, ChunkedBody, SizedBody
from tryon.protocol.errors import BadRequest

CHUNKED = b'5\r\nhello\r\n6 ;a="b"\r\n world\r\n000\r\nX-Trailer: y\r\nZ:\r\n\r\n'


def fed(body: Body, data: bytes, sizes: list[int]) -> tuple[bytes, bytes]:
    """Feed pieces of these sizes, then the rest; return content and the bytes after."""
    content, at = b"", 0
    for size in [*sizes, len(data)]:
        piece, rest = body.feed(data[at : at + size])
        content += piece
        at += size
        if body.done:
            return content, rest + data[at:]
    return content, b""


@given(st.lists(st.integers(1, 12), max_size=30))
def test_chunks_are_put_together_in_any_pieces(sizes: list[int]) -> None:
    """The cut between two reads means nothing; trailers and extensions are dropped."""
    body = ChunkedBody()
    assert fed(body, CHUNKED + b"GET /", sizes) == (b"hello world", b"GET /")
    assert body.done
    assert body.unfinished_line == 0


@given(st.lists(st.integers(1, 12), max_size=30))
def test_sized_body_ends_after_its_length(sizes: list[int]) -> None:
    """What follows is the next request."""
    assert fed(SizedBody(11), b"hello worldGET /", sizes) == (b"hello world", b"GET /")


@given(st.lists(st.binary(min_size=40, max_size=3000), max_size=20), st.integers(1, 5000))
def test_any_content_survives_chunks(chunks: list[bytes], size: int) -> None:
    """Content that looks like framing is content."""
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert fed(ChunkedBody(), data + b"!", [size] * (len(data) // size + 1)) == (b"".join(chunks), b"!")


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\nhello\n",
        b"5\r\nhelloo\r\n",
        b"5\r\nhello0\r\n",
        b"5\rhello",
        b"5;a\x00b\r\nhello\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"5,5\r\nhello\r\n",
        b"5_0\r\nhello\r\n",
        b"\xb2\r\nhello\r\n",
        b"1000000000000000\r\n",
        b"FFFFFFFFFFFFFFFFFF5\r\nhello\r\n",
        b"0\r\nX\r\n",
        b"0\r\nX: a\x00\r\n\r\n",
        b"0\r\nX : a\r\n\r\n",
        b"0\r\n X: a\r\n\r\n",
        b"0\r\nX: a\n\r\n",
        b"0\r\nX: a\rY: b\r\n",
        b"0\r\nGET / HTTP/1.1\r\n",
        b"0\n\n",
    ],
)
@pytest.mark.parametrize("piece", [1, 1000])
def test_malformed_chunks_are_refused(data: bytes, piece: int) -> None:
    """Nothing is guessed: two parties might guess differently."""
    body = ChunkedBody()

    def feed() -> None:
        for at in range(0, len(data), piece):
            body.feed(data[at : at + piece])
        body.feed(b"\r\n" * 3)

    with pytest.raises(BadRequest):
        feed()


@pytest.mark.parametrize(
    ("start", "filler"),
    [
        (b"5;", b"x" * MAX_LINE_BYTES),
        (b"5;", b"x" * MAX_LINE_BYTES + b"\r\n"),
        (b"0" * MAX_LINE_BYTES, b"5\r\n"),
        (b"0\r\nX: ", b"x" * MAX_TRAILER_BYTES),
        (b"0\r\n", b"X: y\r\n" * (MAX_TRAILER_BYTES // 6 + 1)),
        (b"", b"1\r\nx\r\n" * 4000),
        (b"", b"1;%b\r\nx\r\n" % (b"y" * 200) * 100),
    ],
    ids=["extension", "ended extension", "zeros", "trailer", "trailers", "crumbs", "many extensions"],
)
def test_framing_is_bounded(start: bytes, filler: bytes) -> None:
    """Sizes, extensions and trailers cost memory and time like content, so they end."""
    body = ChunkedBody()
    body.feed(start)
    with pytest.raises(BadRequest):
        body.feed(filler)


def test_unfinished_line_has_its_number() -> None:
    """A timer can tell a line that goes on from the next one."""
    body = ChunkedBody()
    numbers = []
    for piece in (b"5", b";a", b"\r\nhel", b"lo\r\n", b"1", b"\r\nx\r\n0\r\n", b"X: y\r\n", b"Z", b": 1\r\n\r\n"):
        body.feed(piece)
        numbers.append(body.unfinished_line)
    first, second, trailers = numbers[0], numbers[4], numbers[5]
    assert numbers == [first, first, 0, 0, second, trailers, trailers, trailers, 0]
    assert len({first, second, trailers, 0}) == 4
