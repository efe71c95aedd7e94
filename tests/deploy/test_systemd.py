"""The units of deploy/systemd, judged by systemd's own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from server.config.settings import Config
from testkit.documents import text_of
from testkit.plugin import missing
from testkit.processes import ROOT

UNITS: Final = sorted((ROOT / "deploy/systemd").iterdir())
SERVICES: Final = [unit for unit in UNITS if unit.suffix == ".service"]
FILES: Final = dict(re.findall(r"<!-- file: (\S+) -->\n```sh\n(.*?)```", text_of("docs/deploying.md"), re.DOTALL))
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
        for program in re.findall(r"^ExecStart=.*?(/srv/tryon/.venv/bin/\S+)", text, re.MULTILINE):
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


def environment_file(text: str) -> dict[str, str]:
    """Return the variables of an EnvironmentFile: comments have lines of their own."""
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", ";")))
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def environment_of(unit: Path, file: str, instance: str) -> dict[str, str]:
    """Return the environment of a unit: Environment=, then its file, then env's."""
    text = unit.read_text().replace("%i", instance)
    given = dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))
    (start,) = re.findall(r"^ExecStart=/usr/bin/env (.*)$", text, re.MULTILINE)
    return given | environment_file(file) | dict(re.findall(r"(\w+)=(\S+)", start))


@pytest.mark.parametrize("name", ["one/.env", ".env"])
def test_settings_of_pages_work_as_environment_file(name: str) -> None:
    """Each web unit has its own port, all write to the one folder that they may."""
    file = FILES[name].replace("at-least-32-characters-the-same-everywhere", "s" * 40)
    for unit in SERVICES:
        environment = environment_of(unit, file, "8001")
        config = Config.load(environment, env_file=None)
        assert config.data_dir == Path("/var/lib/tryon"), unit.name
        assert config.port == 8001 or unit.name != "tryon-web@.service"
        assert [name for name, value in environment.items() if "#" in value] == []


def test_services_run_commands_of_the_product() -> None:
    """The same three as everywhere."""
    commands = {unit.name: re.findall(r"^ExecStart=.*/bin/(.*)", unit.read_text(), re.MULTILINE) for unit in SERVICES}
    assert commands == {
        "tryon-migrate.service": ["tryon migrate"],
        "tryon-web@.service": ["tryon serve"],
        "tryon-worker@.service": ["arq worker.Settings"],
    }
