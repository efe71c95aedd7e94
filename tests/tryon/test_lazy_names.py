"""``tryon`` loads the module of a name that is used, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tryon

NETWORK = {
    "aiohttp",
    "anyio",
    "h11",
    "httpcore",
    "httptools",
    "httpx",
    "requests",
    "starlette",
    "uvicorn",
    "websockets",
}


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter holds after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()} | set(run.stdout.split())


@pytest.mark.parametrize("name", tryon.__all__)
def test_public_name_is_its_modules(name: str) -> None:
    """Find each name in the module that the table names."""
    value = getattr(tryon, name)
    assert value.__name__ == name
    assert name in dir(tryon)


def test_unknown_name_raises_attribute_error() -> None:
    """Fail as any module does."""
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = tryon.Nonsense


@pytest.mark.parametrize("module", ["tryon", "tryon.protocol", "tryon.protocol.frames", "tryon.processor"])
def test_module_loads_no_network_library(module: str) -> None:
    """Keep network libraries out of the protocol and the plug for a model."""
    loaded = loaded_by(f"import {module}")
    assert not loaded & NETWORK
    assert not {name for name in loaded if name.startswith(("server", "worker"))}


def test_every_protocol_module_is_pure() -> None:
    """Load all of the protocol without any network library."""
    walk = "import pkgutil, importlib, tryon.protocol as p"
    loaded = loaded_by(
        f"{walk}\nfor m in pkgutil.iter_modules(p.__path__): importlib.import_module('tryon.protocol.' + m.name)"
    )
    assert "tryon.protocol.close_codes" in loaded
    assert not loaded & NETWORK


def test_processor_names_load_no_network_library() -> None:
    """Let a model's author import from ``tryon`` itself."""
    assert not loaded_by("from tryon import Job, Output, Report, ProcessorError") & NETWORK


def test_client_loads_nothing_of_the_server() -> None:
    """Keep the server's code and libraries out of the client."""
    loaded = loaded_by("from tryon import AsyncTryOn, TryOn")
    assert "httpx" in loaded
    assert not loaded & {"server", "worker", "starlette", "uvicorn", "redis", "sqlalchemy", "arq", "PIL"}
