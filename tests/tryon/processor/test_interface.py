"""The plug as a model's author imports it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tryon.processor import Closes, ProcessorError, Starts

LOADED = "import sys, tryon.processor, tryon.processor.conformance; print(*sys.modules)"
FOREIGN = {
    *(
        "PIL",
        "arq",
        "httpx",
        "msgspec",
        "redis",
        "server",
        "sqlalchemy",
        "starlette",
        "uvicorn",
        "websockets",
        "worker",
    ),
}


def test_import_loads_no_server_code() -> None:
    """Importing the plug loads no server code and no HTTP or WebSocket library."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert "tryon.processor.interface" in done.stdout.split()
    assert not FOREIGN & {name.partition(".")[0] for name in done.stdout.split()}


def test_optional_methods_are_recognized() -> None:
    """A processor has ``start`` and ``close`` or not; both are found by their names."""

    class Loading:
        async def start(self) -> None: ...

    assert isinstance(Loading(), Starts)
    assert not isinstance(Loading(), Closes)


@pytest.mark.parametrize(
    ("message", "text"), [(None, "no_person"), ("Nobody is in it.", "no_person: Nobody is in it.")]
)
def test_error_text_names_code(message: str | None, text: str) -> None:
    """A log line of the error names its code, and the message if it has one."""
    error = ProcessorError("no_person", message)
    assert str(error) == text
    assert (error.retryable, error.requeue) == (None, False)
