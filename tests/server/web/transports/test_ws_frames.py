"""The parser of WebSocket frames: strict, and the same in any pieces."""

from __future__ import annotations

import contextlib
import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from server.web.transports.ws_frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MAX_FRAMES,
    MAX_MESSAGE_BYTES,
    PING,
    PONG,
    TEXT,
    FrameError,
    Inbound,
    assemble,
    check_close,
    check_text,
    close_frame,
    parse_frames,
    pong_frame,
    text_frame,
)

KEY = b"\x01\x80\xff\x00"


def masked(opcode: int, payload: bytes = b"", *, final: bool = True, key: bytes = KEY) -> bytes:
    """Return a client's frame, lengths in their shortest form."""
    length = len(payload)
    if length < 126:
        size = bytes((0x80 | length,))
    elif length < 65536:
        size = bytes((0x80 | 126,)) + length.to_bytes(2, "big")
    else:
        size = bytes((0x80 | 127,)) + length.to_bytes(8, "big")
    body = bytes(byte ^ key[n % 4] for n, byte in enumerate(payload))
    return bytes((opcode | (0x80 if final else 0),)) + size + key + body


def parse_all(pieces: list[bytes]) -> list[Inbound]:
    """Parse pieces as a connection does: the rest stands before the next piece."""
    frames, rest = [], b""
    for piece in pieces:
        rest += piece
        more = None
        while more is None or len(more) == MAX_FRAMES:
            more, rest = parse_frames(rest)
            frames += more
    assert rest == b""
    return frames


STORY = [
    (TEXT, b'{"type":"ping"}', True),
    (PING, b"", True),
    (BINARY, b"\x00" * 125, False),
    (PONG, b"p" * 125, True),
    (CONTINUATION, b"x" * 126, False),
    (CONTINUATION, b"", True),
    (TEXT, "ü€😀".encode() * 300, True),
    (CLOSE, b"\x03\xe8bye", True),
]


def test_frames_parse_alike_at_every_split() -> None:
    """One conversation, cut at every byte."""
    data = b"".join(masked(opcode, payload, final=final) for opcode, payload, final in STORY)
    expected = [Inbound(opcode, final, payload) for opcode, payload, final in STORY]
    for at in range(len(data) + 1):
        assert parse_all([data[:at], data[at:]]) == expected, at
    assert parse_all([data[n : n + 1] for n in range(len(data))]) == expected


FRAMES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from((CONTINUATION, TEXT, BINARY)), st.binary(max_size=300), st.booleans()),
        st.tuples(st.sampled_from((TEXT, BINARY)), st.integers(120, MAX_MESSAGE_BYTES).map(os.urandom), st.booleans()),
        st.tuples(st.sampled_from((CLOSE, PING, PONG)), st.binary(max_size=125), st.just(True)),
    ),
    max_size=12,
)


@given(FRAMES, st.binary(min_size=4, max_size=4), st.lists(st.integers(0, 5000), max_size=8))
def test_any_frames_parse_in_any_pieces(frames: list[tuple[int, bytes, bool]], key: bytes, cuts: list[int]) -> None:
    """Any frames, cut anywhere."""
    data = b"".join(masked(opcode, payload, final=final, key=key) for opcode, payload, final in frames)
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert parse_all(pieces) == [Inbound(opcode, final, payload) for opcode, payload, final in frames]


@given(st.binary(max_size=600))
def test_any_bytes_raise_only_frame_errors(data: bytes) -> None:
    """Whatever a client sends is parsed or a FrameError."""
    with contextlib.suppress(FrameError):
        frames, rest = parse_frames(data)
        assert len(frames) <= MAX_FRAMES
        assert data.endswith(rest)


@given(st.binary(max_size=600), st.integers(0, 600))
def test_errors_do_not_depend_on_pieces(data: bytes, at: int) -> None:
    """Wrong bytes are wrong, however they arrive."""

    def verdict(pieces: list[bytes]) -> int | None:
        rest = b""
        try:
            for piece in pieces:
                rest += piece
                _, rest = parse_frames(rest)
        except FrameError as error:
            return error.close_code
        return None

    assert verdict([data]) == verdict([data[:at], data[at:]])


def test_parsing_stops_after_max_frames() -> None:
    """The rest is returned unparsed."""
    data = masked(PING) * (MAX_FRAMES + 5)
    frames, rest = parse_frames(data)
    assert len(frames) == MAX_FRAMES
    assert rest == masked(PING) * 5


