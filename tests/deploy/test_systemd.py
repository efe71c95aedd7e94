"""The units of deploy/systemd, judged by systemd's own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from testkit.plugin import missing
from testkit.processes import ROOT

UNITS: Final = sorted((ROOT / "deploy/systemd").iterdir())
SERVICES: Final = [unit for unit in UNITS if unit.suffix == ".service"]
HIGHEST_EXPOSURE: Final = 2.5
"""Worst verdict of `systemd-analyze security` for a service; it is 9.6 without
sandboxing.
"""


def analyze(*words: str, folder: Path) -> str:
    """Return the output of systemd-analyze; skip aloud where it is missing."""
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze (Debian: apt-get install systemd)")
    done = subprocess.run(["systemd-analyze", *words], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Copy the units; their programs are ones that exist here."""
    for unit in UNITS:
        text = unit.read_text()
        for program in re.findall(r"^ExecStart=(\S+)", text, re.MULTILINE):
            assert program.startswith("/srv/tryon/.venv/bin/")
            text = text.replace(program, str(ROOT / ".venv/bin" / Path(program).name))
        (tmp_path / unit.name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("unit", [unit.name for unit in UNITS])
def test_unit_passes_verification(unit: str, installed: Path) -> None:
    """Systemd knows every directive, and each unit that another one names."""
    assert analyze("verify", "--man=no", str(installed / unit), folder=installed) == ""


@pytest.mark.parametrize("unit", [unit.name for unit in SERVICES])
def test_service_is_sandboxed(unit: str, installed: Path) -> None:
    """A bug in a decoder meets a wall more."""
    said = analyze("security", "--offline=true", "--no-pager", str(installed / unit), folder=installed)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found, said
    assert float(found[1]) <= HIGHEST_EXPOSURE


def test_services_run_commands_of_the_product() -> None:
    """The same three as everywhere."""
    commands = {unit.name: re.findall(r"^ExecStart=\S+/bin/(.*)", unit.read_text(), re.MULTILINE) for unit in SERVICES}
    assert commands == {
        "tryon-migrate.service": ["tryon migrate"],
        "tryon-web@.service": ["tryon serve"],
        "tryon-worker@.service": ["arq worker.Settings"],
    }
