"""The sandbox of a processor, in a real child of a real pool."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from server.config.settings import Config
from server.config.storage_url import parse_storage_url
from server.system.sandbox import Policy, Sandbox
from testkit.processes import ROOT
from tests.server.system.attempts import need_layers, open_target, reached_without_sandbox
from tests.worker.isolation.sessions import LINUX, Start, run
from tryon.processor import Needs, needs_of
from worker.isolation.confinement import code_paths, hidden_paths
from worker.isolation.pool import ProcessPool

NEEDY = "tests.worker.needy:Needy"
REFUSED = ["PermissionError"] * 2
"""Outcome of an action, on the event loop and in a thread."""


@pytest.fixture
def layers() -> None:
    need_layers(Sandbox(Policy(programs=True, own_user=False)))


async def outcomes(pool: ProcessPool, *actions: tuple[str, Any]) -> Any:
    return json.loads(await run(pool, "", actions=actions))


@LINUX
async def test_processor_reaches_nothing(start: Start, tmp_path: Path, layers: None) -> None:
    """A processor that was taken over fails in everything that succeeds elsewhere."""
    pool = await start(data_dir=tmp_path / "product")
    with open_target(tmp_path) as target:
        assert set(reached_without_sandbox(target).values()) == {"reached"}
        for pid in (target.pid, os.getpid()):
            assert await run(pool, "attempt", target=dataclasses.replace(target, pid=pid).dump()) == "nothing"


@LINUX
async def test_processor_reads_only_what_it_declares(start: Start, tmp_path: Path, layers: None) -> None:
    """After `start()` it reads its code and `reads`, in every thread of `to_thread`."""
    (models := tmp_path / "models").mkdir()
    weights, other = models / "weights", models / "other"
    for path in (weights, other):
        path.write_text(path.name)
    pool = await start(processor=NEEDY, options={"reads": str(weights), "first": str(other)})
    assert await outcomes(pool, ("read", str(weights))) == ["weights"] * 2
    assert await outcomes(pool, ("read", str(other)), ("write", str(weights))) == REFUSED * 2
    assert await outcomes(pool, ("read", "/etc/shadow"), ("read", f"/proc/{os.getpid()}/environ")) == REFUSED * 2
    assert await outcomes(pool, ("import", "tests.worker.faulty"), ("import", "wave")) == [
        *["tests.worker.faulty"] * 2,
        *["wave"] * 2,
    ]
    assert (models / "downloaded").read_text() == "weights"


@LINUX
async def test_start_cannot_read_data_folder(start: Start, tmp_path: Path, layers: None) -> None:
    """The product's files are closed before the processor is made."""
    (tmp_path / "product").mkdir()
    (tmp_path / "product/secret.key").write_text("hush")
    failures: list[Exception] = []
    failed = asyncio.Event()

    def note(error: Exception) -> None:
        failures.append(error)
        failed.set()

    options = {"first": str(tmp_path / "product/secret.key")}
    await start(processor=NEEDY, data_dir=tmp_path / "product", options=options, on_start_error=note)
    await asyncio.wait_for(failed.wait(), 60)
    assert "PermissionError" in str(failures[0])


@LINUX
async def test_file_beside_data_folder_is_read_if_its_class_says_so(start: Start, layers: None) -> None:
    """Close the others: a rule would keep the blocks of one that is deleted."""
    pool = await start(processor=f"{NEEDY}OfProject", data_dir=ROOT / "absent")
    [first, second] = await outcomes(pool, ("read", str(ROOT / "pyproject.toml")))
    assert first == second == (ROOT / "pyproject.toml").read_text()
    assert await outcomes(pool, ("read", str(ROOT / "README.md"))) == REFUSED


@LINUX
@pytest.mark.parametrize(("needs_network", "outcome"), [(False, REFUSED), (True, [None] * 2)])
async def test_processor_connects_only_if_it_declares_so(
    start: Start, layers: None, needs_network: bool, outcome: list[str | None]
) -> None:
    """Without `needs_network` there is no socket of the internet."""
    pool = await start(processor=NEEDY, options={"needs_network": needs_network})
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert await outcomes(pool, ("connect", server.getsockname()[1])) == outcome


async def test_temporary_folder_ends_with_child(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child writes in a folder of its own; nothing of it outlives the child."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pool = await start(processor=NEEDY)
    written, _ = await outcomes(pool, ("temporary", "a photo"))
    assert Path(written).is_relative_to(tmp_path)
    assert Path(written).read_text() == "a photo"
    assert Path(written).parent.stat().st_mode & 0o777 == 0o700
    [pid] = pool.pids
    os.kill(pid, 9)
    async with asyncio.timeout(60):
        while Path(written).parent.exists():
            await asyncio.sleep(0.01)
    await outcomes(pool, ("temporary", "another"))
    await pool.close()
    assert list(tmp_path.iterdir()) == []


def test_code_of_working_directory_is_its_loaded_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that holds more than code shows packages alone; a library all."""
    app, library = tmp_path / "app", tmp_path / "library"
    for package in (app / "model", library / "torch"):
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
    monkeypatch.chdir(app)
    model, single = ModuleType("model"), ModuleType("single")
    model.__file__, single.__file__ = str(app / "model/__init__.py"), str(app / "single.py")
    found = code_paths({"model": model, "single": single}, ["", str(library)], [tmp_path / "elsewhere/data"])
    assert {app / "model", app / "single.py", library, Path(sys.prefix).resolve()} <= set(found)
    assert not {app, tmp_path, Path("/")} & set(found)
    above = code_paths({"model": model}, [str(app), str(library)], [library / "data"])
    assert library not in above


def test_hidden_paths_include_database(tmp_path: Path) -> None:
    """An SQLite file outside the data folder is hidden, and what lies beside it."""
    config = Config(data_dir=tmp_path / "data", database_url=f"sqlite+aiosqlite:///{tmp_path}/its.db")
    assert {str(tmp_path / each) for each in ("data", "its.db", "its.db-wal")} <= set(hidden_paths(config))


def test_hidden_paths_include_files_of_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of a bucket lead to them, and Redis's URL does."""
    for name in ("account.json", "client.key"):
        (tmp_path / name).write_text("secret")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    config = Config(
        data_dir=tmp_path / "data",
        storage_url=parse_storage_url("gs://photos"),
        redis_url=f"rediss://redis:6379/0?ssl_certfile={tmp_path}/client.pem&ssl_keyfile={tmp_path}/client.key",
    )
    assert {str(tmp_path / "account.json"), str(tmp_path / "client.key")} <= set(hidden_paths(config))


def test_needs_are_attributes() -> None:
    """Attributes say what a processor needs; none means nothing."""

    class Model:
        needs_gpu = True
        reads = ("~/weights", Path("/models"))

    assert needs_of(object()) == Needs()
    expected = (os.path.expanduser("~/weights"), "/models")
    assert needs_of(Model()) == Needs(needs_gpu=True, reads=expected)


@pytest.mark.parametrize(("name", "value"), [("reads", "/models"), ("reads", (1,)), ("needs_gpu", "no")])
def test_malformed_need_is_refused(name: str, value: object) -> None:
    """A need of the wrong type is a TypeError that names it."""
    with pytest.raises(TypeError, match=name):
        needs_of(type("Model", (), {name: value})())
