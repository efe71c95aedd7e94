"""``tryon top`` against a real server: live, once, and refused in words."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from server.cli.exits import Exit
from server.config.settings import Config
from testkit.processes import environment, free_port
from testkit.running import Web, running_web
from testkit.terminals import Terminal

TOKEN = "ada-0123456789abcdefghijkl"
SECONDS = 60
LEFT = "\x1b[?25h\x1b[?1049l"


@pytest.fixture
async def web(config: Callable[..., Config]) -> AsyncIterator[Web]:
    async with running_web(config(ops_tokens=(TOKEN,), lease_seconds=60)) as running:
        yield running


async def start(
    folder: Path, *words: str, token: str | None = TOKEN, terminal: Terminal | None = None
) -> asyncio.subprocess.Process:
    """Start ``tryon top``; on a terminal if one is given."""
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "top", *words),
        cwd=folder,
        env=environment({} if token is None else {"TRYON_OPS_TOKEN": token}) | {"PYTHONIOENCODING": "utf8"},
        stdin=terminal.theirs if terminal else nothing,
        stdout=terminal.theirs if terminal else pipe,
        stderr=pipe,
        start_new_session=True,
    )
    return process


async def types(folder: Path, *words: str, token: str | None = TOKEN) -> tuple[int | None, str, str]:
    process = await start(folder, *words, token=token)
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_top_shows_sessions_live_and_quits(web: Web, tmp_path: Path) -> None:
    """A new session is pushed to the screen; `q` leaves the terminal as it was."""
    with contextlib.closing(Terminal(columns=120)) as terminal:
        before = termios.tcgetattr(terminal.theirs)
        process = await start(tmp_path, "--server", f"127.0.0.1:{web.port}", terminal=terminal)
        await terminal.draws(r"No session\.")
        session, _ = await web.submit()
        await terminal.draws(session.id)
        await web.begin(session)
        await terminal.draws(rf"{session.id} running")
        terminal.types(b"f")
        await terminal.draws(r"\(active\)")
        terminal.types(b"q")
        assert await asyncio.wait_for(process.wait(), SECONDS) == Exit.DONE
        assert termios.tcgetattr(terminal.theirs) == before
        terminal.close_theirs()
        assert LEFT in await terminal.draws()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_top_leaves_the_terminal_on_a_signal(
    web: Web, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """The other screen and the cursor, too."""
    with contextlib.closing(Terminal()) as terminal:
        before = termios.tcgetattr(terminal.theirs)
        process = await start(tmp_path, "--server", f"127.0.0.1:{web.port}", terminal=terminal)
        await terminal.draws(r"No session\.")
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), SECONDS) == status
        assert termios.tcgetattr(terminal.theirs) == before
        terminal.close_theirs()
        assert (await terminal.draws()).endswith(LEFT)


async def test_top_connects_again(config: Callable[..., Config], tmp_path: Path) -> None:
    """A server that is restarted is followed again, without a key."""
    settings = config(ops_tokens=(TOKEN,), port=free_port())
    with contextlib.closing(Terminal(columns=140)) as terminal:
        async with running_web(settings) as web:
            process = await start(tmp_path, "--server", f"127.0.0.1:{web.port}", terminal=terminal)
            await terminal.draws(r"  live  ")
        await terminal.draws(r"reconnecting in")
        terminal.drawn = b""
        async with running_web(settings) as web:
            session, _ = await web.submit()
            await terminal.draws(session.id)
            process.terminate()
            await asyncio.wait_for(process.wait(), SECONDS)


async def test_top_prints_once(web: Web, tmp_path: Path) -> None:
    """As plain lines, or as JSON; without a terminal by itself."""
    session, _ = await web.submit()
    server = ("--url", f"http://127.0.0.1:{web.port}")
    for words in (("--once",), ()):
        status, out, err = await types(tmp_path, *server, *words)
        assert (status, err) == (0, "")
        assert session.id in out
        assert "\x1b" not in out
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    status, out, _ = await types(tmp_path, *server, "--once", "--json", "--token-file", "token", token=None)
    assert status == 0
    assert json.loads(out)["sessions"][0]["session_id"] == session.id


async def test_top_prints_frames_as_json(web: Web, tmp_path: Path) -> None:
    """One a line, for programs, until they have seen enough."""
    process = await start(tmp_path, "--server", f"127.0.0.1:{web.port}", "--json")
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        assert json.loads(await process.stdout.readline())["type"] == "overview"
        await web.submit()
        kinds = set()
        while "sessions" not in kinds:
            kinds.add(json.loads(await process.stdout.readline())["type"])
        process.terminate()
        await process.communicate()
    assert process.returncode == 143


async def test_top_says_refusals_in_words(web: Web, config: Callable[..., Config], tmp_path: Path) -> None:
    """A wrong token, a server without the page, nobody there, no token at all."""
    server = f"http://127.0.0.1:{web.port}"
    status, _, err = await types(tmp_path, "--server", server, token="wrong-0123456789abcdefghijk")
    assert (status, err) == (4, "tryon: this is no operator's token of that server. Its TRYON_OPS_TOKEN has them.\n")
    status, _, err = await types(tmp_path, "--server", server, "--json", token="wrong-0123456789abcdefghijk")
    assert (status, json.loads(err)["status"]) == (4, 401)
    async with running_web(config()) as without:
        status, _, err = await types(tmp_path, "--server", f"http://127.0.0.1:{without.port}")
    assert status == 4
    assert "has no operator's page. It needs TRYON_OPS_TOKEN" in err
    status, _, err = await types(tmp_path, "--server", f"http://127.0.0.1:{free_port()}")
    assert status == 3
    assert "no answer from" in err
    status, _, err = await types(tmp_path, "--server", server, token=None)
    assert status == 2
    assert "an operator's token is needed" in err


@pytest.mark.usefixtures("patient_limits")
async def test_top_says_that_it_is_limited(web: Web, tmp_path: Path) -> None:
    """After ten wrong tokens in a minute."""
    for number in range(10):
        await web.client.get("/ops/api/overview", headers={"Authorization": f"Bearer wrong-{number:022}"})
    wrong = f"wrong-{10:022}"
    status, _, err = await types(tmp_path, "--server", f"http://127.0.0.1:{web.port}", "--once", token=wrong)
    assert status == 4
    assert "too many wrong tokens came from this address. Try again in" in err
