"""JSON of clients: its depth is bounded before it is decoded."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.client_json import BadJson, TooDeep, decode_json, depth_exceeds

ROOT = Path(__file__).resolve().parents[3]


def depth(value: object) -> int:
    """Return how deep a value is nested, counted on the value itself."""
    if isinstance(value, dict):
        return 1 + max((depth(inner) for inner in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(inner) for inner in value), default=0)
    return 0


NESTED = st.recursive(
    st.none() | st.integers() | st.text('[]{}"\\a', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\a', max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(value=NESTED, most=st.integers(0, 6))
def test_depth_is_that_of_the_value(value: object, most: int) -> None:
    """Brackets inside strings don't count, whatever escapes stand beside them."""
    text = json.dumps(value)
    assert depth_exceeds(text, most) == (depth(value) > most)
    assert depth_exceeds(text.encode(), most) == (depth(value) > most)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1200,
        "[" * 1200 + "]" * 1200,
        '{"a":' * 600 + "1" + "}" * 600,
        '{"type":"ping","x":' + "[" * 1200 + "]" * 1200 + "}",
        "[]" * 20 + "[" * 1200,
        '["a\\\\"' + "[" * 1200,
    ],
)
def test_deep_json_is_refused_before_decoding(text: str) -> None:
    """Neither a list nor an object nor an ignored field reaches the decoder."""
    with pytest.raises(TooDeep):
        decode_json(text, Any, max_depth=16)


@pytest.mark.parametrize("text", ["", "{", '"', '"\\', "1 2", "nul", "{'a': 1}", '["a\\"]', b"\xff", b'{"\xff": 1}'])
def test_malformed_json_is_one_error(text: str | bytes) -> None:
    """Every fault of the text raises BadJson, and nothing else."""
    with pytest.raises(BadJson):
        decode_json(text, Any, max_depth=16)


def test_json_that_is_accepted_needs_no_deep_stack() -> None:
    """The bound leaves the decoder far below the interpreter's own limit."""
    assert decode_json("[" * 16 + "]" * 16, Any, max_depth=16)
    assert sys.getrecursionlimit() > 16 * 10
    with pytest.raises(RecursionError):
        msgspec.json.decode("[" * 5000 + "]" * 5000)


def test_web_decodes_json_of_clients_in_one_place() -> None:
    """No other decoder of JSON stands where a client's bytes arrive."""
    folders = ("api", "common", "serving", "transports")
    decoders = re.compile(r"json\.(decode|loads|load)\(|\.json\(\)")
    found = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / "server" / "web" / folder).glob("*.py")
        if decoders.search(path.read_text())
    }
    assert found == set(), "use server.domain.client_json"
