"""docs/deploying.md: its files are accepted, its commands run in their order."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from server.config.settings import Config
from testkit.documents import marked, text_of
from testkit.fixtures import StartStack, StartValkey
from testkit.photos import small
from testkit.plugin import missing
from testkit.processes import ROOT, environment, free_port, run_program

PAGE: Final = "docs/deploying.md"
FILES: Final = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text_of(PAGE), re.DOTALL))
BLOCKS: Final = {name: block for kind, name, block in marked(PAGE) if kind == "run"}
SECRET: Final = "tests-tests-tests-tests-tests-tests"
SECONDS: Final = 150


@dataclass
class Shell:
    """One shell of an operator; what it started ends with it."""

    process: asyncio.subprocess.Process
    edits: Mapping[str, str]

    async def types(self, block: str) -> str:
        """Return what the block prints. Raises AssertionError if a command fails."""
        for page, here in self.edits.items():
            block = block.replace(page, here)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{block}\necho '--- typed'\n".encode())
        seen = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                async for line in self.process.stdout:
                    if line.endswith(b"--- typed\n"):  # an answer of curl ends without a newline
                        return seen
                    seen += line.decode()
        raise AssertionError(f"{block}\n{seen}")


@contextlib.asynccontextmanager
async def shell(folder: Path, **edits: str) -> AsyncIterator[Shell]:
    """Open a shell in the folder; ``edits``: what the page has, and what is typed."""
    settings = {"XDG_CONFIG_HOME": str(folder / "config")}
    process = await asyncio.create_subprocess_exec(
        "bash",
        cwd=folder,
        env={name: text for name, text in environment(settings).items() if name != "PYTHONPATH"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b"trap 'kill $(cat *.pid) 2>/dev/null' EXIT; exec 2>&1; set -eu\n")
    try:
        yield Shell(process, edits)
    finally:
        process.stdin.close()
        await process.wait()


def test_settings_files_of_page_are_accepted(tmp_path: Path) -> None:
    """Both examples of `.env` load."""
    for name, edits in (("one/.env", {}), (".env", {"at-least-32-characters-the-same-everywhere": SECRET})):
        text = FILES[name]
        for page, here in edits.items():
            text = text.replace(page, here)
        (tmp_path / "env").write_text(text)
        config = Config.load({}, env_file=tmp_path / "env")
        assert len(config.trusted_proxies) == 1, name
    assert (config.host, config.data_dir) == ("0.0.0.0", Path("/srv/tryon"))


def test_unit_of_page_is_accepted_by_systemd(tmp_path: Path) -> None:
    """No unknown key and no malformed value."""
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze (Debian: apt-get install systemd)")
    program = tmp_path / "tryon"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = FILES["tryon.service"].replace("User=tryon", "User=root")
    (tmp_path / "tryon.service").write_text(unit.replace("/srv/tryon/.venv/bin/tryon", str(program)))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "tryon.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in checked.stderr.splitlines() if "tryon.service" in line] == []


def test_page_has_the_commands_of_every_part() -> None:
    """The tests below would pass on a page without them."""
    names = ["install", "secret", "migrate", "begin", "ready", "worker", "restart", "backup", "restore", "dump"]
    assert list(BLOCKS) == names
    assert "ExecStart=/srv/tryon/.venv/bin/tryon up\n" in FILES["tryon.service"]


@pytest.mark.slow
@pytest.mark.timeout(540)
async def test_commands_of_several_machines_run_in_their_order(
    start_valkey: StartValkey, empty_postgres_url: str, tmp_path: Path
) -> None:
    """Install, configure, start and replace every process, while a client follows."""
    ports = free_port(), free_port()
    folder = tmp_path / "tryon"
    assert (await run_program("git", "clone", "--quiet", str(ROOT), str(folder), seconds=60))[0] == 0
    (folder / "me.jpg").write_bytes(small())
    database = empty_postgres_url.replace("postgresql+asyncpg", "postgresql")
    async with shell(folder, **{"8000": str(ports[0]), "8001": str(ports[1])}) as operator:
        await operator.types(BLOCKS["install"])
        secret = (await operator.types(BLOCKS["secret"])).strip()
        edits = {
            "postgresql://tryon:secret@db.internal/tryon": database,
            "rediss://:secret@redis.internal:6379/0": start_valkey(tcp=True).tcp_url,
            "=/srv/tryon\n": f"={folder}/data\n",
            "at-least-32-characters-the-same-everywhere": secret,
            "HOST=0.0.0.0": "HOST=127.0.0.1",
            "=shop.example\n": "=shop.example,127.0.0.1\n",
        }
        text = FILES[".env"]
        for page, here in edits.items():
            assert page in text, page
            text = text.replace(page, here)
        (folder / ".env").write_text(text + "TRYON_MOCK_SECONDS=8\nTRYON_MOCK_FAILURE_RATE=0\n")

        assert re.search(r"^ok +database ", await operator.types(BLOCKS["migrate"]), re.MULTILINE)
        await operator.types(BLOCKS["begin"])
        await operator.types(BLOCKS["ready"])
        available = f"until curl -sf http://127.0.0.1:{ports[0]}/api/tryon/processor >/dev/null; do sleep 0.1; done"
        await operator.types(available)
        submit = f".venv/bin/tryon submit me.jpg --server http://127.0.0.1:{ports[1]} --watch -o out.jpg"
        await operator.types(f"{submit} >client.log 2>&1 & client=$!")
        await operator.types("until grep -q waiting client.log || grep -q reading client.log; do sleep 0.1; done")
        await operator.types(BLOCKS["worker"])
        await operator.types(BLOCKS["restart"])
        await operator.types("wait $client || { cat client.log; false; }")
        assert (folder / "out.jpg").read_bytes()[:2] == b"\xff\xd8"

        if await is_new_enough(await operator.types("pg_dump --version"), database):
            await operator.types(f"export TRYON_DATABASE_URL='{database}'\n{BLOCKS['dump']}")
            assert (folder / "tryon.dump").read_bytes()[:5] == b"PGDMP"


async def is_new_enough(version: str, database: str) -> bool:
    """Return whether this pg_dump takes the server: not if it is older."""
    connection = await asyncpg.connect(database)
    try:
        newest: int = connection.get_server_version().major
    finally:
        await connection.close()
    (major,) = re.findall(r"^pg_dump \D*(\d+)", version)
    return int(major) >= newest


@pytest.mark.slow
async def test_backup_of_page_brings_sessions_back(stack: StartStack, tmp_path: Path) -> None:
    """A session of the backup can be read after the folder was lost."""
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "me.jpg").write_bytes(small())
    product = await stack(folder=folder)
    python = f"PYTHONPATH={ROOT} {sys.executable}"
    async with shell(folder, **{".venv/bin/tryon": f"{python} -m server"}) as operator:
        here = "--token-file token --server"
        out = await operator.types(f".venv/bin/tryon submit me.jpg {here} {product.url} --watch -o out.jpg")
        (session_id,) = re.findall(r"^[0-9a-f-]{36}$", out, re.MULTILINE)
        await operator.types(BLOCKS["backup"])
        await product.stop()
        await operator.types(BLOCKS["restore"])
        again = await stack(folder=folder)
        shown = await operator.types(f".venv/bin/tryon watch {session_id} {here} {again.url} -o again.jpg")
        assert "Completed" in shown
    assert (folder / "again.jpg").read_bytes() == (folder / "out.jpg").read_bytes()
