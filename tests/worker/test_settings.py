"""The settings as arq takes them, in a process of its own: they are read once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from server.adapters.redis.queue import CLEANUP_FUNCTION, FUNCTION
from testkit.processes import environment

SCRIPT = """
import json
from arq.worker import create_worker
from worker.settings import Settings
worker = create_worker(Settings, handle_signals=False)
functions = worker.functions.items()
print(json.dumps({name: each.timeout_s or worker.job_timeout_s for name, each in functions}))
"""


def timeouts(folder: Path, **settings: str) -> dict[str, float]:
    """Return the seconds after which arq cancels a job, by its function."""
    usual = {
        "TRYON_DATA_DIR": str(folder),
        "TRYON_REDIS_URL": "redis://127.0.0.1:1/0",  # it is never asked
        "TRYON_SECRET_KEY": "secret-" * 6,
        "TRYON_START_CHECK": "no",
    }
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT]
    ran = subprocess.run(command, env=environment(usual | settings), check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def test_session_outlasts_every_start_of_its_processor(tmp_path: Path) -> None:
    """No session that still has a deadline is cancelled: it moves up to the expiry."""
    found = timeouts(tmp_path, TRYON_DEADLINE_SECONDS="5", TRYON_RETENTION_SECONDS="7200")
    assert found[FUNCTION] > 7200
    assert found[CLEANUP_FUNCTION] == 65
    found = timeouts(tmp_path, TRYON_DEADLINE_SECONDS="7200", TRYON_RETENTION_SECONDS="5")
    assert found[FUNCTION] > 7200
