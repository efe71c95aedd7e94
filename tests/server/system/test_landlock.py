"""Landlock: which rules stand for a folder without some of its contents."""

from __future__ import annotations

from pathlib import Path

from server.system import landlock


def test_without_leaves_hidden_paths_out(tmp_path: Path) -> None:
    """A folder on the way to a hidden path stands by its other entries."""
    for name in ("a/b/hidden/deep", "a/b/seen", "a/c", "d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "file").touch()  # a rule would keep its blocks when it is deleted
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b" / "hidden")
    found = set(landlock.without(tmp_path, {tmp_path / "a/b/hidden", Path("/elsewhere")}))
    assert found == {tmp_path / name for name in ("a/b/seen", "a/c", "d")}


def test_without_keeps_untouched_folder_whole(tmp_path: Path) -> None:
    """A folder that holds nothing hidden is one path; a hidden one is none."""
    assert list(landlock.without(tmp_path, {tmp_path.parent / "other"})) == [tmp_path]
    assert list(landlock.without(tmp_path / "a", {tmp_path})) == []
    assert list(landlock.without(tmp_path, {tmp_path})) == []


def test_rights_grow_with_the_version() -> None:
    """Only rights that the kernel knows are asked for."""
    assert [landlock.known_rights(each).bit_length() for each in range(1, 8)] == [13, 14, 15, 15, 16, 16, 16]
