"""The plug for a model: a processor's job, its output and its errors.

:mod:`~tryon.processor.interface` is all that a model's author imports, and loads
nothing but the standard library; :mod:`~tryon.processor.conformance` holds the checks
that any processor must pass. The API, the database and the clients stay the same,
whatever makes the picture.
"""

from __future__ import annotations

from tryon.processor.interface import (
    IMAGE_TYPES,
    OUTPUT_TYPES,
    ROLE,
    VERSION,
    AttemptLost,
    Cancels,
    Checkpoint,
    Checks,
    Closes,
    Forgets,
    Info,
    Input,
    Job,
    Needs,
    Options,
    Output,
    OutputRole,
    Processor,
    ProcessorError,
    Reference,
    Report,
    Result,
    Resumes,
    Role,
    Starts,
    needs_of,
)

__all__ = [
    "IMAGE_TYPES",
    "OUTPUT_TYPES",
    "ROLE",
    "VERSION",
    "AttemptLost",
    "Cancels",
    "Checkpoint",
    "Checks",
    "Closes",
    "Forgets",
    "Info",
    "Input",
    "Job",
    "Needs",
    "Options",
    "Output",
    "OutputRole",
    "Processor",
    "ProcessorError",
    "Reference",
    "Report",
    "Result",
    "Resumes",
    "Role",
    "Starts",
    "needs_of",
]
