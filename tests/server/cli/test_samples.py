"""``tryon sample-photos``."""

from __future__ import annotations

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
