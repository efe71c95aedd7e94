"""`tryon completion` prints a script that its shell understands."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli.main import cli
from testkit.plugin import missing
from testkit.processes import environment, run_program


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_script_fits_its_shell(shell: str, tmp_path: Path) -> None:
    """The shell itself reads the script without an error, where it is installed."""
    script = CliRunner().invoke(cli, ["completion", shell], prog_name="tryon")
    assert script.exit_code == 0
    assert "_TRYON_COMPLETE" in script.output
    if shutil.which(shell) is None:
        missing(shell)
    file = tmp_path / "script"
    file.write_text(script.output)
    assert await run_program(shell, "-n", str(file), seconds=30) == (0, "", "")


async def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    """Complete in a real bash, by a `tryon` that its path finds."""
    program = tmp_path / "tryon"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m server "$@"\n')
    program.chmod(0o700)
    typed = (
        'eval "$(tryon completion bash)"; COMP_WORDS=(tryon {0}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); '
        '_tryon_completion tryon; echo "${{COMPREPLY[@]}}"'
    )
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for words, expected in (("sub", "submit"), ("submit --gar", "--garment"), ("completion z", "zsh")):
        process = await asyncio.create_subprocess_exec(
            *("bash", "--norc", "-c", typed.format(words)), env=environment(path), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        assert out.decode().split() == [expected]


async def test_fish_completes_commands_and_options(tmp_path: Path) -> None:
    """Complete in a real fish, by a `tryon` that its path finds."""
    if shutil.which("fish") is None:
        missing("fish")
    program = tmp_path / "tryon"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m server "$@"\n')
    program.chmod(0o700)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    typed = "tryon completion fish | source; for words in 'sub' 'submit --gar'; complete -C \"tryon $words\"; end"
    process = await asyncio.create_subprocess_exec(
        *("fish", "--no-config", "-c", typed), env=environment(path), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert [line.split()[0] for line in out.decode().splitlines()] == ["submit", "--garment"]
