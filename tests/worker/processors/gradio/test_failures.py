"""The texts of failures, and their codes."""

from __future__ import annotations

import pytest

from worker.processors.gradio.failures import BUSY_SECONDS, Rule, failure_of, wait_in


@pytest.mark.parametrize(
    ("text", "code", "retry_after"),
    [
        (
            "ZeroGPU quota exceeded: You have exceeded your free ZeroGPU quota (90s requested vs. 41s left). "
            "Try again in 13:42:07. Subscribe to get more.",
            "quota_exceeded",
            49327,
        ),
        ("You have exceeded your GPU quota (60s requested vs. 12s left). Try again in 0:04:12", "quota_exceeded", 252),
        ("You have exceeded your Pro GPU quota (60s requested vs. 0s left). Try again in 0:00:00", "quota_exceeded", 1),
        (
            "You have exceeded your GPU quota (60s requested vs. 56s left). <a style='x'>Create a free account</a>",
            "quota_exceeded",
            None,
        ),
        ("ZeroGPU quota exceeded: You have exceeded your ZeroGPU runs limit. ", "quota_exceeded", None),
        ("Space app has reached its GPU limit. Try re-running", "quota_exceeded", None),
        ("ZeroGPU queue timeout: No GPU was available after 60s. Retry later", "backend_busy", BUSY_SECONDS),
        ("ZeroGPU quota exceeded: No GPU was available after 60s.", "backend_busy", BUSY_SECONDS),
        ("You have too many ZeroGPU credits allocated to running tasks.", "backend_busy", BUSY_SECONDS),
        ("GPU task aborted", "backend_unreachable", None),
        ("No person was found in the photo", "person_not_found", None),
        ("NSFW content was found", "moderated_output", None),
        ("CUDA error: device-side assert triggered", "processor_error", None),
        ("", "processor_error", None),
    ],
)
def test_text_of_failure_has_code(text: str, code: str, retry_after: float | None) -> None:
    """A full queue of GPUs comes under the title of a quota, and is none."""
    error = failure_of(text)
    assert (error.code, error.message, error.retry_after) == (code, None, retry_after)


def test_own_rules_come_first() -> None:
    """An operator knows the texts of their app."""
    rules = [Rule.parse("quota|blurred", "unreadable_image")]
    assert failure_of("The photo is BLURRED", rules).code == "unreadable_image"
    assert failure_of("GPU quota exceeded", rules).code == "unreadable_image"


def test_malformed_rule_is_refused() -> None:
    """The start fails with a line that shows the pattern."""
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        Rule.parse("(", "timeout")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Try again in 1 day, 2:03:04", 93784.0),
        ("retry in 0:13:21", 801.0),
        ("Try again in a while", None),
        ("Try again in 5:99:00", None),
    ],
)
def test_wait_is_read_from_text(text: str, seconds: float | None) -> None:
    """The wait is a Python timedelta, as text."""
    assert wait_in(text) == seconds
