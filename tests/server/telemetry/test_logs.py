"""Logs: one line for each record, whatever it holds; lost lines stop nothing."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.telemetry.logs import JsonFormatter, TextFormatter
from testkit.processes import environment

LOGGING = """
import logging, sys
from server.telemetry.logs import setup_logging
setup_logging(log_format="json", log_level="info")
log = logging.getLogger("tryon.web")
for number in range(1000):
    log.info("line %d", number)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("Failed")
open(sys.argv[1], "w").write("alive")
"""


@pytest.fixture(params=["full disk", "closed pipe"])
def target(request: pytest.FixtureRequest) -> Iterator[int]:
    """Open a descriptor that refuses every write."""
    if request.param == "full disk":
        file = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, file = os.pipe()
        os.close(reader)
    yield file
    os.close(file)


def test_lost_lines_stop_nothing(target: int, tmp_path: Path) -> None:
    """Go on to the end of the program, without a line of it."""
    end = tmp_path / "end"
    command = [sys.executable, "-c", LOGGING, str(end)]
    subprocess.run(command, env=environment(), stdout=target, stderr=target, check=False, timeout=60)
    assert end.read_text() == "alive"


HOSTILE = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, 0x2028, 0x2029)))
HOSTILE += "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def record(message: str, error: Exception | None = None) -> logging.LogRecord:
    """Return a record with a message, a field and an error."""
    exc_info = None if error is None else (type(error), error, None)
    made = logging.LogRecord("tryon.web", logging.INFO, "", 0, "%s", (message,), exc_info)
    made.path = message
    return made


@pytest.mark.parametrize("form", [TextFormatter, JsonFormatter])
def test_line_escapes_every_control_character(form: type[logging.Formatter]) -> None:
    """C0, DEL, C1, line separators and bidirectional controls can't leave a string."""
    line = form().format(record(HOSTILE))
    assert not set(HOSTILE) & set(line)
    assert line.isprintable()
    assert "naïve café → ü 试穿" in form().format(record("naïve café → ü 试穿"))


def test_json_line_keeps_the_characters_it_escapes() -> None:
    """A reader of the JSON gets the message as it was logged."""
    assert json.loads(JsonFormatter().format(record(HOSTILE)))["message"] == HOSTILE


@pytest.mark.parametrize("form", [TextFormatter, JsonFormatter])
def test_error_message_cannot_forge_a_line(form: type[logging.Formatter]) -> None:
    """Lines of a stack trace are indented, and its control characters escaped."""
    error = ValueError(f"no\n12:00:00.000 INFO    Created session\u2028 {HOSTILE}")
    first, *trace = form().format(record("Failed", error)).split("\n")
    assert "Failed" in first
    assert all(line.startswith("  ") for line in trace)
    assert not (set(HOSTILE) - {"\n"}) & set("".join([first, *trace]))
