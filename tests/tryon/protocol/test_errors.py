"""The tree of errors, and the drawing of it in the module's docstring."""

from __future__ import annotations

import dataclasses
import re

from server.config.settings import Config
from tryon.protocol import errors
from tryon.protocol.close_codes import CLOSE_CODES, CloseCode
from tryon.protocol.errors import CODES, ERRORS, FAILURES, LIMITS, RateLimited, TryOnError


def drawn() -> dict[str, tuple[int, list[str], int]]:
    """Return status, codes and close code of each class as they are drawn."""
    found = {}
    tree = (errors.__doc__ or "").partition("TryOnError\n")[2].partition("\n\n")[0]
    for branch in re.split(r"\+-- ", tree)[1:]:
        name, status, rest = re.sub(r"[\s|]+", " ", branch).strip().split(" ", 2)
        close = re.search(r"\((\d+)\)", rest)
        codes = re.findall(r"[a-z_]+", rest)
        found[name] = (int(status), codes, int(close[1]) if close else CloseCode.MISUSE)
    return found


def test_error_tree_is_drawn_as_it_is() -> None:
    """Class by class: the status, the codes in order, and the close code."""
    in_code = {error.__name__: (error.status, list(error.codes), error.close_code) for error in ERRORS}
    assert drawn() == in_code


def test_every_error_class_is_listed() -> None:
    """Every direct subclass of this module is in ERRORS, and no code stands twice."""
    own = {error for error in TryOnError.__subclasses__() if error.__module__ == errors.__name__}
    assert set(ERRORS) == own
    assert len(CODES) == sum(len(error.codes) for error in ERRORS)


def test_error_close_codes_are_in_the_table() -> None:
    """An error closes a socket with a code that clients can look up."""
    assert {error.close_code for error in ERRORS} <= {row.code for row in CLOSE_CODES}


def test_error_takes_title_and_detail_from_table() -> None:
    """Code, title and detail come from the table; a caller may give another detail."""
    for code, error in CODES.items():
        refusal = error(code)
        assert (refusal.title, refusal.detail) == (error.codes[code].title, error.codes[code].detail)
        assert error(code, "Other words.").detail == "Other words."


def test_error_details_are_sentences() -> None:
    """Every code has a title and a detail that a person can read."""
    for code, error in CODES.items():
        known = error.codes[code]
        assert known.title and known.detail.endswith("."), code
        assert error(code).status == error.status


PROMISED = {
    "pose_not_supported", "processor_error", "input_lost", "person_not_found", "garment_not_found",
    "unreadable_image", "moderated_input", "moderated_output", "backend_busy", "backend_cold",
    "backend_unreachable", "quota_exceeded", "backend_auth", "timeout", "processor_crashed",
    "worker_lost", "storage_full", "mock_failure", "internal",
}  # fmt: skip


def test_failures_are_the_promised_taxonomy() -> None:
    """Every processor maps its errors to these codes; none may vanish or be renamed."""
    assert set(FAILURES) == PROMISED


def test_failures_name_cause_and_fix() -> None:
    """A person reads what happened, and then what to do about it."""
    for code, failure in FAILURES.items():
        assert failure.title, code
        assert failure.cause.endswith(".") and failure.fix.endswith("."), code
        assert failure.detail == f"{failure.cause} {failure.fix}"
        assert len(failure.detail) <= 200, code


def test_limits_are_called_like_their_settings() -> None:
    """A refusal names its limit, and an operator finds the setting by that name."""
    assert set(LIMITS) <= {row.name for row in dataclasses.fields(Config)}
    for limit, detail in LIMITS.items():
        refusal = RateLimited(limit=limit)
        assert (refusal.limit, refusal.detail) == (limit, detail)
        assert detail.endswith(".")
    assert RateLimited().limit is None
