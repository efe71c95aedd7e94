"""The public face of TryOn Push: the protocol, the client, and the plug for a model.

Names load when they are first used, so that a model's author loads no HTTP library and
a client's user no code of a model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tryon.client.api import AsyncTryOn
    from tryon.client.problems import NotCompleted, Problem
    from tryon.client.run import Run
    from tryon.client.state import Update
    from tryon.client.sync import SyncRun, TryOn
    from tryon.client.watching import Erased
    from tryon.processor.interface import Job, Output, ProcessorError, Report
    from tryon.protocol.codes import ErrorCode

_MODULES = {
    "AsyncTryOn": "tryon.client.api",
    "TryOn": "tryon.client.sync",
    "Run": "tryon.client.run",
    "SyncRun": "tryon.client.sync",
    "Erased": "tryon.client.watching",
    "ErrorCode": "tryon.protocol.codes",
    "Update": "tryon.client.state",
    "Problem": "tryon.client.problems",
    "NotCompleted": "tryon.client.problems",
    "Job": "tryon.processor.interface",
    "Output": "tryon.processor.interface",
    "Report": "tryon.processor.interface",
    "ProcessorError": "tryon.processor.interface",
}
"""The module of each public name."""

__all__ = [
    "AsyncTryOn", "Erased", "ErrorCode", "Job", "NotCompleted", "Output", "Problem", "ProcessorError", "Report", "Run", "SyncRun",
    "TryOn", "Update",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
