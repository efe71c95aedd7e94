"""WebSocket only: builds and parses frames as bytes (RFC 6455 section 5).

Pure and small: no extensions, no compression, messages of at most
:data:`MAX_MESSAGE_BYTES` unless the caller sets another bound. What breaks the protocol
raises :class:`FrameError` with the close code to answer with.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tryon.protocol.close_codes import CloseCode

MAX_MESSAGE_BYTES: Final = 4096
"""Maximum message of a client, which has next to nothing to say."""

MAX_FRAMES: Final = 128
"""Maximum frames parsed at once, so that a flood is noticed early."""

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

PING_FRAME: Final = b"\x89\x00"

NO_STATUS: Final = 1005
"""Stands for a close frame without a code (RFC 6455 section 7.4.1)."""

_KNOWN: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_FORBIDDEN_CLOSE_CODES: Final = frozenset({1004, 1005, 1006, 1015})


class FrameError(Exception):
    """A client's breach of the protocol; ``close_code`` is 1002, 1007 or 1009."""

    def __init__(self, close_code: int, reason: str) -> None:
        self.close_code = close_code
        self.reason = reason
        super().__init__(f"{close_code}: {reason}")


class Inbound(NamedTuple):
    """One unmasked frame."""

    opcode: int
    final: bool
    payload: bytes


class _LastFrame:
    payload: bytes = b""
    frame: bytes = b"\x81\x00"


def text_frame(payload: bytes) -> bytes:
    """Return one unmasked text frame.

    The same payload object again, as when one message goes to many clients, costs
    nothing.
    """
    if payload is _LastFrame.payload:
        return _LastFrame.frame
    length = len(payload)
    header = b"\x81\x7e" + length.to_bytes(2, "big") if 126 <= length < 65536 else _header(0x80 | TEXT, length)
    _LastFrame.payload, _LastFrame.frame = payload, header + payload
    return _LastFrame.frame


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return bytes((first, 126)) + length.to_bytes(2, "big")
    return bytes((first, 127)) + length.to_bytes(8, "big")


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame; the reason is cut to fit into its 125 bytes."""
    payload = code.to_bytes(2, "big") + reason.encode()[:123].decode(errors="ignore").encode()
    return _header(0x80 | CLOSE, len(payload)) + payload


def pong_frame(payload: bytes) -> bytes:
    """Return the answer to a ping with this payload."""
    return _header(0x80 | PONG, len(payload)) + payload


def parse_frames(data: bytes, max_bytes: int = MAX_MESSAGE_BYTES) -> tuple[list[Inbound], bytes]:
    """Return the whole frames in ``data`` and the bytes behind them.

    At most :data:`MAX_FRAMES`. Raises :class:`FrameError` as soon as a header shows
    that its frame is wrong, without waiting for the payload.
    """
    frames: list[Inbound] = []
    at, end = 0, len(data)
    while end - at >= 2 and len(frames) < MAX_FRAMES:
        first, second = data[at], data[at + 1]
        opcode, length = first & 0x0F, second & 0x7F
        if first & 0x70 or opcode not in _KNOWN:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "reserved bits or opcode")
        if not second & 0x80:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a client must mask")
        start = at + 2
        if opcode >= CLOSE:
            if length > 125 or not first & 0x80:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "control frame too long or fragmented")
        elif length == 126:
            if end - start < 2:
                break
            length = int.from_bytes(data[start : start + 2], "big")
            start += 2
            if length < 126:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "length not in its shortest form")
        elif length == 127:
            raise FrameError(CloseCode.MESSAGE_TOO_BIG, "message too big")
        if length > max_bytes:
            raise FrameError(CloseCode.MESSAGE_TOO_BIG, "message too big")
        if end - start < 4 + length:
            break
        payload = _unmask(data[start + 4 : start + 4 + length], data[start : start + 4])
        frames.append(Inbound(opcode, bool(first & 0x80), payload))
        at = start + 4 + length
    return frames, data[at:]


def _unmask(payload: bytes, key: bytes) -> bytes:
    """Return the XOR with the repeated key, as one big number: C does the loop."""
    length = len(payload)
    repeated = (key * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(length, "big")


def assemble(fragments: bytes | None, frame: Inbound, max_bytes: int = MAX_MESSAGE_BYTES) -> tuple[bytes | None, str]:
    """Add a data frame to an unfinished message (RFC 6455 section 5.4).

    ``fragments``: the message's opcode and the payload so far, None if there is none.
    Return the new ``fragments``, and the text if a text message is whole now, else "".
    Raises FrameError.
    """
    opcode, final, payload = frame
    if opcode == CONTINUATION:
        if fragments is None:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "nothing to continue")
        if len(fragments) + len(payload) > max_bytes + 1:
            raise FrameError(CloseCode.MESSAGE_TOO_BIG, "message too big")
        opcode, payload = fragments[0], fragments[1:] + payload
    elif fragments is not None:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "a message inside a message")
    if not final:
        return bytes((opcode,)) + payload, ""
    return None, check_text(payload) if opcode == TEXT else ""


def check_close(payload: bytes) -> int:
    """Return the code of a client's close frame, :data:`NO_STATUS` if it has none.

    Raises FrameError (RFC 6455 section 7.4).
    """
    if not payload:
        return NO_STATUS
    code = int.from_bytes(payload[:2], "big")
    allowed = (1000 <= code < 1016 and code not in _FORBIDDEN_CLOSE_CODES) or 3000 <= code < 5000
    if len(payload) == 1 or not allowed:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "bad close code")
    check_text(payload[2:])
    return code


def check_text(payload: bytes) -> str:
    """Return the text; raise FrameError (1007) if it is not UTF-8."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_TEXT, "not UTF-8") from None
