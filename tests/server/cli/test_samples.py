"""``tryon sample-photos``."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from server.adapters.imaging.sample_photos import SIZES
from server.cli.main import cli


def test_sample_photos_are_written_and_listed(tmp_path: Path) -> None:
    """The folder is made, and each line names a file that exists."""
    folder = tmp_path / "new" / "photos"
    result = CliRunner().invoke(cli, ["sample-photos", str(folder)], catch_exceptions=False)
    assert result.output.splitlines() == [str(folder / name) for name in SIZES]
    assert sorted(path.name for path in folder.iterdir()) == sorted(SIZES)


def test_sample_photos_are_listed_as_json(tmp_path: Path) -> None:
    """One object a line, with the upright size."""
    result = CliRunner().invoke(cli, ["sample-photos", str(tmp_path), "--json"], catch_exceptions=False)
    listed = [json.loads(line) for line in result.output.splitlines()]
    assert {Path(each["path"]).name: (each["width"], each["height"]) for each in listed} == SIZES


def test_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """Exit with 2 and one line when a file lies in its place."""
    (tmp_path / "file").touch()
    result = CliRunner().invoke(cli, ["sample-photos", str(tmp_path / "file/photos")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"tryon: cannot write to {tmp_path / 'file/photos'}: Not a directory\n"
