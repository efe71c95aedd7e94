"""The texts of a Gradio app's failures, and the code that each stands for.

A failure has a text and no code: ``gr.Error`` shows its own, any other exception shows
none unless the app was started with ``show_error``. The texts of Hugging Face's shared
GPUs come from its package ``spaces`` 0.28 to 0.51 (2024 to 2026).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tryon.processor import ProcessorError

BUSY_SECONDS: Final = 10.0
"""Wait for an app that is busy and does not say how long."""
COLD_SECONDS: Final = 10.0
"""Wait for an app that starts: a space that slept takes a minute or more."""

TEXT_LENGTH: Final = 2000
"""Maximum characters of a text that are looked at."""
NOTE_LENGTH: Final = 200
"""Maximum characters of a text in the log."""

_WAIT: Final = re.compile(r"\b(?:try again|retry) in (?:(\d{1,3}) days?, )?(\d{1,3}):([0-5]\d):([0-5]\d)\b", re.I)


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern for the text of a failure, and what the failure is."""

    pattern: re.Pattern[str]
    code: str
    retryable: bool | None = None
    requeue: bool = False
    retry_after: float | None = None

    @classmethod
    def parse(
        cls,
        pattern: str,
        code: str,
        *,
        retryable: bool | None = None,
        requeue: bool = False,
        retry_after: float | None = None,
    ) -> Rule:
        """Return a rule. Raises ValueError: the pattern is malformed."""
        try:
            found = re.compile(pattern, re.IGNORECASE)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return cls(found, code, retryable, requeue, retry_after)


RULES: Final = (
    # Before the quotas: it comes with the title "ZeroGPU quota exceeded" as well.
    Rule.parse(r"no gpu (was|is currently) available|zerogpu queue timeout", "backend_busy", retry_after=BUSY_SECONDS),
    Rule.parse(r"too many zerogpu credits|pending credits exceeded", "backend_busy", retry_after=BUSY_SECONDS),
    Rule.parse(r"gpu task aborted|proxy token expired|expired zerogpu", "backend_unreachable", requeue=True),
    Rule.parse(
        r"exceeded your .{0,24}(quota|runs limit)|quota exceeded|reached its gpu limit",
        "quota_exceeded",
        retryable=True,
    ),
    Rule.parse(r"queue is full|too many requests|rate limit", "backend_busy", retry_after=BUSY_SECONDS),
    Rule.parse(r"nsfw|safety checker|moderat(ed|ion)|content policy", "moderated_output"),
    Rule.parse(
        r"\bno (person|human|people|body|face)\b|\b(person|human|face) (was )?not (found|detected)", "person_not_found"
    ),
    Rule.parse(r"\bno (garment|clothing)\b|\b(garment|clothing) (was )?not (found|detected)", "garment_not_found"),
    Rule.parse(r"\bpose (was |is )?not (found|detected|supported)|\bno pose\b", "pose_not_supported"),
    Rule.parse(r"cannot identify image|unreadable image", "unreadable_image"),
)
"""What is known of the texts; the first that matches counts."""


def failure_of(text: str, own: Iterable[Rule] = ()) -> ProcessorError:
    """Return the error that the text of a failure stands for.

    ``own`` are the operator's rules, which come first. The text is a note for the log
    and never shown: it may be HTML, or name things of the app's machine.
    """
    text = text[:TEXT_LENGTH]
    for rule in (*own, *RULES):
        if rule.pattern.search(text):
            wait = wait_in(text) if rule.code == "quota_exceeded" else rule.retry_after
            error = ProcessorError(rule.code, retryable=rule.retryable, requeue=rule.requeue, retry_after=wait)
            return noted(error, text)
    return noted(ProcessorError("processor_error"), text)


def noted(error: ProcessorError, text: str) -> ProcessorError:
    """Return the error with what the app said as a note."""
    error.add_note(f"The Gradio app failed: {text[:NOTE_LENGTH]!r}")
    return error


def wait_in(text: str) -> float | None:
    """Return the seconds of "Try again in 1 day, 2:03:04", or None."""
    if (match := _WAIT.search(text)) is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return max(1.0, float(((days * 24 + hours) * 60 + minutes) * 60 + seconds))
