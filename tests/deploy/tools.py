"""The tools that check deploy/: programs and libraries of the environment ``tools``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from testkit.environments import EnvironmentMissing, python_of
from testkit.plugin import missing
from testkit.processes import ROOT

CHART = "deploy/kubernetes/tryon-push"


def tools_python() -> Path:
    """Return the Python of the tools; skip aloud where they cannot be installed."""
    try:
        return python_of("tools")
    except EnvironmentMissing as error:
        missing(str(error))


def check(action: str, path: str, given: Any) -> Any:
    """Run ``check.py`` and return its answer; raise AssertionError if it fails."""
    done = subprocess.run(
        [tools_python(), "tests/deploy/check.py", action, path],
        cwd=ROOT,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    return json.loads(done.stdout)
