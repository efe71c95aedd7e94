"""The error of a stack that cannot start."""

from __future__ import annotations


class UpError(Exception):
    """The stack cannot start; the message is one line with the reason.

    ``status`` is the process's exit status.
    """

    def __init__(self, message: str, *, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


class Reported(UpError):
    """A program of the stack cannot start, and has said why itself, in one line."""

    def __init__(self) -> None:
        super().__init__("", status=2)
