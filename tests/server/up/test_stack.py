"""`tryon up` as a person runs it: real processes, signals, and no remains."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from testkit.fixtures import StartStack
from testkit.processes import START_SECONDS, free_port
from testkit.stack import Stack

RESTART_SECONDS = 15.0  # 1.5 on an idle machine; 5 promised for a killed child
STOP_SECONDS = 20.0  # 2 on an idle machine; 10 promised for Ctrl-C and SIGTERM


def children(stack: Stack) -> dict[str, psutil.Process]:
    """Return the stack's child processes by their kind."""
    marks = {"web": "--reuse-port", "worker": "arq worker.Settings", "valkey": "valkey-server"}
    found = {}
    for process in psutil.Process(stack.process.pid).children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            line = " ".join(process.cmdline())
            found[next((kind for kind, mark in marks.items() if mark in line), line)] = process
    return found


async def ended(processes: list[psutil.Process], seconds: float) -> None:
    """Wait until every process is gone."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, seconds)
    assert not alive


def open_to_others(folder: Path) -> list[Path]:
    """Return what another user could open, of a folder and everything in it."""
    return [path for path in (folder, *folder.rglob("*")) if path.lstat().st_mode & 0o077]


@pytest.mark.sqlite
async def test_one_command_starts_everything(stack: StartStack) -> None:
    """Start Valkey, web and worker by one command, which prints the address."""
    up = await stack()
    assert set(children(up)) == {"web", "worker", "valkey"}
    assert [line for line in up.lines if "ready" in line] == [f"TryOn Push is ready at {up.url}  (Ctrl-C stops it)"]
    async with httpx.AsyncClient(base_url=up.url) as client:
        health = (await client.get("/api/health")).json()
    assert health["checks"]["workers"]["count"] == 1
    assert health["status"] in ("ok", "degraded")  # the first probe of Redis may still be under way
    assert (up.data_dir / "tryon.sqlite3").exists()
    assert (up.data_dir / "valkey.address").read_text().startswith("unix:///")
    assert up.data_dir.stat().st_mode & 0o777 == 0o700


async def test_ready_stack_has_said_one_line(stack: StartStack) -> None:
    """Neither its own probes nor the starts of its programs are shown."""
    up = await stack()
    assert up.output.splitlines() == [f"TryOn Push is ready at {up.url}  (Ctrl-C stops it)"]


async def test_photo_goes_through_the_stack(stack: StartStack, photos: Path) -> None:
    """Turn an upload into a picture, as a polling client sees it."""
    up = await stack()
    async with httpx.AsyncClient(base_url=up.url) as client:
        made = await client.post("/api/tryon/sessions", files={"image": (photos / "photo.jpg").read_bytes()})
        assert made.status_code == 201, made.text
        session, token = made.json(), {"Authorization": f"Bearer {made.json()['client_token']}"}
        async with asyncio.timeout(20):
            while not session["terminal"]:
                await asyncio.sleep(0.05)  # as a polling client does
                session = (await client.get(made.headers["Location"], headers=token)).json()
        assert session["status"] == "completed"
        output = await client.get(session["links"]["output"])
    assert output.headers["Content-Type"] == "image/jpeg"
    assert output.content.startswith(b"\xff\xd8\xff")
    socket_path = Path((up.data_dir / "valkey.address").read_text().strip().removeprefix("unix://"))
    assert open_to_others(up.data_dir) == []
    assert open_to_others(socket_path.parent) == []


@pytest.mark.slow
async def test_web_processes_share_the_port(stack: StartStack) -> None:
    """Run several web and worker processes behind one port."""
    up = await stack(TRYON_WEB_PROCESSES="2", TRYON_WORKER_PROCESSES="2")
    lines = [" ".join(process.cmdline()) for process in psutil.Process(up.process.pid).children()]
    assert sum("--reuse-port" in line for line in lines) == 2
    assert sum("arq worker.Settings" in line for line in lines) == 2


async def test_metrics_add_up_over_processes(stack: StartStack, photos: Path) -> None:
    """Answer with the sums over all web and worker processes."""
    up = await stack(TRYON_WEB_PROCESSES="2", TRYON_MOCK_SECONDS="0", TRYON_MOCK_FAILURE_RATE="0")

    async def counted(name: str) -> float:
        async with httpx.AsyncClient(base_url=up.url) as client:
            lines = (await client.get("/metrics")).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    for _ in range(30):  # each on a connection of its own: the kernel deals them out to both
        async with httpx.AsyncClient(base_url=up.url) as client:
            assert (await client.get("/api/docs")).status_code == 200
    asked = 'tryon_http_requests_total{method="GET",route="/api/docs",status="200"}'
    async with asyncio.timeout(20):  # a request is counted after its answer was sent
        while await counted(asked) < 30:
            await asyncio.sleep(0.05)
    assert await counted(asked) == 30
    async with httpx.AsyncClient(base_url=up.url) as client:
        made = await client.post("/api/tryon/sessions", files={"image": (photos / "photo.jpg").read_bytes()})
        assert made.status_code == 201
    async with asyncio.timeout(20):  # what the worker counts is there too
        while not await counted('tryon_transitions_total{event="completed"}'):
            await asyncio.sleep(0.05)  # as a scraper does, only more often
    async with asyncio.timeout(20):
        while await counted("tryon_bus_up") != 2:
            await asyncio.sleep(0.05)


async def test_configured_redis_replaces_embedded_one(stack: StartStack, redis_url: str) -> None:
    """Start no Valkey when a Redis is configured."""
    up = await stack(TRYON_REDIS_URL=redis_url)
    assert set(children(up)) == {"web", "worker"}
    assert not (up.data_dir / "valkey.address").exists()


async def test_second_stack_on_folder_is_refused(stack: StartStack) -> None:
    """Refuse a data folder that another stack uses, and name its process."""
    first = await stack()
    second = await stack(ready=False, TRYON_DATA_DIR=str(first.data_dir))
    assert await second.wait() == 2
    assert second.lines == []
    (line,) = second.errors
    assert f"another `tryon up` (process {first.process.pid}) runs on {first.data_dir}" in line


@pytest.mark.parametrize("command", ["up", "serve"])
async def test_taken_port_is_reported_in_one_line(stack: StartStack, command: str) -> None:
    """Name the setting and the address of a port in use."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = await stack(command, ready=False, TRYON_PORT=str(port), TRYON_REDIS_URL="unix:///nowhere")
        assert await refused.wait() == 2
        (line,) = refused.errors
        assert "TRYON_PORT" in line
        assert f"127.0.0.1:{port}" in line


