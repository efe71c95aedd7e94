"""``Range`` and ``If-Range`` of a request (RFC 9110 sections 13.1.5 and 14).

Starlette refuses with 400 what has to be ignored, and with 416 a list of which one
range lies beyond the end. Here the ranges are decided; Starlette only sends them.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from server.web.common.fields import fields
from server.web.common.problems import problem
from tryon.protocol.errors import BadRange
from tryon.protocol.numbers import whole_number

MAX_RANGES: Final = 16
"""Maximum ranges of one request; of more, the whole file is sent (section 17.15)."""

_SPEC: Final = re.compile(r"([0-9]*)-([0-9]*)")


def wanted(values: list[str], size: int) -> list[tuple[int, int]] | None:
    """Return the parts of a file that ``Range`` asks for, first and last byte each.

    None stands for the whole file: without the field, with two, with a unit that is not
    ``bytes``, an invalid range, or more ranges than :data:`MAX_RANGES`. Ranges that lie
    beyond the end are left out. Raises BadRange if none is left.
    """
    if len(values) != 1:
        return None
    unit, equals, text = values[0].partition("=")
    if not equals or unit.strip().lower() != "bytes" or text.count(",") >= MAX_RANGES:
        return None
    parts = []
    specs = [spec for each in text.split(",") if (spec := each.strip(" \t"))]
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None or spec == "-":
            return None
        first, last = whole_number(match[1]), whole_number(match[2])
        if first is not None and last is not None and last < first:
            return None
        begin = max(0, size - (last or 0)) if first is None else first
        end = size - 1 if first is None or last is None else min(last, size - 1)
        if begin <= end:
            parts.append((begin, end))
    if not specs:
        return None
    if not parts:
        raise BadRange
    return parts


class RangedFileResponse(FileResponse):
    """A file, or the parts of it that ``Range`` asks for; made with ``stat_result``."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, its parts, or 416."""
        values = fields(scope, b"range") if scope["method"] == "GET" else []
        try:
            parts = wanted(values, int(self.headers["content-length"])) if self._current(scope) else None
        except BadRange as error:
            headers = {"Content-Range": f"bytes */{self.headers['content-length']}"}
            await problem(error, headers)(scope, receive, send)
            return
        rest = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
        if parts is not None:
            rest.append((b"range", b"bytes=" + b",".join([b"%d-%d" % part for part in parts])))
        await super().__call__({**scope, "headers": rest}, receive, send)

    def _current(self, scope: Scope) -> bool:
        """Return whether If-Range names this file as it is; a weak tag names none."""
        known = fields(scope, b"if-range")
        return not known or known == [self.headers["etag"]] or known == [self.headers.get("last-modified")]
