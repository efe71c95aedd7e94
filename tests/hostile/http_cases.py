"""Requests as bytes, and the statuses that must come back: RFC 9112, 9110 and 3986.

A case's ``answers`` are the statuses in their order; :data:`CLOSED` at the end means
that the server must close the connection. A status given as several is any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CLOSED: Final = 0
Statuses = int | tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """Bytes to send over a new connection, and the answers that must come."""

    name: str
    data: bytes
    answers: tuple[Statuses, ...]


LIVE: Final = b"/api/health/live"
BAD: Final = (400, CLOSED)


def get(target: bytes = LIVE, *lines: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    """Return a GET; its lines have a Host unless they are given."""
    return (
        b"GET "
        + target
        + b" "
        + version
        + b"\r\n"
        + b"".join(line + b"\r\n" for line in lines or (b"Host: x",))
        + b"\r\n"
    )


def post(*lines: bytes, body: bytes = b"", path: bytes = b"/nothing") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def chunked(body: bytes, *lines: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", *lines, body=body)


def target(name: str, text: bytes, *answers: Statuses) -> Case:
    return Case(name, get(text), answers)


def line(name: str, text: bytes, *answers: Statuses) -> Case:
    return Case(name, text + b"\r\nHost: x\r\n\r\n", answers or BAD)


def field(name: str, text: bytes, *answers: Statuses) -> Case:
    return Case(name, get(LIVE, b"Host: x", text), answers or BAD)


def host(name: str, *lines: bytes, answers: tuple[Statuses, ...] = (400,)) -> Case:
    return Case(name, get(LIVE, *lines), answers)


REQUEST_LINES: Final = (
    line("plain", b"GET /api/health/live HTTP/1.1", 200),
    line("method in small letters", b"get /api/health/live HTTP/1.1"),
    line("unknown method", b"FOO /api/health/live HTTP/1.1"),
    line("no method", b"/api/health/live HTTP/1.1"),
    line("method with a colon", b"GET: /api/health/live HTTP/1.1"),
    line("two spaces", b"GET  /api/health/live HTTP/1.1", (200, 400)),
    line("tab for a space", b"GET\t/api/health/live HTTP/1.1"),
    line("space before the method", b" GET /api/health/live HTTP/1.1"),
    line("NUL before the method", b"\0GET /api/health/live HTTP/1.1"),
    line("empty line first", b"\r\nGET /api/health/live HTTP/1.1", 200),
    line("empty lines first", b"\r\n\r\n\r\nGET /api/health/live HTTP/1.1", 200),
    line("no version", b"GET /api/health/live"),
    line("version 0.9", b"GET /api/health/live HTTP/0.9", (400, 505), CLOSED),
    line("version 1.2", b"GET /api/health/live HTTP/1.2"),
    line("version 2.0", b"GET /api/health/live HTTP/2.0", (400, 505), CLOSED),
    line("version 9.9", b"GET /api/health/live HTTP/9.9"),
    line("version 11", b"GET /api/health/live HTTP/11"),
    line("version in small letters", b"GET /api/health/live http/1.1"),
    line("version and more", b"GET /api/health/live HTTP/1.1 x"),
    line("no target", b"GET HTTP/1.1"),
    line("TRACE", b"TRACE /api/health/live HTTP/1.1", 405),
    line("CONNECT", b"CONNECT example.com:443 HTTP/1.1", (400, 404, 405), CLOSED),
    line("OPTIONS of all", b"OPTIONS * HTTP/1.1", (200, 204, 400, 404, 405)),
    line("absolute form", b"GET http://x/api/health/live HTTP/1.1", 200),
    line("absolute form, https", b"GET https://x/api/health/live HTTP/1.1", 200),
    line("authority form", b"GET example.com:443 HTTP/1.1", (400, 404)),
    line("target without slash", b"GET api/health/live HTTP/1.1"),
    Case("HTTP/1.0 is closed", get(version=b"HTTP/1.0"), (200, CLOSED)),
    Case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ((400, 505), CLOSED)),
    Case("TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(32) + b"\r\n\r\n", BAD),
    Case("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", BAD),
    Case("Redis", b"*1\r\n$4\r\nPING\r\n", BAD),
    Case("PROXY protocol", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + get(), BAD),
    Case("PROXY protocol, binary", b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c" + bytes(12) + get(), BAD),
    Case("carriage returns alone", b"GET /api/health/live HTTP/1.1\rHost: x\r\r", BAD),
    Case("line feeds alone", b"GET /api/health/live HTTP/1.1\nHost: x\n\n", ((200, 400),)),
)

TARGETS: Final = (
    target("NUL, encoded", b"/api/health/live%00", 400),
    target("line feed, encoded", b"/api/health/live%0a", 400),
    target("line feed, encoded twice", b"/api/health/live%250a", 404),
    target("carriage return and line feed", b"/api/health/live%0d%0aX:%20y", 400),
    target("escape, encoded", b"/api/health/%1blive", 400),
    target("DEL, encoded", b"/api/health/live%7f", (400, 404)),
    target("NUL, raw", b"/api/health/live\0", *BAD),
    target("space, raw", b"/api/health/live x", *BAD),
    target("high bytes, raw", b"/api/health/l\xc3\xbcve", (400, 404)),
    target("bad UTF-8, encoded", b"/api/health/%ff%fe", (400, 404)),
    target("half an escape", b"/api/health/live%", (400, 404)),
    target("no escape", b"/api/health/live%zz", (400, 404)),
    target("two slashes", b"//api/health/live", (400, 404)),
    target("another host after two slashes", b"//evil.example/%2e%2e", (400, 404)),
    target("backslash", b"/api\\health\\live", 404),
    target("slash at the end", b"/api/health/live/", (200, 404)),
    target("dots", b"/api/health/../health/live", 404),
    target("dots, encoded", b"/static/%2e%2e/%2e%2e/pyproject.toml", 404),
    target("dots and slashes, encoded", b"/static/..%2f..%2fpyproject.toml", 404),
    target("dots with a backslash", b"/static/..\\..\\pyproject.toml", 404),
    target("absolute path of a static file", b"/static//etc/passwd", 404),
    target("dots in a file's key", b"/api/tryon/files/../../../etc/passwd?expires=9&key=x&signature=y", 404),
    target("NUL in a file's key", b"/api/tryon/files/inputs/x%00.jpg?expires=9&key=x&signature=y", (400, 404)),
    target("empty query", LIVE + b"?", 200),
    target("fragment", LIVE + b"#x", (200, 400)),
    target("query of signs", LIVE + b"?&&==&%00&;", 200),
    target("long target", LIVE + b"?" + b"x" * 7_000, 200),
    target("longer target", LIVE + b"?" + b"x" * 50_000, (200, 414)),
    target("too long target", LIVE + b"?" + b"x" * 70_000, (414, 431), CLOSED),
    target("many parameters", LIVE + b"?" + b"a&" * 20_000, (200, 400, 414)),
)

FIELDS: Final = (
    host("no Host", b"X: y"),
    host("two Hosts", b"Host: x", b"Host: y"),
    host("two equal Hosts", b"Host: x", b"Host: x"),
    host("Host with a list", b"Host: x, y"),
    host("Host with a space", b"Host: x y"),
    host("Host with a user", b"Host: user@x"),
    host("Host with a path", b"Host: x/y"),
    host("Host with a port", b"Host: x:8000", answers=(200,)),
    host("Host with an IPv6 address", b"Host: [::1]:8000", answers=(200,)),
    Case("HTTP/1.0 needs no Host", get(LIVE, b"X: y", version=b"HTTP/1.0"), (200, CLOSED)),
    field("space before the colon", b"X-Name : y"),
    field("tab before the colon", b"X-Name\t: y"),
    field("line without a colon", b"X-Name"),
    field("no name", b": y"),
    field("space in a name", b"X Name: y"),
    field("bracket in a name", b"X(Name: y"),
    field("high byte in a name", b"X-N\xe4me: y"),
    field("NUL in a name", b"X-N\0me: y"),
    field("NUL in a value", b"X-Name: a\0b"),
    field("carriage return in a value", b"X-Name: a\rb"),
    field("line feed in a value", b"X-Name: a\nb"),
    field("escape in a value", b"X-Name: a\x1bb", (200, 400)),
    field("DEL in a value", b"X-Name: a\x7fb", (200, 400)),
    field("tab in a value", b"X-Name: a\tb", 200),
    field("high bytes in a value", b"X-Name: \xff\xfe", 200),
    field("empty value", b"X-Name:", 200),
    field("folded line", b"X-Name: a\r\n b"),
    field("first line folded", b" X-Name: a"),
    field("1,000 fields", b"\r\n".join(b"X-%d: y" % n for n in range(1000)), (200, 431)),
    field("12,000 fields", b"\r\n".join(b"X-%d: y" % n for n in range(12_000)), 431, CLOSED),
    field("long value", b"X-Name: " + b"x" * 70_000, 431, CLOSED),
    field("long name", b"x" * 70_000 + b": y", 431, CLOSED),
    field("Expect: 100-continue without a body", b"Expect: 100-continue", 200),
    field("another Expect", b"Expect: 200-ok", (200, 417)),
    field("request id of other characters", b"X-Request-ID: a\tb;<script>", 200),
    field("Range of nonsense", b"Range: bytes=9-1,--,99999999999999999999-", 200),
)

LENGTHS: Final = (
    Case("length", post(b"Content-Length: 5", body=b"12345"), (404,)),
    Case("length 0", post(b"Content-Length: 0"), (404,)),
    Case("leading zeros", post(b"Content-Length: 005", body=b"12345"), ((400, 404),)),
    Case("negative", post(b"Content-Length: -5", body=b"12345"), BAD),
    Case("plus", post(b"Content-Length: +5", body=b"12345"), BAD),
    Case("hexadecimal", post(b"Content-Length: 0x5", body=b"12345"), BAD),
    Case("fraction", post(b"Content-Length: 5.0", body=b"12345"), BAD),
    Case("list of equals", post(b"Content-Length: 5, 5", body=b"12345"), BAD),
    Case("two numbers", post(b"Content-Length: 5 6", body=b"12345"), BAD),
    Case("nothing", post(b"Content-Length: "), BAD),
    Case("letters", post(b"Content-Length: five"), BAD),
    Case("beyond 64 bits", post(b"Content-Length: 18446744073709551616"), BAD),
    Case("100 digits", post(b"Content-Length: " + b"9" * 100), BAD),
    Case("two equal lengths", post(b"Content-Length: 5", b"Content-Length: 5", body=b"12345"), BAD),
    Case("two lengths", post(b"Content-Length: 5", b"Content-Length: 6", body=b"12345"), BAD),
    Case("length and chunks", chunked(b"0\r\n\r\n", b"Content-Length: 5"), BAD),
    Case("chunks and length", post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), BAD),
    Case("body of a GET", get(LIVE, b"Host: x", b"Content-Length: 5") + b"12345" + get(), (200, 200)),
    Case("chunked", chunked(b"5\r\n12345\r\n0\r\n\r\n"), (404,)),
    Case("chunked in capitals", post(b"Transfer-Encoding: CHUNKED", body=b"0\r\n\r\n"), (404,)),
    Case("identity", post(b"Transfer-Encoding: identity", body=b"12345"), BAD),
    Case("chunked, identity", post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"), BAD),
    Case("chunked twice", post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), BAD),
    Case("chunked in two fields", chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked"), BAD),
    Case("xchunked", post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), BAD),
    Case("quoted", post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), BAD),
    Case("with a parameter", post(b"Transfer-Encoding: chunked;a=b", body=b"0\r\n\r\n"), BAD),
    Case("after a vertical tab", post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), BAD),
    Case("empty encoding", post(b"Transfer-Encoding: ", body=b"0\r\n\r\n"), BAD),
    Case("space before its colon", post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), BAD),
    Case("folded encoding", post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"), BAD),
    Case(
        "chunks of HTTP/1.0",
        b"POST /nothing HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ((400, 404), CLOSED),
    ),
    Case(
        "a request smuggled behind a length",
        post(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + get()),
        BAD,
    ),
    Case(
        "a request smuggled behind two encodings",
        chunked(b"0\r\n\r\n" + get(), b"Transfer-Encoding: identity"),
        BAD,
    ),
)

CHUNKS: Final = (
    Case("two chunks", chunked(b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"), (404,)),
    Case("capitals", chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), (404,)),
    Case("zeros before", chunked(b"0005\r\n12345\r\n000\r\n\r\n"), (404,)),
    Case("extension", chunked(b"5;a=b;c\r\n12345\r\n0\r\n\r\n"), (404,)),
    Case("quoted extension", chunked(b'5;a="b;c"\r\n12345\r\n0\r\n\r\n'), (404,)),
    Case("one byte each", chunked(b"1\r\na\r\n" * 1000 + b"0\r\n\r\n"), (404,)),
    Case("no size", chunked(b"\r\n12345\r\n0\r\n\r\n"), ((400, 404), CLOSED)),
    Case("no number", chunked(b"g\r\n12345\r\n0\r\n\r\n"), ((400, 404), CLOSED)),
    Case("negative size", chunked(b"-5\r\n12345\r\n0\r\n\r\n"), ((400, 404), CLOSED)),
    Case("0x", chunked(b"0x5\r\n12345\r\n0\r\n\r\n"), ((400, 404), CLOSED)),
    Case("beyond 64 bits", chunked(b"fffffffffffffffff\r\n12345\r\n0\r\n\r\n"), ((400, 404), CLOSED)),
    Case("space before the size", chunked(b" 5\r\n12345\r\n0\r\n\r\n"), ((400, 404), CLOSED)),
    Case("too long", chunked(b"5\r\n123456\r\n0\r\n\r\n"), ((400, 404), CLOSED)),
    Case("no line end after it", chunked(b"5\r\n12345" + b"0\r\n\r\n"), ((400, 404), CLOSED)),
    Case("line feed alone", chunked(b"5\n12345\r\n0\r\n\r\n"), ((400, 404), CLOSED)),
    Case("carriage return in the extension", chunked(b"5;a\rb\r\n12345\r\n0\r\n\r\n"), ((400, 404), CLOSED)),
    Case("NUL in the extension", chunked(b"5;a\0b\r\n12345\r\n0\r\n\r\n"), ((400, 404), CLOSED)),
    Case("trailer", chunked(b"0\r\nX-Sum: 1\r\n\r\n") + get(), (404, 200)),
    Case("trailer without a colon", chunked(b"0\r\nX-Sum\r\n\r\n"), ((400, 404), CLOSED)),
    Case("NUL in a trailer", chunked(b"0\r\nX: a\0b\r\n\r\n"), ((400, 404), CLOSED)),
    Case("length as trailer", chunked(b"0\r\nContent-Length: 5\r\n\r\n"), ((400, 404),)),
    Case("encoding as trailer", chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), ((400, 404),)),
    Case("Host as trailer", chunked(b"0\r\nHost: evil.example\r\n\r\n") + get(), (404, 200)),
)

PIPELINES: Final = (
    Case("two", get() + get(), (200, 200)),
    Case("ten", get() * 10, (200,) * 10),
    Case("a body between", get() + post(b"Content-Length: 5", body=b"12345") + get(), (200, 404, 200)),
    Case("chunks between", get() + chunked(b"5\r\n12345\r\n0\r\n\r\n") + get(), (200, 404, 200)),
    Case("nonsense behind", get() + b"\x01\x02\x03\r\n\r\n", (200, 400, CLOSED)),
    Case("nonsense before", b"\x01\x02\x03\r\n\r\n" + get(), BAD),
    Case("behind the last", get(LIVE, b"Host: x", b"Connection: close") + get(), (200, CLOSED)),
    Case("behind HTTP/1.0", get(version=b"HTTP/1.0") + get(), (200, CLOSED)),
    Case("HEAD has no body", b"HEAD /api/docs HTTP/1.1\r\nHost: x\r\n\r\n" + get(), (200, 200)),
    Case("more body than its length", post(b"Content-Length: 5", body=b"123456") + get(), (404, 400, CLOSED)),
    Case(
        "an upgrade behind",
        get() + get(b"/x", b"Host: x", b"Connection: Upgrade", b"Upgrade: websocket"),
        (200, (400, 404, 426)),
    ),
)

KEY: Final = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
VERSION: Final = b"Sec-WebSocket-Version: 13"
OFFER: Final = (b"Host: x", b"Connection: Upgrade", b"Upgrade: websocket")


def upgrade(name: str, *lines: bytes, answers: tuple[Statuses, ...], path: bytes = b"/ws") -> Case:
    return Case(name, get(path, *lines), answers)


REFUSED: Final = ((400, 404), CLOSED)
PUSH: Final = b"/api/tryon/sessions/x/ws"


def origin(name: str, *values: bytes, status: Statuses = 403) -> Case:
    """Return a handshake from a page of this origin; all fields else are right."""
    return upgrade(name, *OFFER, VERSION, KEY, *(b"Origin: " + value for value in values), answers=(status,), path=PUSH)


def offer(name: str, *lines: bytes) -> Case:
    """Return a request with an upgrade that is to be ignored (RFC 9110, 7.8)."""
    return upgrade(name, b"Host: x", *lines, answers=(200,), path=LIVE)


UPGRADES: Final = (
    offer("h2c", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
    offer("another protocol", b"Connection: Upgrade", b"Upgrade: foo/2"),
    offer("Upgrade without Connection", b"Upgrade: websocket"),
    offer("Connection without Upgrade", b"Connection: Upgrade"),
    upgrade("unknown path", *OFFER, VERSION, KEY, answers=((403, 404),)),
    upgrade("an HTTP path", *OFFER, VERSION, KEY, answers=((403, 404),), path=LIVE),
    upgrade("no key", *OFFER, VERSION, answers=REFUSED),
    upgrade("short key", *OFFER, VERSION, b"Sec-WebSocket-Key: c2hvcnQ=", answers=REFUSED),
    upgrade("two keys", *OFFER, VERSION, KEY, KEY, answers=REFUSED),
    upgrade("no base64", *OFFER, VERSION, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!!==", answers=REFUSED),
    upgrade("version 8", *OFFER, KEY, b"Sec-WebSocket-Version: 8", answers=(426, CLOSED)),
    upgrade("version 13, 8", *OFFER, KEY, b"Sec-WebSocket-Version: 13, 8", answers=((400, 426), CLOSED)),
    upgrade("no version", *OFFER, KEY, answers=((400, 426), CLOSED)),
    upgrade("no Host", *OFFER[1:], VERSION, KEY, answers=(400, CLOSED)),
    origin("foreign origin", b"https://evil.example"),
    origin("origin that begins like ours", b"http://127.0.0.1:1.evil.example"),
    origin("origin of another scheme", b"ftp://localhost"),
    origin("null origin", b"null"),
    origin("origin with a path", b"http://localhost/path"),
    origin("origin with a user", b"http://localhost@evil.example"),
    origin("two origins", b"http://x", b"http://x", status=(400, 403)),
    Case(
        "POST", b"POST /ws HTTP/1.1\r\n" + b"\r\n".join((*OFFER, VERSION, KEY)) + b"\r\n\r\n", ((400, 404, 405), CLOSED)
    ),
    Case("HTTP/1.0", get(b"/ws", *OFFER, VERSION, KEY, version=b"HTTP/1.0"), REFUSED),
)

HTTP: Final = {
    "request lines": REQUEST_LINES,
    "targets": TARGETS,
    "fields": FIELDS,
    "lengths": LENGTHS,
    "chunks": CHUNKS,
    "pipelines": PIPELINES,
    "upgrades": UPGRADES,
}
"""The cases by what they are about."""
