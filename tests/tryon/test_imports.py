"""An import of a part of `tryon` loads no library that its user may not have."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from typing import Final

import pytest

from tryon import protocol

NETWORK: Final = {
    "aiohttp", "anyio", "h11", "h2", "http.client", "http.server", "httpcore", "httptools", "httpx", "requests", "socket",
    "starlette", "urllib3", "uvicorn", "websockets", "wsproto",
}  # fmt: skip


def loaded(module: str) -> set[str]:
    """Return the modules that a new interpreter has loaded after importing this one."""
    code = f"import sys; import {module}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


MODULES: Final = [
    "tryon",
    "tryon.processor",
    *(module.name for module in pkgutil.walk_packages(protocol.__path__, "tryon.protocol.")),
]


@pytest.mark.parametrize("module", MODULES)
def test_import_loads_no_network_library(module: str) -> None:
    """The protocol and the processor need no HTTP or WebSocket library."""
    modules = loaded(module)
    assert module in modules
    assert modules & NETWORK == set()


@pytest.mark.parametrize("module", MODULES)
def test_import_loads_no_server_code(module: str) -> None:
    """The public face stands alone."""
    assert not any(name.partition(".")[0] in ("server", "worker", "testkit") for name in loaded(module))
