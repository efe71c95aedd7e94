"""JSON that a client sent: its depth is bounded before anything decodes it.

A decoder descends into every list and object, also into those of a field that it
ignores. About a thousand of them exhaust the interpreter's stack, which is a
RecursionError and not an error of the decoder.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")


class BadJson(ValueError):
    """The text is no JSON of the wanted type."""


class TooDeep(BadJson):
    """The text is nested more deeply than allowed."""


_TOKENS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)
"""A string, which may lack its end; or one bracket."""


def decode_json(data: str | bytes, kind: type[T], *, max_depth: int) -> T:
    """Return the value of a JSON text (RFC 8259) as ``kind``.

    Raises TooDeep if lists and objects are nested more than ``max_depth`` deep, and
    BadJson for everything else that is wrong with the text.
    """
    if isinstance(data, str):
        data = data.encode(errors="replace")
    if depth_exceeds(data, max_depth):
        raise TooDeep
    try:
        value = msgspec.json.decode(data, type=kind)
        data.decode()  # msgspec checks UTF-8 only where it builds a str
    except ValueError as error:  # DecodeError, ValidationError and UnicodeDecodeError are ValueErrors
        raise BadJson from error
    return value


def depth_exceeds(data: str | bytes, most: int) -> bool:
    """Return whether brackets are nested more than ``most`` deep, in linear time.

    A decoder that has read valid JSON so far is never deeper than this has counted.
    """
    if isinstance(data, str):
        data = data.encode(errors="replace")
    if data.count(b"[") + data.count(b"{") <= most:  # nearly every text
        return False
    depth = 0
    for token in _TOKENS.finditer(data):
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            if depth > most:
                return True
        elif first in b"]}":
            depth -= 1
    return False
