"""Hooks of schemathesis: how a photo looks, and that sessions are private.

Named by `tests/schemathesis.toml` and loaded by schemathesis itself.
"""

from __future__ import annotations

import io
from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from PIL import Image


def _photo(format: str, colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 80), colour).save(stream, format)
    return stream.getvalue()


_PHOTOS = [_photo(format, colour) for format, colour in (("JPEG", "red"), ("PNG", "green"), ("WEBP", "blue"))]

for _media_type in ("image/jpeg", "image/png", "image/webp"):  # judged by its content, so any of them will do
    schemathesis.openapi.media_type(_media_type, st.sampled_from(_PHOTOS))


@schemathesis.check
def a_stranger_finds_nothing(ctx: Any, response: Any, case: Any) -> None:
    """Fail unless a session is hidden without its token, or with another.

    It stands in place of `ignored_auth`, which wants a 401.
    """
    if "{session_id}" not in case.operation.path or not 200 <= response.status_code < 300:
        return
    asked = response.request
    for headers in ({}, {"X-Client-Token": "somebody-else-somebody-else"}):
        url = asked.url.partition("?")[0]  # a ticket may stand in the query
        answer = requests.request(asked.method, url, headers=headers, timeout=10)
        code = answer.json().get("code") if answer.status_code == 404 else None
        if code != "not_found":
            raise AssertionError(
                f"{asked.method} of another's session is {answer.status_code}, not the 404 of no session"
            )
