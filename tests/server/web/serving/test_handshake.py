"""Valid and invalid WebSocket handshakes (RFC 6455 section 4.2.1)."""

from __future__ import annotations

import pytest

from server.web.serving.handshake import accept_of
from server.web.serving.heads import HeadParser
from tryon.protocol.errors import BadRequest

GOOD = [
    (b"host", b"shop.example"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"sec-websocket-version", b"13"),
]
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # the example of RFC 6455 section 1.3


def changed(name: bytes, *values: bytes) -> list[tuple[bytes, bytes]]:
    """Return the good fields with other values for one name."""
    return [field for field in GOOD if field[0] != name] + [(name, value) for value in values]


def accepted(fields: list[tuple[bytes, bytes]]) -> bytes:
    """Return the answer to a handshake with these fields; raise BadRequest."""
    lines = [b"%b: %b\r\n" % field for field in fields]
    found = HeadParser().feed(b"GET / HTTP/1.1\r\n" + b"".join(lines) + b"\r\n")
    assert found is not None
    if not found[0].websocket:
        raise BadRequest("bad_request", "No WebSocket is asked for.")
    return accept_of(found[0])


@pytest.mark.parametrize(
    "fields",
    [
        GOOD,
        changed(b"connection", b"keep-alive, Upgrade"),
        changed(b"connection", b"keep-alive", b"upgrade"),
        changed(b"upgrade", b"WebSocket"),
        changed(b"upgrade", b"h2c, websocket"),
        changed(b"sec-websocket-key", b"  dGhlIHNhbXBsZSBub25jZQ== "),
        changed(b"sec-websocket-version", b" 13"),
    ],
)
def test_valid_handshake_gets_accept_key(fields: list[tuple[bytes, bytes]]) -> None:
    """Case, white space and several tokens in a field do not matter."""
    assert accepted(fields) == ACCEPT


@pytest.mark.parametrize(
    "fields",
    [
        changed(b"host"),
        changed(b"upgrade"),
        changed(b"upgrade", b"websockets"),
        changed(b"connection", b"keep-alive"),
        changed(b"sec-websocket-key"),
        changed(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25jZQ=="),
        changed(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZ"),
        changed(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25j"),
        changed(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub2*jZQ=="),
        changed(b"sec-websocket-version", b"8"),
        changed(b"sec-websocket-version", b"13", b"13"),
    ],
)
def test_invalid_handshake_gets_no_key(fields: list[tuple[bytes, bytes]]) -> None:
    """A missing, repeated or malformed field is enough."""
    with pytest.raises(BadRequest):
        accepted(fields)
