"""Heads of requests: the ones that are taken, and the ambiguous ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.web.serving.heads import MAX_HEAD_BYTES, Head, HeadParser, HeadTooLarge
from testkit.raw_http import LIVE, heard
from testkit.running import Web
from tryon.protocol.errors import BadRequest

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


def parsed(data: bytes) -> tuple[Head, bytes]:
    found = HeadParser().feed(data)
    assert found is not None
    return found


AMBIGUOUS = [
    b"GET / HTTP/1.1\r\n\r\n",
    GET + b"Host: x\r\n\r\n",
    GET + b"host: y\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n",
    POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
    POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    POST + b"Content-Length: 5, 5\r\n\r\n",
    POST + b"Content-Length: +5\r\n\r\n",
    POST + b"Content-Length: -5\r\n\r\n",
    POST + b"Content-Length: 0x5\r\n\r\n",
    POST + b"Content-Length: 5 5\r\n\r\n",
    POST + b"Content-Length: \xb2\r\n\r\n",
    POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    POST + b"Content-Length: 9999999999999999999\r\n\r\n",
    POST + b"Content-Length:\r\n\r\n",
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
    POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
    POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
    POST + b"Transfer-Encoding: xchunked\r\n\r\n",
    POST + b"Transfer-Encoding: identity\r\n\r\n",
    POST + b'Transfer-Encoding: "chunked"\r\n\r\n',
    POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n",
    POST + b"Transfer-Encoding:\r\n\r\n",
    POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n",
    POST + b"Transfer-Encoding : chunked\r\n\r\n",
    POST + b" Transfer-Encoding: chunked\r\n\r\n",
    POST + b"Transfer-Encoding\t: chunked\r\n\r\n",
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    GET + b"A: b\r\n c\r\n\r\n",
    GET + b"A: b\r\n\tc\r\n\r\n",
    GET + b"A: b\x00c\r\n\r\n",
    GET + b"A: b\x01c\r\n\r\n",
    GET + b"A: b\x7fc\r\n\r\n",
    GET + b"A: b\rc\r\n\r\n",
    GET + b"A: b\nB: c\r\n\r\n",
    GET + b"A\x00: b\r\n\r\n",
    GET + b"A\xe9: b\r\n\r\n",
    GET + b"A B: c\r\n\r\n",
    GET + b": b\r\n\r\n",
    GET + b"no colon\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n\r\n\r\n",
    b"GET / HTTP/1.1\r Host: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /  HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
    b" GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET\t/\tHTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\r\nHost: x\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / HTTP/0.9\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.10\r\nHost: x\r\n\r\n",
    b"GET / http/1.1\r\nHost: x\r\n\r\n",
    b"GET / RTSP/1.0\r\nHost: x\r\n\r\n",
    b"SOURCE / ICE/1.0\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http:///p HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://u:p@x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http:x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /#f HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /?q#f HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\x7f HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"\x00\r\n\r\n",
]


@pytest.mark.parametrize("data", AMBIGUOUS)
def test_ambiguous_head_is_refused(data: bytes) -> None:
    """Two parties that read such a head would see different requests in it."""
    with pytest.raises(BadRequest) as refused:
        assert HeadParser().feed(data)
    assert refused.value.status == 400


async def test_ambiguous_head_is_answered_once(web: Web) -> None:
    """Each is one 400, and what follows it is not taken for a request."""
    for data in AMBIGUOUS:
        answer = await heard(web, data + LIVE)
        assert answer.startswith(b"HTTP/1.1 400 "), data
        assert answer.lower().count(b"\r\nx-request-id: ") == 1, data
        assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("data", [data for data in AMBIGUOUS if data.endswith(b"\r\n\r\n")][:20])
def test_head_in_crumbs_is_judged_alike(data: bytes) -> None:
    """A head that comes byte by byte means the same."""
    parser = HeadParser()

    def feed() -> None:
        for at in range(len(data)):
            parser.feed(data[at : at + 1])

    with pytest.raises(BadRequest):
        feed()


@given(st.lists(st.integers(1, 40), max_size=20))
def test_head_is_parsed_in_any_pieces(sizes: list[int]) -> None:
    """The cut between two reads means nothing, and what follows is left alone."""
    data = b"\r\n" + POST + b"Content-Length: 5\r\nX: \xc3\xa9 \t\r\n\r\n12345" + GET
    parser, at = HeadParser(), 0
    found = None
    for size in [*sizes, len(data)]:
        found = parser.feed(data[at : at + size])
        at += size
        if found is not None:
            break
    assert found is not None
    head, rest = found
    assert rest + data[at:] == b"12345" + GET
    assert head.headers == [(b"host", b"x"), (b"content-length", b"5"), (b"x", b"\xc3\xa9")]
    assert (head.method, head.path, head.version, head.length) == ("POST", b"/", "1.1", 5)


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        (b"/", b"/", b"", b"x"),
        (b"/a%20b?c=d?e", b"/a%20b", b"c=d?e", b"x"),
        (b"//a/b", b"//a/b", b"", b"x"),
        (b"*", b"*", b"", b"x"),
        (b"http://shop.example/a?b", b"/a", b"b", b"shop.example"),
        (b"HTTPS://shop.example:8443", b"/", b"", b"shop.example:8443"),
        (b"http://[::1]:80?b", b"/", b"b", b"[::1]:80"),
    ],
)
def test_target_has_its_parts(target: bytes, path: bytes, query: bytes, host: bytes) -> None:
    """The authority of an absolute target replaces Host (RFC 9112 section 3.2.2)."""
    head, _ = parsed(b"OPTIONS %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
    assert (head.path, head.query, dict(head.headers)[b"host"]) == (path, query, host)


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Close", False),
        (b"1.1", b"foo, close", False),
        (b"1.0", b"", False),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"keep-alive, close", False),
    ],
)
def test_connection_is_kept_as_its_version_says(version: bytes, connection: bytes, kept: bool) -> None:
    """HTTP/1.0 keeps a connection only when asked (RFC 9112 section 9.3)."""
    assert parsed(b"GET / HTTP/%b\r\nHost: x\r\nConnection: %b\r\n\r\n" % (version, connection))[0].keep_alive is kept


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES, MAX_HEAD_BYTES + 1])
@pytest.mark.parametrize("piece", [1000, 2**20])
def test_head_has_its_limit_to_the_byte(size: int, piece: int) -> None:
    """The limit counts the whole head, in however many reads it comes."""
    start, end = GET + b"X: ", b"\r\n\r\n"
    data = start + b"x" * (size - len(start) - len(end)) + end
    parser = HeadParser()

    def feed() -> object:
        return [parser.feed(data[at : at + piece]) for at in range(0, len(data), piece)][-1]

    if size > MAX_HEAD_BYTES:
        with pytest.raises(HeadTooLarge):
            feed()
    else:
        assert feed()


def test_empty_lines_count_for_the_limit() -> None:
    """Line ends before a request are ignored, and not for ever."""
    parser = HeadParser()
    assert parser.feed(b"\r\n" * (MAX_HEAD_BYTES // 2)) is None
    with pytest.raises(HeadTooLarge):
        parser.feed(GET + b"\r\n")
