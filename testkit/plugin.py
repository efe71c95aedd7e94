"""The hooks of every test run: loud gaps, the closing lines, and the slow tests.

A server or browser that is missing fails the run where ``CI`` is set and skips its
tests elsewhere; the last lines of the run count the tests that had each.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, Final, NoReturn

import pytest
from hypothesis import HealthCheck, settings

# The settings of the shell that runs the tests are not the settings of the tests.
for _name in [name for name in os.environ if name.startswith("TRYON_")]:
    del os.environ[_name]

# A busy machine delays an example as much as any other test.
settings.register_profile("tryon", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tryon")

SERVERS: Final = {"valkey": "Valkey", "postgres": "PostgreSQL", "chromium": "Chromium"}
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


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: left out of ./test, part of ./test --all")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--sample"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        _left_out["slow"] = len(slow)


def pytest_sessionfinish(session: pytest.Session) -> None:
    # A worker of xdist has counted; the controller prints and has collected nothing.
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = _left_out["slow"]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _left_out["slow"] = max(_left_out["slow"], getattr(node, "workeroutput", {}).get("left_out", 0))


# -- the closing lines -----------------------------------------------------------------

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


def pytest_terminal_summary(terminalreporter: Any) -> None:
    ran = ", ".join(f"{_counts[name]} against {name}" for name in ("PostgreSQL", "Valkey", "Chromium"))
    terminalreporter.write_line(f"Tests that ran with real servers: {ran}.")
    for gap, tests in _gaps.items():
        terminalreporter.write_line(f"SKIPPED {tests} tests: {gap} is missing.", yellow=True, bold=True)
    if left_out := _left_out["slow"]:
        text = f"LEFT OUT {left_out} slow tests: fault rows, soaks and benchmarks. ./test --all runs them too."
        terminalreporter.write_line(text, yellow=True, bold=True)
