"""``python -m testkit.production`` as a reader of docs/production.md types it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys

import httpx
import psutil
import pytest

from testkit.documents import text_of
from testkit.following import end, follow
from testkit.installed import PLACES
from testkit.photos import photo
from testkit.plugin import missing
from testkit.processes import listening, run_python, spawn, stop
from tryon.protocol.paths import SESSIONS

COMMAND = re.search(r"^\.venv/bin/python (-m testkit\.production .*)$", text_of("docs/production.md"), re.M)


@pytest.mark.slow
async def test_one_command_runs_the_whole_form() -> None:
    """A try-on passes through all parts, and Ctrl-C leaves no process behind."""
    if shutil.which("nginx", path=PLACES) is None:
        missing("nginx (Debian: apt-get install nginx)")
    assert COMMAND is not None
    arguments = COMMAND[1].replace("--port 8080", "--port 0").split()
    process = await spawn(sys.executable, *arguments, piped=True)
    try:
        assert process.stdout is not None
        printed = []
        async for line in process.stdout:
            printed.append(line.decode())
            if ready := re.match(r"TryOn Push is ready at (\S+)", printed[-1]):
                break
        assert ready, printed
        names = {line.split(" ", 1)[0] for line in printed}
        assert {"nginx", "web1", "web2", "worker1", "worker2", "PostgreSQL", "Valkey", "S3"} <= names
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 7
        await listening(int(ready[1].rpartition(":")[2]), process)
        async with httpx.AsyncClient(base_url=ready[1], trust_env=False, timeout=30) as client:
            made = await client.post(SESSIONS, files={"image": photo()})
            assert made.status_code == 201, made.text
        session = json.loads(made.content)
        steps = [step async for step in follow("ws", ready[1], session["session_id"], session["client_token"])]
        assert steps[-1] in (end("completed"), end("failed"))
        process.send_signal(signal.SIGINT)
        assert (await process.stdout.read()).decode().splitlines()[0] == "Stopping"
        assert await process.wait() == 0
        assert not [child for child in children if child.is_running()]
    finally:
        await stop(process)


async def test_setting_that_is_none_is_refused() -> None:
    """A misspelt argument is named before anything starts."""
    status, _, err = await run_python("-m", "testkit.production", "MOCK_SECONDS=1", seconds=30)
    assert status == 2
    assert "'MOCK_SECONDS=1' is not TRYON_NAME=value" in err
