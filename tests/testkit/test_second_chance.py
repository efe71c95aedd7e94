"""The tests that run once more, alone, after a busy run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from testkit.processes import ROOT, run_python
from testkit.second_chance import MOST, chosen


def said(*tests: str) -> str:
    """Return what a run writes about its failures."""
    return "".join(f"=== failed: {each} ===\nE  AssertionError\n" for each in tests)


def test_names_of_groups_are_left_out() -> None:
    """A test of one process has no group; setup and call of a test count once."""
    text = said("tests/a.py::test_a[x-1]@chromium", "tests/a.py::test_a[x-1]@chromium", "tests/b.py::test_b@node a.b")
    assert chosen(text) == ["tests/a.py::test_a[x-1]", "tests/b.py::test_b"]


@pytest.mark.parametrize("failures", [0, MOST + 1])
def test_many_failures_get_no_other_chance(failures: int) -> None:
    """Failures in many files are no accident; without one the run itself broke."""
    assert chosen(said(*(f"t{number}.py::t" for number in range(failures)))) == []


def test_failures_of_one_file_count_once() -> None:
    """A fixture that failed took all tests of its file along."""
    assert len(chosen(said(*(f"t.py::t{number}" for number in range(3 * MOST))))) == 3 * MOST


@pytest.mark.parametrize(("body", "status"), [("pass", 0), ("assert False", 1)])
async def test_second_failure_is_final(tmp_path: Path, body: str, status: int) -> None:
    """A test that passes alone is named; one that fails alone fails the run."""
    test = tmp_path / "test_it.py"
    test.write_text(f"def test_it(): {body}\n")
    failures = tmp_path / "failures"
    failures.write_text(said(f"{test}::test_it"))
    done, out, err = await run_python("-m", "testkit.second_chance", str(failures), folder=ROOT, seconds=60)
    assert done == status, out + err
    said_at_end = failures.read_text().splitlines()[-1]
    assert said_at_end.startswith(f"UNSTEADY: {test}::test_it failed beside others") == (status == 0)


def test_script_gives_another_chance_to_tests_of_common_run_alone() -> None:
    """Fault rows run after it, apart; each part of the suite runs once."""
    script = (ROOT / "test").read_text()
    parts = re.findall(r"run (?:-n (\d) --dist loadgroup )?-m (.*?) \|\| (\S+)", script)
    assert parts == [
        ("3", '"not alone" tests benchmarks', "tests=$?"),
        ("2", '"not alone" faults', "tests=$?"),
        ("", "alone", "tests=$?"),
    ]
    assert script.count("testkit.second_chance") == 1
    assert script.index(parts[0][1]) < script.index("testkit.second_chance") < script.index(parts[1][1])
    assert script.index("-m alone") < script.index('cat "$failures"')
