"""The conformance checks from the shell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tryon.processor.conformance.__main__ import main

HONEST = "tests.tryon.processor.test_conformance:Honest"
BOASTFUL = "tests.tryon.processor.test_conformance:Boastful"


def test_honest_processor_passes_from_shell() -> None:
    """A processor that passes has a line for each check, and status 0."""
    command = (sys.executable, "-m", "tryon.processor.conformance", HONEST)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines[:-1]} == {"ok"}
    assert lines[-1] == f"{len(lines) - 1} checks passed"


def test_failed_check_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A check that fails is named with its reason, and the status is 1."""
    assert main([BOASTFUL]) == 1
    out = capsys.readouterr().out
    assert "FAILED test_reports_are_in_range" in out
    assert "ok     test_info_is_well_formed" in out
    assert out.splitlines()[-1].startswith("1 of ")


@pytest.mark.parametrize(
    "arguments", [["no.such.module:Thing"], ["nothing"], [HONEST, "--options", "[1"], [HONEST, "--photo", "x=/none"]]
)
def test_unusable_arguments_end_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A class, option or photo that is not there is one line of error."""
    assert main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_options_params_and_photos_reach_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options go to the constructor; params and photos into each job."""
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n of my own")
    arguments = ["tests.tryon.processor.test_conformance_command:Wants", "--options", '{"wanted": "fit"}']
    assert main([*arguments, "--params", '{"fit": 1}', "--photo", f"person={tmp_path / 'a.png'}"]) == 0
    assert main(arguments) == 1


class Wants:
    """A processor that wants a param and a photo of its own."""

    def __init__(self, *, wanted: str) -> None:
        from tests.tryon.processor.test_conformance import Honest

        self._honest = Honest()
        self.info = self._honest.info
        self._wanted = wanted

    async def run(self, job, report):  # type: ignore[no-untyped-def]
        assert job.params[self._wanted] == 1
        assert job.input("person").read().endswith((b"of my own", b"not an image"))
        return await self._honest.run(job, report)