@pytest.mark.parametrize("command", ["up", "serve", "worker", "migrate"])
@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("TRYON_PORT", "eighty", "TRYON_PORT: must be a number (found 'eighty')"),
        ("TRYON_PROT", "80", "TRYON_PROT is not a setting; did you mean TRYON_PORT?"),
        (
            "TRYON_SECRET_KEY",
            "",
            "TRYON_SECRET_KEY: each key needs at least 32 bytes; `openssl rand -base64 48` makes one (found its value)",
        ),
    ],
)
async def test_wrong_setting_is_reported_in_one_line(
    stack: StartStack, command: str, name: str, value: str, line: str
) -> None:
    """Report the same line from every command."""
    setting: dict[str, Any] = {name: value}
    refused = await stack(command, ready=False, **setting)
    assert await refused.wait() == 2
    assert refused.errors == [f"tryon: {line}"]


async def test_stack_becomes_ready_under_its_names_only(stack: StartStack) -> None:
    """The probe that waits for it asks for a name that is served."""
    running = await stack(TRYON_HOSTS="shop.example")
    async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
        assert (await client.get("/api/health")).status_code == 421
        assert (await client.get("/api/health", headers={"Host": "shop.example"})).status_code == 200


async def test_foreign_host_is_reported_in_one_line(stack: StartStack) -> None:
    """Name the setting of an address that is not of this machine."""
    refused = await stack(ready=False, TRYON_HOST="192.0.2.1")
    assert await refused.wait() == 2
    (line,) = refused.errors
    assert "TRYON_HOST" in line


async def test_settings_are_read_from_dotenv(stack: StartStack, tmp_path: Path) -> None:
    """Read the file `.env` of the working directory."""
    (tmp_path / ".env").write_text("TRYON_WEB_PROCESSES=many\n")
    refused = await stack(ready=False, folder=tmp_path)
    assert await refused.wait() == 2
    assert refused.errors == ["tryon: TRYON_WEB_PROCESSES: must be a number (found 'many')"]


