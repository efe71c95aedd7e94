"""What `./run` installs for the processor that it is given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from testkit.processes import ROOT


def names(folder: Path, **environ: str) -> list[str]:
    """Return the processors that `./run` would install for, in this folder."""
    (folder / ".venv").symlink_to(ROOT / ".venv")
    command = f". {ROOT}/.ci/environment.sh; processor_names"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRYON_")}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=inherited | environ, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("file", "environ", "wanted"),
    [
        (None, {}, []),
        (None, {"TRYON_PROCESSOR": "overlay"}, ["overlay"]),
        (None, {"TRYON_PROCESSOR": "cog, overlay"}, ["cog", "overlay"]),
        ("TRYON_PROCESSOR='overlay'  # of the demo\n", {}, ["overlay"]),
        ("TRYON_PROCESSOR=overlay\n", {"TRYON_PROCESSOR": "mock"}, ["mock"]),
        ("TRYON_PORT=1\n", {}, []),
    ],
)
def test_run_reads_the_processor_as_the_settings_do(
    tmp_path: Path, file: str | None, environ: dict[str, str], wanted: list[str]
) -> None:
    """The environment wins over .env; several processors fall over."""
    if file is not None:
        (tmp_path / ".env").write_text(file)
    assert names(tmp_path, **environ) == wanted
