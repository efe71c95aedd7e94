"""The command that reads a folder of photos once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from testkit.corpora import files, read
from testkit.photos import encoded, patches


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three pictures and a text."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes(encoded(patches(), "PNG"))
    (tmp_path / "sub" / "cut.bin").write_bytes(encoded(patches(), "JPEG")[:-50])
    (tmp_path / "photo.txt").write_bytes(encoded(patches(), "WEBP"))
    (tmp_path / "notes.jpg").write_text("no picture")
    return tmp_path


async def test_folder_is_counted_by_content_not_by_name(folder: Path) -> None:
    """Pictures are found whatever they are called; refusals are counted by reason."""
    report = await read(folder, None)
    assert (report.files, report.taken) == (3, 2)
    assert [(reason.partition(":")[0], count) for reason, count in report.refused.items()] == [("unreadable_image", 1)]
    lines = list(report.lines(chromium=False))
    assert lines[:3] == ["files     3", "taken     2", "refused   1"]


def test_bare_repository_gives_the_same_files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A bare git repository is read like the directory it holds."""
    bare = tmp_path_factory.mktemp("bare") / "photos.git"
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    for command in (
        ("init", "-q", str(folder)),
        ("-C", str(folder), "add", "-A"),
        (*who, "-C", str(folder), "commit", "-q", "-m", "Add photos"),
        ("clone", "-q", "--bare", str(folder), str(bare)),
    ):
        subprocess.run(("git", *command), check=True, capture_output=True)
    expected = {name: content for name, content in files(folder) if not name.startswith(".git")}
    assert dict(files(bare)) == expected