async def test_unusable_database_ends_the_start(stack: StartStack) -> None:
    """One line with the reason, and no traceback."""
    refused = await stack(ready=False, TRYON_DATABASE_URL="postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    assert await refused.wait() == 2
    assert refused.lines == []
    [line] = refused.errors
    assert line.startswith("tryon: TRYON_DATABASE_URL: the database cannot be used: ")


async def test_valkey_that_cannot_start_is_explained(stack: StartStack, tmp_path: Path) -> None:
    """By the last line of its log, which a person would not look for."""
    folder = tmp_path / "data/valkey"
    folder.mkdir(parents=True)
    (folder / "appendonlydir").touch()
    refused = await stack(ready=False, TRYON_DATA_DIR=str(tmp_path / "data"))
    assert await refused.wait() == 2
    words = "Can't open or create append-only dir appendonlydir: Not a directory"
    assert refused.errors == [f"tryon: Valkey cannot start: it ended with status 1 ({folder}/valkey.log: {words})"]


async def test_unknown_processor_ends_the_start(stack: StartStack) -> None:
    """Name the setting in one line, and clean up."""
    refused = await stack(ready=False, TRYON_PROCESSOR="no.such.module:Processor")
    assert await refused.wait() == 2
    assert refused.lines == []
    assert refused.errors == [
        "tryon: TRYON_PROCESSOR: 'no.such.module:Processor' cannot be loaded (ModuleNotFoundError: No module named 'no')"
    ]
    assert not (refused.data_dir / "valkey.address").exists()


@pytest.mark.parametrize("kind", ["web", "worker", "valkey"])
async def test_killed_program_comes_back(stack: StartStack, kind: str) -> None:
    """Start a killed program again within the promised time."""
    up = await stack()
    killed = children(up)[kind]
    killed.kill()
    name = {"web": "web 1", "worker": "worker 1", "valkey": "Valkey"}[kind]
    await up.line(f"{name} was killed by SIGKILL; starting it again")
    async with asyncio.timeout(RESTART_SECONDS), httpx.AsyncClient(base_url=up.url) as client:
        while True:
            back = children(up).get(kind)
            if back is not None and back.pid != killed.pid:
                try:
                    health = (await client.get("/api/health")).json()
                except httpx.TransportError:
                    continue
                if all(check["status"] == "ok" for check in health["checks"].values()):
                    break
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_killed_web_process_keeps_its_counters(stack: StartStack) -> None:
    """Count on after a kill -9, in the same files: nothing steps back or grows."""
    up = await stack()
    folder = up.data_dir / "metrics"
    files = sorted(file.name for file in folder.iterdir())
    assert len(files) == 6  # counters, gauges and histograms of a web process and a worker
    counted = 'tryon_http_requests_total{method="GET",route="/api/docs",status="200"}'
    for asked in (1, 2):
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    async with httpx.AsyncClient(base_url=up.url) as client:
                        assert (await client.get("/api/docs")).status_code == 200
                        lines: list[str] = []
                        while not {f"{counted} {asked}.0", "tryon_bus_up 1.0"} <= set(lines):
                            lines = (await client.get("/metrics")).text.splitlines()
                    break
                except httpx.TransportError:  # not back yet
                    await asyncio.sleep(0.02)
        assert sorted(file.name for file in folder.iterdir()) == files
        if asked == 1:
            killed = children(up)["web"]
            killed.kill()
            await ended([killed], RESTART_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_stops_everything(stack: StartStack, number: signal.Signals) -> None:
    """Stop on SIGINT and SIGTERM without a killed program or a traceback."""
    up = await stack()
    running = list(children(up).values())
    socket_path = Path((up.data_dir / "valkey.address").read_text().strip().removeprefix("unix://"))
    assert await up.stop(number, seconds=STOP_SECONDS) == 0
    assert not any(process.is_running() for process in running)
    assert not socket_path.parent.exists()
    assert not (up.data_dir / "valkey.address").exists()
    assert not any("Traceback" in line for line in up.errors), up.output
    assert not any("killing it" in line for line in up.errors), up.output


async def test_programs_stop_in_order(stack: StartStack) -> None:
    """Stop the web before the workers, and the workers before Valkey."""
    up = await stack()
    family = children(up)

    def gone(kind: str) -> bool:
        try:
            return family[kind].status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    up.process.send_signal(signal.SIGTERM)
    while not gone("valkey"):
        if gone("worker"):  # the later one is looked at first: what is seen after it happened before it
            assert gone("web")
        await asyncio.sleep(0.002)
    assert gone("worker")
    assert await up.wait(STOP_SECONDS) == 0


@pytest.mark.slow
async def test_hanging_program_is_killed(stack: StartStack) -> None:
    """Kill a program that does not stop in its time."""
    up = await stack(TRYON_DRAIN_SECONDS="0.2")
    family = children(up)
    family["worker"].suspend()
    assert await up.stop(seconds=STOP_SECONDS) == 0
    assert "tryon: worker 1 did not stop within 1.7 s; killing it" in up.errors
    assert not any(process.is_running() for process in family.values())


async def test_second_signal_stops_at_once(stack: StartStack) -> None:
    """Kill every program on a second Ctrl-C."""
    up = await stack(TRYON_DRAIN_SECONDS="3600")
    family = children(up)
    family["worker"].suspend()
    up.process.send_signal(signal.SIGINT)
    await ended([family["web"]], STOP_SECONDS)
    assert await up.stop(signal.SIGINT, seconds=STOP_SECONDS) == 0
    assert not any(process.is_running() for process in family.values())


async def test_ctrl_c_reaches_parent_alone(stack: StartStack) -> None:
    """Keep the children out of the process group that a terminal sends SIGINT to."""
    up = await stack()
    os.killpg(up.process.pid, signal.SIGINT)
    assert await up.wait(STOP_SECONDS) == 0
    assert not any("starting it again" in line for line in up.errors), up.output
    assert not any("Traceback" in line for line in up.errors), up.output


async def test_signal_during_start_stops_it(stack: StartStack) -> None:
    """Stop on a signal that comes before the stack is ready."""
    up = await stack(ready=False)
    while not (up.data_dir / "tryon.lock").exists() or "valkey" not in children(up):
        await asyncio.sleep(0.01)
    running = list(children(up).values())
    assert await up.stop(seconds=STOP_SECONDS) == 0
    assert not any(process.is_running() for process in running)


@pytest.mark.slow
@pytest.mark.skipif("sys.platform != 'linux'", reason="needs PR_SET_PDEATHSIG")
async def test_killed_stack_leaves_no_orphan(stack: StartStack) -> None:
    """End every program with a killed stack, and start again on its folder."""
    up = await stack()
    family = psutil.Process(up.process.pid).children(recursive=True)
    up.process.kill()
    await ended(family, STOP_SECONDS)
    again = await stack(TRYON_DATA_DIR=str(up.data_dir))  # and nothing it left behind is in the way
    assert await again.stop(seconds=STOP_SECONDS) == 0


@pytest.mark.slow
async def test_valkey_data_survives_restart(stack: StartStack) -> None:
    """Keep the embedded Valkey's data, but no file that it did not finish."""
    from redis.asyncio import Redis

    first = await stack()
    async with Redis.from_url((first.data_dir / "valkey.address").read_text().strip()) as client:
        await client.set("tryon:kept", "yes")
    await first.stop()
    unfinished = first.data_dir / "valkey" / "temp-rewriteaof-bg-1.aof"
    unfinished.touch()
    second = await stack(TRYON_DATA_DIR=str(first.data_dir))
    assert not unfinished.exists()
    async with Redis.from_url((second.data_dir / "valkey.address").read_text().strip()) as client:
        assert await client.get("tryon:kept") == b"yes"


async def test_parts_run_alone(stack: StartStack, redis_url: str, tmp_path: Path) -> None:
    """Run migrate, serve and worker each by itself."""
    port = free_port()
    env: dict[str, Any] = {
        "TRYON_REDIS_URL": redis_url,
        "TRYON_DATA_DIR": str(tmp_path / "parts"),
        "TRYON_PORT": str(port),
    }
    migrated = await stack("migrate", ready=False, **env)
    assert await migrated.wait() == 0
    serving = await stack("serve", ready=False, **env)
    working = await stack("worker", ready=False, **env)
    await serving.line("Listening on")
    async with asyncio.timeout(20), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        while (await client.get("/api/health")).json()["checks"]["workers"].get("count") != 1:
            await asyncio.sleep(0.05)
    assert await serving.stop() in (0, -signal.SIGTERM)  # uvicorn ends by the signal that stopped it
    assert await working.stop() == 0
    assert open_to_others(tmp_path / "parts") == []
