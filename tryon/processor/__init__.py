"""The plug for a model: a processor's job, its output and its errors.

:mod:`~tryon.processor.interface` is all that a model's author imports, and loads
nothing but the standard library; :mod:`~tryon.processor.conformance` holds the checks
that any processor must pass. The API, the database and the clients stay the same,
whatever makes the picture.
"""

from __future__ import annotations

from tryon.processor.interface import (
    EXTENSION,
    VERSION,
    Closes,
    Job,
    Needs,
    Options,
    Output,
    Processor,
    ProcessorError,
    Report,
    Starts,
    needs_of,
)

__all__ = [
    "EXTENSION",
    "VERSION",
    "Closes",
    "Job",
    "Needs",
    "Options",
    "Output",
    "Processor",
    "ProcessorError",
    "Report",
    "Starts",
    "needs_of",
]
