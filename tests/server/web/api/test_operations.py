"""The table of operations: the application has exactly these routes."""

from __future__ import annotations

import re
from collections import Counter

from starlette.routing import Route, WebSocketRoute

from server.config.settings import Config
from server.system.clock import SystemClock
from server.system.randomness import SystemRandomness
from server.web.api.operation import Http, Socket
from server.web.api.operations import OPERATIONS
from server.web.app import create_app
from tryon.protocol import errors, paths


def test_routes_are_the_operations() -> None:
    """Each row makes one route with its method, and the application has no other.

    But for a GET beside each socket, that asks for none.
    """
    routes, sockets = Counter[tuple[str, str]](), Counter[str]()
    for route in create_app(Config(), clock=SystemClock(), randomness=SystemRandomness()).routes:
        assert isinstance(route, Route | WebSocketRoute)
        path = re.sub(r":\w+}", "}", route.path)
        if isinstance(route, WebSocketRoute):
            sockets[path] += 1
        else:
            routes.update((method, path) for method in (route.methods or set()) - {"HEAD"})
    assert routes == Counter((row.method if isinstance(row.handler, Http) else "GET", row.path) for row in OPERATIONS)
    assert sockets == Counter(row.path for row in OPERATIONS if isinstance(row.handler, Socket))
    assert set(sockets) == {paths.SOCKET, paths.OWNER_SOCKET}


def test_operation_names_are_unique() -> None:
    """A row's name is the operation's id in the document."""
    names = [row.name for row in OPERATIONS]
    assert len(names) == len(set(names))


def test_operations_name_known_error_codes() -> None:
    """The errors of a row are codes of the error tree, each once."""
    for row in OPERATIONS:
        assert set(row.errors) <= set(errors.CODES), row.name
        assert len(row.errors) == len(set(row.errors)), row.name


def test_operation_paths_are_protocol_paths() -> None:
    """Every path of a row stands in `tryon.protocol.paths`, and each path has a row."""
    known = {
        value for name, value in vars(paths).items() if name.isupper() and name not in ("API", "FILES", "WS", "SSE")
    }
    assert {row.path for row in OPERATIONS} == known
