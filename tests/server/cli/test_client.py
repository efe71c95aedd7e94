"""The commands of a client, as their users type them."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from server.config.settings import Config
from testkit.fixtures import StartStack
from testkit.photos import small
from testkit.processes import environment, free_port
from testkit.running import Web, running_web, until

MakeConfig = Callable[..., Config]
SECONDS = 60
CONFUSING = {"TRYON_NO_SUCH_SETTING": "1", "TRYON_PORT": "not a port", "TRYON_PROCESSOR": "none"}
"""Settings that would stop a server, and are no business of a client."""


class Typist:
    """A user in a folder, with a configuration of their own."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder = folder
        self.server = server
        self.environment = environment({"XDG_CONFIG_HOME": str(folder / "config"), "COLUMNS": "80", **CONFUSING})
        (folder / "me.jpg").write_bytes(small())
        (folder / "shirt.png").write_bytes(small())

    async def start(
        self, *words: str, out: int = asyncio.subprocess.PIPE, err: int = asyncio.subprocess.PIPE, server: bool = True
    ) -> asyncio.subprocess.Process:
        """Start ``tryon WORDS --server …``."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", *words, *(("--server", self.server) if server else ())),
            cwd=self.folder,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )

    async def types(self, *words: str) -> tuple[int | None, str, str]:
        """Return the exit status and both outputs of ``tryon WORDS --server …``."""
        process = await self.start(*words)
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    async def gets(self, *words: str) -> str:
        """Return the standard output of a command that has to succeed."""
        status, out, err = await self.types(*words)
        assert status == 0, out + err
        return out


@pytest.fixture
async def web(config: MakeConfig) -> AsyncIterator[Web]:
    """Serve without a worker: sessions wait."""
    async with running_web(config()) as running:
        yield running


@pytest.fixture
def typist(web: Web, tmp_path: Path) -> Typist:
    return Typist(tmp_path, f"http://127.0.0.1:{web.port}")


async def test_submit_watches_and_saves_the_picture(stack: StartStack, tmp_path: Path) -> None:
    """One line from the photo to the picture; then list, show, share and delete it."""
    typist = Typist(tmp_path, (await stack()).url)
    status, out, err = await typist.types("submit", "me.jpg", "--garment", "shirt.png", "--watch", "-o", "out.jpg")
    assert status == 0, err
    id, saved = out.splitlines()
    assert (saved, (tmp_path / "out.jpg").read_bytes()[:2]) == ("out.jpg", b"\xff\xd8")
    assert re.search(r"^Completed in \d", err, re.MULTILINE)
    assert f"delete {id} --receipt receipt.json --server {typist.server}" in err

    assert re.search(rf"^{id} +completed +\d.* ago +2[34] h$", await typist.gets("list"), re.MULTILINE)
    shown = await typist.gets("show")
    assert re.search(r"^Output +result, image/jpeg, \d+ x \d+, ", shown, re.MULTILINE)
    assert shown.splitlines()[-1].endswith("completed")
    link = (await typist.gets("share", id)).strip()
    assert link.startswith(f"{typist.server}/api/tryon/files/")
    assert (await typist.gets("delete", id, "--receipt", "r.json")).startswith(f"Erased {id}: 3 files, ")
    receipt = json.loads((tmp_path / "r.json").read_text())
    assert (receipt["session_id"], len(receipt["files"])) == (id, 3)
    assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == 0o600
    status, _, err = await typist.types("show", id)
    assert (status, err) == (4, "tryon: There is nothing here, or it is not yours.  [not_found]\n")


async def test_failed_session_exits_with_one(stack: StartStack, tmp_path: Path) -> None:
    """Say why, and which command tries again; JSON tells every change."""
    typist = Typist(tmp_path, (await stack(TRYON_MOCK_FAILURE_RATE="1")).url)
    status, out, err = await typist.types("submit", "me.jpg", "--watch")
    assert status == 1
    assert "Failed: The try-on did not work out this time." in err
    assert f"retry {out.strip()} --watch" in err
    status, out, err = await typist.types("retry", out.strip(), "--watch", "--json")
    assert (status, err) == (1, "")
    sessions = [json.loads(line) for line in out.splitlines()]
    assert (sessions[0]["status"], sessions[-1]["error"]["code"]) == ("created", "mock_failure")
    assert all(each["session_id"] == sessions[0]["session_id"] for each in sessions)


async def test_every_answer_is_json_on_demand(typist: Typist, tmp_path: Path) -> None:
    """One object a line; a refusal is an object on standard error."""
    sent = ("submit", "--json", "--input", "person=me.jpg", "--input", "garment=shirt.png")
    made = json.loads(await typist.gets(*sent, "--params", '{"a": 1, "b": 2}', "--param", "b=[3]", "--param", "c=ü"))
    assert (made["params"], len(made["inputs"])) == ({"a": 1, "b": [3], "c": "ü"}, 2)
    again = json.loads(await typist.gets("submit", "--json", "--from", made["session_id"]))
    assert again["copy_of"] == made["session_id"]
    listed = json.loads(await typist.gets("list", "--json", "--limit", "1"))
    assert [each["session_id"] for each in listed["sessions"]] == [again["session_id"]]
    assert listed["next_cursor"]
    shown = json.loads(await typist.gets("show", "--json", made["session_id"]))
    assert (shown["status"], [each["event"] for each in shown["history"]]) == ("created", ["created"])
    assert json.loads(await typist.gets("cancel", "--json", made["session_id"]))["status"] == "cancelled"
    status, out, err = await typist.types("share", "--json", made["session_id"])
    assert (status, out, json.loads(err)["code"]) == (4, "", "not_completed")
    erased = await typist.gets("delete", made["session_id"], "--json", "--receipt", "r.json")
    assert json.loads(erased) == json.loads((tmp_path / "r.json").read_text())


async def test_progress_moves_on_a_terminal(stack: StartStack, tmp_path: Path) -> None:
    """The line is drawn again in its place, and is gone at the end."""
    typist = Typist(tmp_path, (await stack(TRYON_MOCK_SECONDS="0.6")).url)
    ours, theirs = pty.openpty()
    process = await typist.start("submit", "me.jpg", "--watch", err=theirs)
    os.close(theirs)
    drawn = b""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                drawn += await loop.run_in_executor(None, os.read, ours, 65536)
            except OSError:  # the other end is closed
                break
        assert await process.wait() == 0
    os.close(ours)
    lines = drawn.decode().split("\r\x1b[K")
    assert any(re.fullmatch(r"█+░+ +\d+%  .*", line) for line in lines), lines
    assert lines[-1].startswith("Completed in ")


async def test_interrupt_leaves_the_session_running(web: Web, typist: Typist) -> None:
    """Exit like a program that a signal has ended, and say how to come back."""
    process = await typist.start("submit", "me.jpg", "--watch")
    assert process.stdout
    id = (await process.stdout.readline()).decode().strip()
    await until(lambda: web.hub.followers_of(id))
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(SECONDS):
        _, err = await process.communicate()
    assert process.returncode == 130
    assert "Interrupted; the session goes on." in err.decode()
    assert f"watch {id} --server" in err.decode()
    assert json.loads(await typist.gets("show", "--json", id))["status"] == "created"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["submit"], "Give a photo"),
        (["submit", "nowhere.jpg"], "does not exist"),
        (["submit", "me.jpg", "--input", "garment"], "is not ROLE=FILE"),
        (["submit", "me.jpg", "--param", "a"], "is not NAME=VALUE"),
        (["submit", "me.jpg", "--params", "[]"], "not a JSON object"),
        (["submit", "me.jpg", "-o", "no/out.jpg"], "there is no folder"),
        (["list", "--server", "ftp://x"], "is not an address"),
        (["list", "--token-file", "me.jpg"], "it is no text"),
    ],
)
async def test_wrong_arguments_exit_with_two(words: list[str], message: str, tmp_path: Path) -> None:
    """Say what is wrong before anything is sent: there is no server here."""
    typist = Typist(tmp_path, "http://127.0.0.1:9")
    process = await typist.start(*words, server=False)
    async with asyncio.timeout(SECONDS):
        _, err = await process.communicate()
    assert process.returncode == 2
    assert message in err.decode()


async def test_missing_server_exits_with_three(tmp_path: Path) -> None:
    """Name the address and what may be wrong; as JSON, the code."""
    typist = Typist(tmp_path, f"http://127.0.0.1:{free_port()}")
    status, out, err = await typist.types("list")
    assert (status, out) == (3, "")
    assert err.splitlines()[-1].startswith(f"tryon: no answer from {typist.server} (")
    status, _, err = await typist.types("list", "--json")
    assert (status, json.loads(err)["code"]) == (3, "network")


async def test_token_belongs_to_its_server_or_file(typist: Typist, tmp_path: Path) -> None:
    """Each token has its own sessions; next commands name the file again."""
    await typist.gets("submit", "me.jpg")
    (kept,) = (tmp_path / "config/tryon/tokens").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    status, out, err = await typist.types("list", "--token-file", "other")
    assert (status, out) == (0, "")
    assert f"You have no sessions on {typist.server}." in err
    assert "submit me.jpg --watch --server" in err
    assert err.rstrip().endswith("--token-file other")
    assert len((tmp_path / "other").read_text().strip()) >= 22
    assert len(json.loads(await typist.gets("list", "--json"))["sessions"]) == 1
