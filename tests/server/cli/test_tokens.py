"""One token for each server, in files that only their user can read."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.cli.tokens import BadToken, is_exposed, make_private, read_token, token_path


def test_token_path_follows_the_server_and_xdg(tmp_path: Path) -> None:
    """Ports that a scheme implies are the same server; a relative folder is none."""
    home = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    path = token_path("https://tryon.example", home)
    assert path == tmp_path / "xdg/tryon/tokens/https_tryon.example_443"
    assert token_path("https://TRYON.example:443/", home) == path
    others = ("http://tryon.example", "https://tryon.example:8443", "https://tryon.example/a/b", "http://[::1]:8000")
    paths = {token_path(other, home) for other in others}
    assert len(paths | {path}) == 5
    assert {each.parent for each in paths} == {path.parent}
    assert token_path("http://a", home | {"XDG_CONFIG_HOME": "xdg"}).is_relative_to(tmp_path / "home/.config")


def test_token_is_made_once_and_private(tmp_path: Path) -> None:
    """One of many processes makes it; the folder and the file are closed."""
    path = tmp_path / "tryon/tokens/x"
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(read_token, [path] * 8))
    assert len({token for token, _ in found}) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    assert [each.name for each in path.parent.iterdir()] == ["x"]
    assert read_token(path) == (found[0][0], False)
    assert not is_exposed(path)
    path.chmod(0o640)
    assert is_exposed(path)
    make_private(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"too-short", b"\xff" * 30, b"one-token-of-22-letters\nand another line\n"])
def test_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    """Never replace a file that holds something else."""
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(BadToken, match=str(path)):
        read_token(path)
    assert path.read_bytes() == content


def test_token_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A folder in its place, and a file in the place of its folder."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file/x"):
        with pytest.raises(BadToken, match="cannot use the token file"):
            read_token(path)
