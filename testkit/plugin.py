"""The hooks of every test run: loud gaps, the closing lines, and the slow tests.

A server or browser that is missing fails the run where ``CI`` is set and skips its
tests elsewhere; the last lines of the run count the tests that had each.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
from hypothesis import HealthCheck, settings

from testkit.default_database import KIND, KINDS, ON_POSTGRESQL, VARIABLE

# A busy machine delays an example as much as any other test.
settings.register_profile("tryon", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tryon")

SERVERS: Final = {
    "valkey": "Valkey",
    "postgres": "PostgreSQL",
    "chromium": "Chromium",
    "s3": "S3",
    "azurite": "Azurite",
}
"""Name of each server in the summary, by the fixture that starts it."""


def missing(what: str) -> NoReturn:
    """Skip the running test with a loud reason; fail it in CI."""
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(f"{what} is missing, and CI=true", pytrace=False)
    pytest.skip(f"MISSING: {what}")


def note(request: pytest.FixtureRequest, server: str) -> None:
    """Count the running test as one against ``server``."""
    request.node.user_properties.append(("server", server))


# -- the sample ------------------------------------------------------------------------

_left_out: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", action="store_true", help="Leave out the tests marked slow (./test without --all).")
    parser.addoption(
        "--failures-to", type=Path, metavar="FILE", help="Append the end of each failure's report to FILE."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Drop the shell's settings: they are not the settings of the tests.

    Not at import: programs that a test starts import this module, too.
    """
    for name in [name for name in os.environ if name.startswith("TRYON_")]:
        del os.environ[name]
    config.addinivalue_line("markers", "slow: left out of ./test, part of ./test --all")
    config.addinivalue_line("markers", "alone: slow, and needs the machine for itself; ./test --all runs it last")
    config.addinivalue_line("markers", "sqlite: about SQLite, also where TEST_DATABASE=postgresql")
    if KIND not in KINDS:
        raise pytest.UsageError(f"{VARIABLE} is {' or '.join(KINDS)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--sample"):
        _left_out["slow"] = _deselect(config, items, lambda item: item.get_closest_marker("slow") is not None)
    if ON_POSTGRESQL:  # a run without TEST_DATABASE has these
        _deselect(config, items, lambda item: _parameters(item).get("database_url") == "sqlite")


def _deselect(config: pytest.Config, items: list[pytest.Item], condition: Callable[[pytest.Item], bool]) -> int:
    """Leave out the items that meet a condition; return how many do."""
    left_out = [item for item in items if condition(item)]
    items[:] = [item for item in items if not condition(item)]
    config.hook.pytest_deselected(items=left_out)
    return len(left_out)


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return getattr(getattr(item, "callspec", None), "params", {})


def pytest_sessionfinish(session: pytest.Session) -> None:
    # A worker of xdist has counted; the controller prints and has collected nothing.
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = _left_out["slow"]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _left_out["slow"] = max(_left_out["slow"], getattr(node, "workeroutput", {}).get("left_out", 0))


# -- the closing lines -----------------------------------------------------------------

END_LINES: Final = 16
LINE_LENGTH: Final = 120

_counts: Counter[str] = Counter()
_gaps: Counter[str] = Counter()


def pytest_itemcollected(item: pytest.Item) -> None:
    for fixture in getattr(item, "fixturenames", ()):
        if fixture in SERVERS:
            item.user_properties.append(("server", SERVERS[fixture]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # Runs in the controller too: xdist carries user_properties along with each report.
    if report.when == "call" and not report.skipped:
        _counts.update({str(value) for name, value in report.user_properties if name == "server"})
    if report.skipped and isinstance(report.longrepr, tuple) and "MISSING: " in report.longrepr[2]:
        _gaps[report.longrepr[2].partition("MISSING: ")[2]] += 1


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    # A worker of xdist has the option too, and would say its failures a second time.
    if (path := config.getoption("--failures-to")) is not None and not hasattr(config, "workerinput"):
        reports = [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]
        with path.open("a") as file:
            file.writelines(_end_of_report(report) for report in reports)
    ran = ", ".join(f"{_counts[name]} against {name}" for name in ("PostgreSQL", "Valkey", "Chromium", "S3", "Azurite"))
    terminalreporter.write_line(f"Tests that ran with real servers: {ran}.")
    for gap, tests in _gaps.items():
        terminalreporter.write_line(f"SKIPPED {tests} tests: {gap} is missing.", yellow=True, bold=True)
    if left_out := _left_out["slow"]:
        text = f"LEFT OUT {left_out} slow tests: fault rows, soaks and benchmarks. ./test --all runs them too."
        terminalreporter.write_line(text, yellow=True, bold=True)


def _end_of_report(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the name of a failed test and the last lines of its report."""
    lines = report.longreprtext.splitlines()[-END_LINES:]
    return "\n".join([f"=== failed: {report.nodeid} ===", *(line[:LINE_LENGTH] for line in lines), ""])
