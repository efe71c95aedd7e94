"""docs/production.md: what it names is there."""

from __future__ import annotations

import re

from testkit.documents import text_of
from testkit.processes import ROOT, run_python

PAGE = text_of("docs/production.md")
WISHES = {
    "real AI", "PostgreSQL", "Redis: TLS, rights, Sentinel, Cluster", "Redis fails over under load", "object storage",
    "distributed workers", "containers", "Kubernetes", "Railway, Render, Fly, Vercel", "systemd", "Prometheus",
    "Sentry, OpenTelemetry", "payment hooks", "the operator's view", "load balancing", "user accounts", "growth", "quotas",
}  # fmt: skip
"""The parts of a production that users ask for."""


def test_each_wish_has_a_command_and_its_limits() -> None:
    """One row each: the wish, one command, what runs then, and what does not."""
    table = PAGE.partition("## From a wish to a command")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| ([^|`]+) \| (`[^|`]+` \| [^|]+ \| [^|]+) \|$", table, re.M))
    assert rows.keys() == WISHES


def test_page_names_only_tests_that_exist() -> None:
    """Each ``./test`` of a table has a file or a folder."""
    named = re.findall(r"`(?:TEST_DATABASE=postgresql )?\./test ([\w/.]+)`", PAGE)
    assert len(named) >= 4
    for path in named:
        assert (ROOT / path).exists(), path


async def test_commands_of_faults_take_what_page_says() -> None:
    """Every option that the page gives to a fault command is one of its own."""
    commands = re.findall(r"`\.venv/bin/python -m faults (matrix|soak) ([^`]*)`", PAGE)
    assert {name for name, _ in commands} == {"matrix", "soak"}
    for name in ("matrix", "soak"):
        status, known, err = await run_python("-m", "faults", name, "--help", seconds=60)
        assert status == 0, err
        for option in {option for each, rest in commands if each == name for option in re.findall(r"--[a-z]+", rest)}:
            assert option in known, (name, option)
