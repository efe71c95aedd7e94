"""The worker: takes session ids from the arq queue, runs a processor, says how it
ended.

``settings`` is what ``arq worker.Settings`` runs, ``pickup`` how a job is noticed
within milliseconds, ``tasks`` the one task. It hands the job to ``children``, which
runs it in a process of its own: forked by the ``forkserver``, in which it is a
``child`` with a processor; ``messages`` is what they say to each other, ``processes``
what the worker holds of them. ``processors`` is the plug for the AI part. Nothing here
knows HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.settings import Settings

__all__ = ["Settings"]


def __getattr__(name: str) -> Any:
    # Lazily: the settings of the process are read when arq asks for them, not whenever
    # a processor is imported.
    if name == "Settings":
        from worker.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
