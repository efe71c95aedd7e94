"""The `params` part: a small, strict JSON object."""

from __future__ import annotations

import json

import pytest

from tests.server.web.api.forms import JPEG, Post, form, part


@pytest.mark.parametrize(
    "params",
    [
        b"[]",
        b"1",
        b"null",
        b'"x"',
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1}{}',
        b'{"a": "\xff"}',
        b'{"\xff": 1}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\\ud800"}',
        b'{"a": "\\u0000"}',
        b'{"a\\u0000": 1}',
        b'{"a": 9223372036854775808}',
        b'{"a": ' + b"9" * 4000 + b"}",
        b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"a": ' + b"[" * 16 + b"]" * 16 + b"}",
        b'{"a": "' + b"x" * 4088 + b'"}',
    ],
)
async def test_params_refuse_anything_but_json_object(post: Post, params: bytes) -> None:
    """Other types, loose JSON, NUL, large numbers, depth and size get bad_params."""
    answer = await post(form(part("image", JPEG), part("params", params)))
    assert answer == {"status": 422, "code": "bad_params", "part": "params"}


async def test_params_accept_values_at_limits(post: Post) -> None:
    """4096 bytes, 16 levels, 64-bit integers and UTF-8 are fine."""
    value = {"a": "x" * (4096 - 9), "b": {}}
    text = json.dumps({"a": "x" * (4096 - 9)}).encode()
    assert len(text) == 4096
    assert (await post(form(part("image", JPEG), part("params", text))))["params"] == {"a": value["a"]}
    for text in (
        b'{"a": ' + b"[" * 15 + b"]" * 15 + b"}",
        b'{"a": [9223372036854775807, -1.5, true, null, "\xc3\xa4"]}',
    ):
        assert (await post(form(part("image", JPEG), part("params", text))))["params"] == json.loads(text)
