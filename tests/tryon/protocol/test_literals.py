"""The tables of `tryon.protocol` are the only place of their values."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from testkit.processes import ROOT
from tryon.protocol import paths
from tryon.protocol.close_codes import CloseCode
from tryon.protocol.frames import BEARER_SUBPROTOCOL, SUBPROTOCOL
from tryon.protocol.states import Event, Status

OWN_TABLES: Final = ("tryon/protocol/", "server/chaos/")
"""The protocol itself, and the checker of chaos, which must not share its faults."""

PATHS: Final = tuple(
    value.partition("{")[0].rstrip("/")
    for name, value in vars(paths).items()
    if name.isupper() and name not in ("PAGE", "WS", "SSE")
)
STATES: Final = {*Status, *Event} - {Event.CANCELLED}
"""Not `cancelled`: it is also the answer to a worker that renews its lease."""

EXAMPLES: Final = {("server/web/docs/examples.py", "completed")}
"""The name of an example in the documents."""

LABELS: Final = {
    ("server/telemetry/metrics.py", "created"),
    ("server/telemetry/metrics.py", "failed"),
    ("server/web/api/submit.py", "created"),
    ("server/web/push/recovery.py", "failed"),
}
"""Outcomes of uploads and of sweeps as labels of metrics: they are no states."""

UPSTREAMS: Final = "worker/processors/"
"""Processors speak the protocols of other servers, which have states of their own."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield name and syntax of each module that may not repeat the protocol."""
    for folder in ("tryon", "server", "worker"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if not name.startswith(OWN_TABLES):
                yield name, ast.parse(Path(path).read_text())


def constants() -> Iterator[tuple[str, int, object]]:
    """Yield every constant of these modules but docstrings: module, line, value."""
    for name, tree in modules():
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and id(node) not in docs:
                yield name, node.lineno, node.value


def test_close_codes_stand_in_the_table_only() -> None:
    """No module repeats an application's close code as a number."""
    codes = {int(code) for code in CloseCode if code >= 4000} - {4000}  # 4000 is also a number of pixels
    assert [place for place in constants() if type(place[2]) is int and place[2] in codes] == []


def test_paths_stand_in_the_table_only() -> None:
    """No module repeats a path or a subprotocol as text."""
    texts = [(name, line, value) for name, line, value in constants() if isinstance(value, str)]
    assert [place for place in texts if place[2].startswith((*PATHS, SUBPROTOCOL, BEARER_SUBPROTOCOL))] == []


def test_states_stand_in_the_table_only() -> None:
    """No module repeats a status or an event as text."""
    found = [place for place in constants() if isinstance(place[2], str) and place[2] in STATES]
    own = [place for place in found if not place[0].startswith(UPSTREAMS)]
    assert [place for place in own if (place[0], place[2]) not in EXAMPLES | LABELS] == []
