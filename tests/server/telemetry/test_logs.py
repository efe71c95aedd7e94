"""Logs whose lines cannot be written stop nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
