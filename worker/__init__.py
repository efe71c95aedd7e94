"""The worker: takes session ids from the arq queue, runs a processor, records the end.

``settings`` is what ``arq worker.Settings`` runs, ``pickup`` notices a job within
milliseconds, ``tasks`` runs a session. It hands the job to ``isolation.pool``, which
runs it in a child process. ``processors`` has the processors that come with the product
and the registry that finds others. Nothing here knows HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.settings import Settings

__all__ = ["Settings"]


def __getattr__(name: str) -> Any:
    # Lazily: the settings of the process are read when arq asks for them, not when a
    # processor is imported.
    if name == "Settings":
        from worker.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
