"""`/metrics` of workers: its readers, its port, and what it adds up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from server.config.settings import Config, ConfigError
from server.telemetry.metric_files import FOLDER_VARIABLE
from testkit.fixtures import StartValkey
from testkit.processes import environment, reserved_port
from tests.worker.conftest import StartWorker, until
from worker.metrics_page import MAX_AT_ONCE, metrics_page

TOKEN = "monitoring-monitoring-monitoring"

WORKER = """
import sys
from server.config.settings import Config
from server.telemetry import metrics
from worker.metrics_page import metrics_page
port, number = map(int, sys.argv[1:])
with metrics_page(Config(worker_metrics_port=port)):
    metrics.transitions.labels("completed").inc(number)
    metrics.running.set(number)
    metrics.note_process("worker", "1.2.3", "3.14")
    print("ready", flush=True)
    sys.stdin.read()
"""
"""Counts, and serves the page until its input ends."""


def free_port() -> int:
    """Return a port that is free now, for servers that share it or not."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def read(port: int, **headers: str) -> httpx.Response:
    """Ask once, on a connection of its own."""
    return httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers, timeout=30)


def samples(port: int) -> dict[str, float]:
    """Return the samples of the page."""
    lines = [line for line in read(port).text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@contextlib.contextmanager
def worker(port: int, number: int, folder: Path | None) -> Iterator[subprocess.Popen[str]]:
    """Run a process that counts ``number``, until the end of the block."""
    settings = {} if folder is None else {FOLDER_VARIABLE: str(folder)}
    command = [sys.executable, "-c", WORKER, str(port), str(number)]
    with subprocess.Popen(
        command, env=environment(settings), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_workers_of_folder_share_page(tmp_path: Path) -> None:
    """Any answers with the sum; a killed one keeps its counts, not its gauges."""
    port, done = free_port(), 'tryon_transitions_total{event="completed"}'
    with worker(port, 3, tmp_path / "metrics"), worker(port, 4, tmp_path / "metrics") as second:
        for _ in range(8):  # the kernel picks either
            found = samples(port)
            assert (found[done], found["tryon_running"], found['tryon_processes{role="worker"}']) == (7, 7, 2)
        os.kill(second.pid, signal.SIGKILL)
        second.wait()
        found = samples(port)
        assert (found[done], found["tryon_running"], found['tryon_processes{role="worker"}']) == (7, 3, 1)
        with worker(port, 10, tmp_path / "metrics"):
            found = samples(port)
            assert (found[done], found["tryon_running"], found['tryon_processes{role="worker"}']) == (17, 13, 2)
    names = {path.name.rpartition("_")[2] for path in (tmp_path / "metrics").glob("*.db")}
    assert names == {"slot1.db", "slot2.db"}  # the third one took the place of the second


def test_worker_without_folder_has_port_for_itself(tmp_path: Path) -> None:
    """Two that share a port without sharing counts would answer by turns."""
    port = free_port()
    with worker(port, 3, None):
        assert samples(port)['tryon_transitions_total{event="completed"}'] == 3
        with (
            pytest.raises(ConfigError, match=r"TRYON_WORKER_METRICS_PORT: cannot listen .* PROMETHEUS_MULTIPROC_DIR"),
            metrics_page(Config(worker_metrics_port=port)),
        ):
            pass


def test_page_is_off_by_default() -> None:
    """No port is opened that the settings do not name."""
    with metrics_page(Config()):
        pass
    assert Config().worker_metrics_port is None


def test_page_needs_token_of_private_paths() -> None:
    """The right one as a bearer; other paths do not exist."""
    port = free_port()
    with metrics_page(Config(worker_metrics_port=port, private_paths=TOKEN)):
        refused = read(port)
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert read(port, Authorization="Bearer wrong").status_code == 401
        assert read(port, Authorization=f"Bearer {TOKEN}").status_code == 200
        url = f"http://127.0.0.1:{port}/metrics/../secret"
        assert httpx.get(url, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 404
        assert httpx.post(f"http://127.0.0.1:{port}/metrics").status_code == 501


def test_loopback_page_is_hidden_from_proxies() -> None:
    """A program of this machine reads it for itself alone."""
    port = free_port()
    with metrics_page(Config(host="0.0.0.0", worker_metrics_port=port, private_paths="loopback")):
        assert read(port).status_code == 200
        assert read(port, **{"X-Forwarded-For": "192.0.2.1"}).status_code == 404


async def test_worker_is_alive_while_its_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked by any program; a loop that hangs is not, though its threads answer."""
    monkeypatch.setattr("worker.metrics_page.LOOP_SECONDS", 0.5)
    port = free_port()
    with metrics_page(Config(worker_metrics_port=port, private_paths=TOKEN), asyncio.get_running_loop()):

        def status() -> int:
            return httpx.get(f"http://127.0.0.1:{port}/api/health/live", timeout=30).status_code

        assert await asyncio.to_thread(status) == 200
        assert status() == 503  # asked by the loop itself, which waits for the answer
        assert await asyncio.to_thread(status) == 200


async def test_worker_is_alive_while_redis_is_unavailable(
    config: Callable[..., Config], worker: StartWorker, start_valkey: StartValkey, tmp_path: Path
) -> None:
    """And while its processor loads; a restart would mend neither."""
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(3600)\n")
    valkey, port = start_valkey(), free_port()
    process = await worker(
        config(redis_url=valkey.url, processor="slow:Slow"),
        TRYON_WORKER_METRICS_PORT=str(port),
        PYTHONPATH=str(tmp_path),
    )

    async def probed() -> bool:
        command = [sys.executable, "-m", "server", "probe", "--worker"]
        settings = environment({"TRYON_WORKER_METRICS_PORT": str(port)})
        done = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, env=settings, check=False)
        return done.returncode == 0

    await asyncio.wait_for(until(probed), 60)
    valkey.pause()
    try:
        assert await probed()
    finally:
        valkey.resume()
    os.kill(process.process.pid, signal.SIGSTOP)
    try:
        assert not await probed()
    finally:
        os.kill(process.process.pid, signal.SIGCONT)


def test_silent_clients_leave_room_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a few are closed; those that say nothing end by themselves."""
    port = free_port()
    monkeypatch.setattr("worker.metrics_page._Page.timeout", 0.2)
    with metrics_page(Config(worker_metrics_port=port)):
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for each in silent:
            each.settimeout(30)
            assert each.recv(1) == b""  # closed by the server, at once or after the pause
            each.close()
        assert read(port).status_code == 200


def test_dripping_clients_leave_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has a time, however many of its bytes keep coming."""
    port = free_port()
    monkeypatch.setattr("worker.metrics_page._Page.timeout", 0.5)
    with metrics_page(Config(worker_metrics_port=port)), contextlib.ExitStack() as closing:
        dripping = {closing.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(MAX_AT_ONCE)}
        for each in dripping:
            each.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        for _ in range(400):
            cut, _, _ = select.select(dripping, (), (), 0.05)
            dripping.difference_update(cut)
            for each in dripping:
                with contextlib.suppress(ConnectionError):
                    each.sendall(b"a")
            if not dripping:
                break
        assert not dripping
        assert read(port).status_code == 200


def test_port_in_use_is_one_line() -> None:
    """The start ends with the setting's name."""
    taken = reserved_port()
    taken.listen()
    with (
        taken,
        pytest.raises(ConfigError, match="TRYON_WORKER_METRICS_PORT: cannot listen on port"),
        metrics_page(Config(worker_metrics_port=taken.getsockname()[1])),
    ):
        pass