@pytest.mark.parametrize(
    ("data", "close_code"),
    [
        *((bytes((0x80 | reserved | TEXT, 0x80)), 1002) for reserved in (0x40, 0x20, 0x10)),
        *((bytes((0x80 | opcode, 0x80)), 1002) for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)),
        (b"\x81\x00", 1002),  # not masked
        (b"\x81\x7e", 1002),
        *((bytes((opcode, 0x80)), 1002) for opcode in (CLOSE, PING, PONG)),  # fragmented
        *((bytes((0x80 | opcode, 0x80 | length)), 1002) for opcode in (CLOSE, PING, PONG) for length in (126, 127)),
        (b"\x81\xfe\x00\x7d", 1002),  # 125 in two bytes
        (b"\x81\xfe\x10\x01", 1009),  # 4097
        (b"\x81\xfe\xff\xff", 1009),
        (b"\x81\xff", 1009),  # in eight bytes; whatever they are
    ],
)
def test_wrong_header_is_refused_at_once(data: bytes, close_code: int) -> None:
    """The payload is not awaited."""
    with pytest.raises(FrameError) as error:
        parse_frames(data)
    assert error.value.close_code == close_code


def test_message_of_4_kib_is_parsed() -> None:
    """MAX_MESSAGE_BYTES is allowed."""
    payload = os.urandom(MAX_MESSAGE_BYTES)
    assert parse_frames(masked(BINARY, payload)) == ([Inbound(BINARY, True, payload)], b"")


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1014, 3000, 4000, 4999])
def test_allowed_close_code_is_returned(code: int) -> None:
    """Codes of RFC 6455 section 7.4 that a client may send."""
    assert check_close(code.to_bytes(2, "big") + "später".encode()) == code


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
def test_forbidden_close_code_is_refused(code: int) -> None:
    """Codes that must not be on the wire, or are of no range."""
    with pytest.raises(FrameError) as error:
        check_close(code.to_bytes(2, "big"))
    assert error.value.close_code == 1002


def test_close_frame_without_a_code() -> None:
    """No code is 1005; half a code is an error."""
    assert check_close(b"") == 1005
    with pytest.raises(FrameError) as error:
        check_close(b"\x03")
    assert error.value.close_code == 1002


@pytest.mark.parametrize("text", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"])
def test_invalid_utf_8_is_1007(text: bytes) -> None:
    """In a text message and in the reason of a close frame."""
    for check in (lambda: check_text(text), lambda: check_close(b"\x03\xe8" + text)):
        with pytest.raises(FrameError) as error:
            check()
        assert error.value.close_code == 1007


def test_fragments_are_assembled_to_a_text() -> None:
    """Each part but the last leaves an unfinished message and no text."""
    fragments, text = assemble(None, Inbound(TEXT, False, b"one "))
    assert text == ""
    fragments, text = assemble(fragments, Inbound(CONTINUATION, False, b"two "))
    assert text == ""
    assert assemble(fragments, Inbound(CONTINUATION, True, b"three")) == (None, "one two three")


def test_binary_message_has_no_text() -> None:
    """Clients speak text; a binary message only counts."""
    fragments, _ = assemble(None, Inbound(BINARY, False, b"\xff"))
    assert assemble(fragments, Inbound(CONTINUATION, True, b"\xff")) == (None, "")
    assert assemble(None, Inbound(BINARY, True, b"\xff")) == (None, "")


@pytest.mark.parametrize(
    ("fragments", "frame", "close_code"),
    [
        (None, Inbound(CONTINUATION, True, b""), 1002),
        (b"\x01part", Inbound(TEXT, True, b""), 1002),
        (bytes((TEXT,)) + b"x" * MAX_MESSAGE_BYTES, Inbound(CONTINUATION, True, b"x"), 1009),
        (bytes((TEXT,)) + b"\xc3", Inbound(CONTINUATION, True, b"x"), 1007),
    ],
)
def test_wrong_fragment_is_refused(fragments: bytes | None, frame: Inbound, close_code: int) -> None:
    """A continuation of nothing, a message inside a message, too long, or not UTF-8."""
    with pytest.raises(FrameError) as error:
        assemble(fragments, frame)
    assert error.value.close_code == close_code


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536])
def test_built_frames_equal_another_librarys(length: int) -> None:
    """The same bytes as the websockets library."""
    payload = os.urandom(length)
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)
    if length <= 125:
        assert pong_frame(payload) == Frame(Opcode.PONG, payload).serialize(mask=False)


def test_long_reason_is_cut_between_characters() -> None:
    """The close frame stays within its 125 bytes and valid UTF-8."""
    frame = close_frame(4000, "ü" * 100)
    assert len(frame) <= 2 + 125
    assert frame[4:].decode() == "ü" * 61
