"""Scripts as the page gets them: without comments, and otherwise as written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from server.web.api.static_files import static_directory, without_comments
from testkit.node_packages import node_packages


@pytest.mark.xdist_group("npm")
def test_lasting_scripts_do_what_is_written(project: Path, tmp_path: Path) -> None:
    """Without comments esbuild makes the same of each script and style."""
    sources = [path for path in static_directory().rglob("*") if path.suffix in (".js", ".css")]
    ours = [path for path in sources if "vendor" not in path.parts]
    made = []
    for side, change in (("written", lambda data: data), ("bare", without_comments)):
        folder = tmp_path / side
        for path in ours:
            copy = folder / "in" / path.relative_to(static_directory())
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(change(path.read_bytes()))
        copies = sorted(str(path) for path in (folder / "in").rglob("*.*"))
        esbuild = [str(node_packages() / ".bin/esbuild"), "--minify", f"--outdir={folder / 'out'}", *copies]
        subprocess.run(esbuild, check=True, capture_output=True)
        made.append({path.relative_to(folder): path.read_text() for path in (folder / "out").rglob("*.*")})
    assert len(made[0]) == len(ours)
    assert made[0] == made[1]
