"""Bytes behind a WebSocket handshake, and what must come back: RFC 6455.

``answer`` is the close code, or ``ALIVE`` if the connection must go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ALIVE: Final = -1
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY: Final = b"\x11\x80\xff\x01"


@dataclass(frozen=True)
class Case:
    """Bytes to send over an open socket, and the close code that must come back."""

    name: str
    data: bytes
    answer: int


def frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, reserved: int = 0, length: bytes | None = None
) -> bytes:
    """Return a client's frame; ``length`` overrides the shortest form."""
    size = len(payload)
    if length is None:
        length = (
            bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 65536 else b"\x7f" + size.to_bytes(8)
        )
    head = bytes((opcode | reserved | (0x80 if final else 0), 0x80 | length[0])) + length[1:]
    return head + KEY + bytes(byte ^ KEY[at % 4] for at, byte in enumerate(payload))


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2) + reason)


ALLOWED_CODES: Final = (1000, 1001, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 4000, 4999)
FORBIDDEN_CODES: Final = (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
WRONG_UTF8: Final = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"ok\x80ok")

FRAMES: Final = (
    *(Case(f"reserved bit {bit:#x}", frame(TEXT, b"x", reserved=bit), 1002) for bit in (0x40, 0x20, 0x10)),
    *(Case(f"opcode {opcode:#x}", frame(opcode, b"x"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    Case("no mask", b"\x81\x01x", 1002),
    Case("no mask, empty", b"\x81\x00", 1002),
    Case("no mask, ping", b"\x89\x00", 1002),
    Case("125 in two bytes", frame(TEXT, b"x" * 125, length=b"\x7e\x00\x7d"), 1002),
    Case("0 in two bytes", frame(TEXT, b"", length=b"\x7e\x00\x00"), 1002),
    Case("125 in eight bytes", frame(TEXT, b"x" * 125, length=b"\x7f" + (125).to_bytes(8)), 1009),
    Case("highest bit of the length", frame(TEXT, b"x", length=b"\x7f\xff" + bytes(7)), 1009),
    Case("4 GiB announced", frame(TEXT, b"x", length=b"\x7f" + (2**32).to_bytes(8)), 1009),
    Case("4,097 bytes", frame(TEXT, b"x" * 4097), 1009),
    Case("4,096 bytes", frame(BINARY, b"x" * 4096), ALIVE),
    Case("4,097 bytes in two", frame(TEXT, b"x" * 4000, final=False) + frame(0, b"x" * 97), 1009),
    Case("continuation of nothing", frame(0, b"x"), 1002),
    Case("unfinished continuation of nothing", frame(0, b"x", final=False), 1002),
    Case("a text inside a text", frame(TEXT, b"x", final=False) + frame(TEXT, b"x"), 1002),
    Case("a binary inside a text", frame(TEXT, b"x", final=False) + frame(BINARY, b"x"), 1002),
    Case("continuation after the end", frame(TEXT, b"x", final=False) + frame(0) + frame(0), 1002),
    Case("fragments", frame(TEXT, b"a", final=False) + frame(0, b"b", final=False) + frame(0, b"c"), ALIVE),
    Case("ping between fragments", frame(TEXT, b"a", final=False) + frame(PING) + frame(0, b"c"), ALIVE),
    *(Case(f"fragmented control {opcode:#x}", frame(opcode, final=False), 1002) for opcode in (CLOSE, PING, PONG)),
    *(
        Case(f"long control {opcode:#x}", frame(opcode, b"\x03\xe8" + b"x" * 124), 1002)
        for opcode in (CLOSE, PING, PONG)
    ),
    Case("ping of 125 bytes", frame(PING, b"x" * 125), ALIVE),
    Case("pong that was not asked for", frame(PONG, b"x"), ALIVE),
    Case("empty text", frame(TEXT), ALIVE),
    Case("empty binary", frame(BINARY), ALIVE),
    Case("no JSON", frame(TEXT, b"hello"), ALIVE),
    Case("JSON of another kind", frame(TEXT, b"[1,2,3]"), ALIVE),
    Case("type of another kind", frame(TEXT, b'{"type":{"type":1}}'), ALIVE),
    Case("number of 4,000 digits", frame(TEXT, b'{"type":"sync","since":' + b"9" * 4000 + b"}"), ALIVE),
    Case("nested lists", frame(TEXT, b"[" * 4000), ALIVE),
    Case("nested objects", frame(TEXT, b'{"a":' * 800), ALIVE),
    Case("unpaired surrogate", frame(TEXT, b'{"type":"\\ud800"}'), ALIVE),
    *(Case(f"text {text!r}", frame(TEXT, text), 1007) for text in WRONG_UTF8),
    *(Case(f"reason {text!r}", closing(1000, text), 1007) for text in WRONG_UTF8),
    Case("bad UTF-8 over two fragments", frame(TEXT, b"\xe2", final=False) + frame(0, b"x"), 1007),
    Case("a character over two fragments", frame(TEXT, b"\xe2", final=False) + frame(0, b"\x82\xac"), ALIVE),
    Case("close without a code", frame(CLOSE), 1000),
    Case("close with half a code", frame(CLOSE, b"\x03"), 1002),
    *(
        Case(f"close code {code}", closing(code, b"bye"), code)
        for code in (1000, 1001, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 4000, 4999)
    ),
    *(
        Case(f"forbidden close code {code}", closing(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    ),
    Case("frames after a close", closing(1000) + frame(TEXT, b"x") * 50, 1000),
    Case("101 messages", frame(TEXT, b"{}") * 101, 4500),
    Case("101 pings", frame(PING) * 101, 4500),
    Case("101 fragments", frame(TEXT, b"x", final=False) + frame(0, b"", final=False) * 100, 4500),
    Case("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1002),
)
