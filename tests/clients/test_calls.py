"""The calls of both clients have the same names."""

from __future__ import annotations

import re
from typing import Final

from testkit.processes import ROOT
from tryon import AsyncTryOn, TryOn

TYPES: Final = (ROOT / "static" / "tryon.d.ts").read_text()
GUIDES: Final = {name: (ROOT / "docs" / f"{name}-client.md").read_text() for name in ("python", "browser")}

PYTHON_ALONE: Final = {"get", "delete", "wait", "result", "download", "url", "close", "watch_all"}
"""Other names of ``read`` and ``remove``, what a page does by its own means, and the
connection of an owner.
"""


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def declared() -> set[str]:
    """Return the members of the JavaScript client, which is as it is declared."""
    body = re.search(r"^export class TryOn \{\n(.*?)^\}", TYPES, re.MULTILINE | re.DOTALL)
    assert body is not None
    return set(re.findall(r"^  (?:readonly )?(\w+)[(:]", body[1], re.MULTILINE)) - {"constructor", "base"}


def test_calls_have_the_same_names() -> None:
    """Python's two clients have all of JavaScript's calls, and a few more."""
    assert public(AsyncTryOn) == public(TryOn) == declared() | PYTHON_ALONE


def test_guides_say_what_is_named_otherwise() -> None:
    """Each guide lists the calls of its client, and the names of the other one."""
    for call in declared() - {"token"}:
        assert f"`{call}(" in GUIDES["browser"], call
        assert f"`{call}(" in GUIDES["python"], call
    for name in PYTHON_ALONE:
        assert f"`{name}" in GUIDES["python"], name
    for guide in GUIDES.values():
        assert all(f"`{name}`" in guide for name in ("from", "original", "idempotencyKey", "idempotency_key"))
