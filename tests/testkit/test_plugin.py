"""The option ``--sample`` of the plugin, and the groups of xdist."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testkit.processes import ROOT, run_python

TESTS = """
import pytest

@pytest.mark.slow
def test_slow(): ...

def test_quick(): ...
"""


@pytest.mark.parametrize(("options", "passed"), [((), 2), (("--sample",), 1), (("--sample", "-n", "1"), 1)])
async def test_sample_leaves_out_slow_tests(tmp_path: Path, options: tuple[str, ...], passed: int) -> None:
    """The last lines say how many, in the controller of several processes too."""
    (tmp_path / "test_two.py").write_text(TESTS)
    command = ("-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "testkit.plugin", "-p", "no:cacheprovider")
    status, out, err = await run_python(*command, *options, str(tmp_path), folder=tmp_path, seconds=60)
    assert status == 0, out + err
    assert f"{passed} passed" in out
    assert ("LEFT OUT 1 slow tests" in out) == (passed == 1)


@pytest.mark.xdist_group("plugin")
def test_group_of_xdist_takes_effect(request: pytest.FixtureRequest) -> None:
    """Tests of a group share one process, and so one browser or model server."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("this run has one process")
    assert request.node.nodeid.endswith("@plugin")
