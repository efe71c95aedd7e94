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

FAILING = """
import pytest

@pytest.fixture
def broken(): pytest.fail("the setup")

def test_bad(): pytest.fail("the reason")

def test_unready(broken): ...

def test_good(): ...
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


@pytest.mark.parametrize("module", ["testkit.cluster", "testkit.fixtures"])
async def test_programs_of_testkit_keep_their_settings(module: str) -> None:
    """A server with a planted fault imports the testkit, and is set up by TRYON_*."""
    code = f"import os; os.environ['TRYON_PORT'] = '1'; import {module}; print(os.environ['TRYON_PORT'])"
    status, out, err = await run_python("-c", code, seconds=60)
    assert (status, out) == (0, "1\n"), err


async def test_settings_of_the_shell_are_not_those_of_tests(tmp_path: Path) -> None:
    """A developer's own TRYON_* change no test."""
    (tmp_path / "test_one.py").write_text("import os\n\ndef test_it(): assert 'TRYON_PORT' not in os.environ\n")
    run = ["-m", "pytest", "-q", "-p", "testkit.plugin", "-p", "no:cacheprovider", "-c", os.devnull, str(tmp_path)]
    code = f"import os, sys; os.environ['TRYON_PORT'] = '1'; os.execv(sys.executable, [sys.executable, *{run!r}])"
    status, out, err = await run_python("-c", code, seconds=60)
    assert (status, "1 passed" in out) == (0, True), out + err


@pytest.mark.xdist_group("plugin")
def test_group_of_xdist_takes_effect(request: pytest.FixtureRequest) -> None:
    """Tests of a group share one process, and so one browser or model server."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("this run has one process")
    assert request.node.nodeid.endswith("@plugin")


async def test_failures_are_said_again(tmp_path: Path) -> None:
    """The end of each report is appended, of fixtures too, from several processes."""
    (tmp_path / "test_bad.py").write_text(FAILING)
    failures = tmp_path / "failures"
    failures.write_text("earlier\n")
    command = ("-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "testkit.plugin", "-p", "no:cacheprovider")
    options = ("-n", "2", f"--failures-to={failures}", str(tmp_path))
    status, out, err = await run_python(*command, *options, folder=tmp_path, seconds=60)
    assert status == 1, out + err
    text = failures.read_text()
    assert text.startswith("earlier\n=== failed: ") and text.count("=== failed: ") == 2
    assert "the reason\n" in text and "the setup\n" in text and "test_good" not in text


async def test_options_of_test_script_are_known() -> None:
    """Without `=` pytest takes the value for a folder of tests, and loads no plugin."""
    script = (ROOT / "test").read_text()
    assert script.count('--failures-to="$failures"') == script.count("--failures-to") == 1
    status, out, err = await run_python("-m", "pytest", "--failures-to=/dev/null", "--sample", "--version", seconds=60)
    assert status == 0, out + err
