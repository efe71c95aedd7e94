"""A processor for models behind HTTP APIs, each described by a TOML file.

:mod:`spec` reads the file, :mod:`templates` fills requests and finds things in answers,
:mod:`pictures` shrinks and merges what is sent, :mod:`outcome` keeps the checkpoint and
the error table, :mod:`processor` does the work.
"""

from __future__ import annotations

from worker.processors.httpjob.processor import HttpJob

__all__ = ["HttpJob"]
