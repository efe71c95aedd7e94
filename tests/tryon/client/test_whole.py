"""The client from outside: alone in its environment, with and without ``await``."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import pytest

from testkit.documents import ADDRESS, text_of
from testkit.fixtures import StartStack
from testkit.photos import small
from testkit.processes import ROOT
from tryon.client.problems import NotCompleted, Problem
from tryon.client.sync import TryOn

PAGE: Final = "docs/python-client.md"
PYTHON: Final = re.compile(r"```python\n(.*?)```", re.DOTALL)
FOLDER: Final = ROOT / "packaging" / "client"
PROJECT: Final = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
REQUIREMENT: Final = re.compile(r"([\w.-]+)(?:\[[\w,]+\])?[^;]*(?:;(.*))?")


def closure(requirements: list[str]) -> set[str]:
    """Return the distributions that a list of requirements installs, without extras."""
    found: set[str] = set()
    for requirement in requirements:
        name, marker = REQUIREMENT.fullmatch(requirement).groups()  # type: ignore[union-attr]
        old_python = re.search(r"python_version < ['\"]3\.(\d+)", marker or "")
        if "extra" in (marker or "") or (old_python and sys.version_info[1] >= int(old_python[1])):
            continue
        found |= {name} | closure(distribution(name).requires or [])
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the client's wheel and its dependencies alone."""
    folder = tmp_path_factory.mktemp("alone")
    wheels, site = folder / "wheels", folder / "site"
    site.mkdir()
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*build, "--wheel-dir", str(wheels), str(FOLDER)], check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in closure(PROJECT["dependencies"]):
        for file in distribution(name).files or []:
            top = file.parts[0]
            if top != ".." and not (site / top).exists():
                (site / top).symlink_to(str(distribution(name).locate_file(top)))
    return site


async def run_alone(site: Path, code: str, folder: Path) -> str:
    """Return the output of a program that finds ``site`` and the stdlib only."""
    start = f"import sys; sys.path.insert(0, {str(site)!r})\n"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", start + code),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


def test_wheel_holds_the_public_package_alone(alone: Path) -> None:
    """Build without a network, and pack ``tryon/`` and nothing of the server."""
    tops = {path.name for path in alone.iterdir() if not path.is_symlink()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tryon"}
    assert (alone / "tryon" / "py.typed").exists()
    assert not list(alone.glob("tryon/**/*.pyc"))


def test_dependencies_match_the_servers() -> None:
    """Keep the bounds of both distributions the same."""
    server = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(PROJECT["dependencies"]) <= set(server["dependencies"])
    assert PROJECT["requires-python"] == server["requires-python"]


async def test_import_needs_the_clients_dependencies_alone(alone: Path, tmp_path: Path) -> None:
    """Import the client where nothing of the server is installed."""
    assert await run_alone(alone, "from tryon import AsyncTryOn, TryOn; print(AsyncTryOn)", tmp_path)
    with pytest.raises(AssertionError, match="No module named 'starlette'"):
        await run_alone(alone, "import starlette", tmp_path)


@pytest.mark.slow
async def test_every_example_of_the_guide_runs(alone: Path, stack: StartStack, tmp_path: Path) -> None:
    """Run each block of the guide as it stands, in the client's own environment."""
    url = (await stack()).url
    examples = PYTHON.findall(text_of(PAGE))
    assert len(examples) >= 4
    assert len([line for line in examples[0].splitlines() if line]) <= 10
    for number, example in enumerate(examples):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "photo.jpg").write_bytes(small())
        out = await run_alone(alone, example.replace(ADDRESS, url), folder)
        assert "completed" in out
        assert (folder / "result.jpg").read_bytes()[:2] == b"\xff\xd8"


async def test_sync_client_does_everything(stack: StartStack) -> None:
    """Upload, follow, download, list, retry and delete without ``await``."""
    url = (await stack()).url

    def use() -> None:
        with TryOn(url, trust_env=False) as tryon:
            session = tryon.upload(small(), params={"a": 1}, idempotency_key="once")
            updates = list(tryon.follow(session))
            assert [update.event.seq for update in updates if update.event] == [1, 2, 3]
            assert any(update.progress for update in updates)
            assert tryon.wait(session.session_id).status == "completed"
            assert tryon.result(session)[:2] == b"\xff\xd8"
            assert tryon.download(tryon.get(session).links.input)
            assert tryon.url("/a") == f"{url}/a"
            assert [each.session_id for each in tryon.list().sessions] == [session.session_id]
            assert len(tryon.history(session).events) == 3
            assert tryon.cancel(session).status == "completed"
            with pytest.raises(Problem, match="not_finished"):
                tryon.retry(session)
            assert tryon.delete(session).session_id == session.session_id
            with pytest.raises(Problem, match="not_found"):
                list(tryon.follow(session.session_id))
            assert tryon.token not in repr(tryon)

    await asyncio.to_thread(use)


@pytest.mark.slow
async def test_sync_follower_may_be_left_open(stack: StartStack) -> None:
    """End the thread with a follower that was not read to its end."""
    url = (await stack(TRYON_MOCK_SECONDS="30")).url

    def use() -> None:
        tryon = TryOn(url, trust_env=False)
        updates = tryon.follow(tryon.upload(small()))
        assert next(updates).seq == 1
        tryon.close()
        tryon.close()
        del updates

    await asyncio.to_thread(use)


async def test_failed_session_has_no_result(stack: StartStack) -> None:
    """Raise the session's own error where there is no picture."""
    url = (await stack(TRYON_MOCK_FAILURE_RATE="1")).url

    def use() -> None:
        with TryOn(url, trust_env=False) as tryon, pytest.raises(NotCompleted) as ended:
            tryon.result(tryon.upload(small()))
        assert (ended.value.code, ended.value.session.status) == ("mock_failure", "failed")
        assert ended.value.retryable

    await asyncio.to_thread(use)
