"""The commands of a client, as their users type them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import signal
import stat
import sys
import termios
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from server.cli import verbs
from server.cli.connecting import Target
from server.cli.exits import Exit, exit_of
from server.config.parsing import UploadRate
from server.config.settings import Config
from testkit.fixtures import StartStack
from testkit.photos import small
from testkit.processes import environment, free_port
from testkit.proxy import running_proxy, upgrades
from testkit.running import Web, running_web, until
from testkit.terminals import Terminal
from tests.server.web.api.calls import do
from tests.tryon.client.network_contract import raw_server, sending
from tryon.client.problems import Problem
from tryon.protocol.errors import UnsupportedMedia
from tryon.protocol.views import FileView

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


@pytest.mark.slow
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
    first, then = err.splitlines()
    assert (status, first) == (4, "tryon: There is nothing here, or it is not yours.  [not_found]")
    assert f"list --server {typist.server}` shows your sessions." in then


async def test_failed_session_exits_with_one(stack: StartStack, tmp_path: Path) -> None:
    """Say why, and which command tries again; JSON has a line for each change."""
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


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with contextlib.closing(Terminal()) as opened:
        yield opened


@pytest.mark.slow
async def test_progress_moves_on_a_terminal(stack: StartStack, tmp_path: Path, terminal: Terminal) -> None:
    """The line is drawn again in its place, without colours, and is gone at the end."""
    typist = Typist(tmp_path, (await stack(TRYON_MOCK_SECONDS="3")).url)
    process = await typist.start("submit", "me.jpg", "--watch", err=terminal.theirs)
    terminal.close_theirs()
    lines = (await terminal.draws()).split("\r\x1b[K")
    assert await process.wait() == 0
    assert any(re.fullmatch(r"█+░+ +\d+%  .*", line) for line in lines), lines
    assert lines[-1].startswith("Completed in ")
    assert not re.search(r"\x1b\[[\d;]*m", terminal.drawn.decode())


@pytest.mark.slow
async def test_narrow_terminal_without_utf8_loses_nothing_but_its_bar(stack: StartStack, tmp_path: Path) -> None:
    """Lines fit 40 columns; other characters are escapes; JSON stays UTF-8."""
    typist = Typist(tmp_path, (await stack(TRYON_MOCK_SECONDS="3")).url)
    typist.environment |= {"PYTHONIOENCODING": "latin-1", "NO_COLOR": "1", "TERM": "xterm"}
    with contextlib.closing(Terminal(columns=40)) as narrow:
        process = await typist.start("submit", "me.jpg", "--param", "c=服", "--watch", err=narrow.theirs)
        narrow.close_theirs()
        lines = (await narrow.draws()).split("\r\x1b[K")
        assert await process.wait() == 0
    assert any(re.fullmatch(r" *\d+%  [a-z ,0-9]+", line) for line in lines), lines
    assert all(len(line) < 40 for line in lines[1:-1]), lines
    assert r'Params     {"c":"\u670d"}' in await typist.gets("show")
    assert json.loads(await typist.gets("show", "--json"))["params"] == {"c": "服"}


async def test_ctrl_c_on_a_terminal_says_how_to_go_on(web: Web, typist: Typist, terminal: Terminal) -> None:
    """The session goes on, and the next watch, as it was printed, ends with it."""
    id = (await typist.gets("submit", "me.jpg")).strip()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "watch", "-o", "out.jpg", "--server", typist.server),
        cwd=typist.folder,
        env=typist.environment,
        stdin=terminal.theirs,
        stdout=terminal.theirs,
        stderr=terminal.theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    terminal.close_theirs()
    await terminal.draws("waiting")
    await until(lambda: web.hub.followers_of(id))
    terminal.types(b"\x03")
    drawn = await terminal.draws()
    assert await process.wait() == 130
    assert f"Following {id}" in drawn
    assert "Interrupted; the session goes on." in drawn
    assert f"watch {id} -o out.jpg --server {typist.server}" in drawn
    claim = await web.services.sessions.claims.begin(id, worker="test")
    assert claim is not None
    await web.complete(claim)
    assert "out.jpg" in await typist.gets("watch", id, "-o", "out.jpg")


async def test_session_may_end_while_the_watch_connects(web: Web, tmp_path: Path) -> None:
    """The first answer is lost, and the second one shows the end."""
    async with running_proxy(web.port) as proxy:
        typist = Typist(tmp_path, f"http://127.0.0.1:{proxy.port}")
        id = (await typist.gets("submit", "me.jpg")).strip()
        proxy.deafen(upgrades)
        process = await typist.start("watch", id, "-o", "out.jpg")
        await until(lambda: web.hub.followers_of(id))
        claim = await web.services.sessions.claims.begin(id, worker="test")
        assert claim is not None
        await web.complete(claim)
        proxy.hear()
        proxy.cut()
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    assert (process.returncode, out.decode()) == (0, "out.jpg\n"), err.decode()
    assert "Completed in " in err.decode()


async def test_watch_gives_up_without_a_connection(
    web: Web, typist: Typist, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A short loss is borne, a long one is a problem; the session goes on."""
    monkeypatch.setattr(verbs, "LOST_SECONDS", 2.0)
    monkeypatch.setattr("tryon.client.ladder.FIRST_SECONDS", 0.01)  # the short loss is shorter
    async with running_proxy(web.port) as proxy:
        target = Target(f"http://127.0.0.1:{proxy.port}", typist.folder / "token", as_json=False)
        async with target.open() as tryon:
            id = (await tryon.upload(typist.folder / "me.jpg")).session_id
        watching = asyncio.create_task(verbs.watch(target, session=id, output=None))
        await until(lambda: web.hub.followers_of(id))
        proxy.cut()
        await until(lambda: web.hub.followers_of(id))
        await proxy.refuse()
        proxy.cut()
        async with asyncio.timeout(SECONDS):
            with pytest.raises(Problem) as gone:
                await watching
    assert exit_of(gone.value) is Exit.UNREACHABLE
    err = capsys.readouterr().err
    assert "no connection, trying again" in err
    assert "The session goes on.\nNext:\n" in err
    assert f"watch {id} --server" in err


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


async def test_interrupted_upload_says_where_to_look(web: Web, tmp_path: Path) -> None:
    """The photos may have arrived: the list shows it."""
    answered = asyncio.Event()

    def uploads(said: bytes) -> bool:
        if b"POST " in said:
            answered.set()
        return answered.is_set()

    async with running_proxy(web.port) as proxy:
        typist = Typist(tmp_path, f"http://127.0.0.1:{proxy.port}")
        proxy.deafen(uploads)
        process = await typist.start("submit", "me.jpg")
        async with asyncio.timeout(SECONDS):
            await answered.wait()
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
    assert process.returncode == 130
    assert "Interrupted; the photos may have arrived." in err.decode()


@pytest.mark.slow
async def test_picture_that_cannot_be_saved_exits_with_one(stack: StartStack, tmp_path: Path) -> None:
    """The id was printed and the picture stays on the server; a receipt is printed."""
    typist = Typist(tmp_path, (await stack()).url)
    status, out, err = await typist.types("submit", "me.jpg", "-o", "/dev/full")
    id = out.strip()
    assert status == 1
    assert f"  {sys.executable.rpartition('/')[2]} -m server watch {id} -o result.jpg" in err
    assert "cannot save /dev/full: No space left on device. The picture is still on the server." in err
    status, out, err = await typist.types("delete", id, "--receipt", "/dev/full")
    assert (status, json.loads(out.partition("\n")[2])["session_id"]) == (1, id)
    assert "Keep the receipt from above" in err


async def test_refused_photo_exits_with_four(typist: Typist, tmp_path: Path) -> None:
    """Name file, part and the next step; nothing was sent."""
    (tmp_path / "notes.txt").write_text("This is no picture at all, it is a text.")
    status, out, err = await typist.types("submit", "me.jpg", "--garment", "notes.txt")
    assert (status, out) == (4, "")
    refusal, advice = err.splitlines()[-2:]
    assert refusal == f"tryon: {UnsupportedMedia('unsupported_image').detail} (garment)  [unsupported_image]"
    assert advice.startswith("  notes.txt was not sent. Taken are JPEG, PNG, WEBP")
    status, _, err = await typist.types("submit", "notes.txt", "--json")
    assert (status, json.loads(err)["part"]) == (4, "image")


@pytest.mark.usefixtures("patient_limits")
async def test_rate_limit_says_how_long_to_wait(config: MakeConfig, tmp_path: Path) -> None:
    """In seconds, on the line after the refusal."""
    async with running_web(config(upload_rate=UploadRate(1, 60))) as web:
        typist = Typist(tmp_path, f"http://127.0.0.1:{web.port}")
        await typist.gets("submit", "me.jpg")
        status, _, err = await typist.types("submit", "me.jpg")
    assert status == 4
    assert re.search(r"\[rate_limited\]\n  Try again in \d+ s\.\n$", err), err


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
    """Name the wrong argument before anything is sent: there is no server here."""
    typist = Typist(tmp_path, "http://127.0.0.1:9")
    process = await typist.start(*words, server=False)
    async with asyncio.timeout(SECONDS):
        _, err = await process.communicate()
    assert process.returncode == 2
    assert message in err.decode()


async def test_missing_server_exits_with_three(tmp_path: Path) -> None:
    """Name the address and the next step; as JSON, the code."""
    typist = Typist(tmp_path, f"http://127.0.0.1:{free_port()}")
    status, out, err = await typist.types("list")
    assert (status, out) == (3, "")
    assert err.splitlines()[-2].startswith(f"tryon: no answer from {typist.server} (")
    status, _, err = await typist.types("list", "--json")
    assert (status, json.loads(err)["code"]) == (3, "network")


async def test_failure_on_this_machine_is_json_too(typist: Typist, tmp_path: Path) -> None:
    """A token file that holds none, and an answer that cannot be printed."""
    (tmp_path / "wrong").write_text("no token")
    status, out, err = await typist.types("list", "--json", "--token-file", "wrong")
    assert (status, out, json.loads(err)["code"]) == (2, "", "bad_token_file")
    assert "wrong holds no client token" in json.loads(err)["detail"]
    await typist.gets("list")  # makes the token
    full = os.open("/dev/full", os.O_WRONLY)
    process = await typist.start("submit", "me.jpg", "--json", out=full)
    os.close(full)
    _, said = await process.communicate()
    assert (process.returncode, json.loads(said)["code"]) == (1, "not_saved")
    full = os.open("/dev/full", os.O_WRONLY)
    process = await typist.start("list", out=full)
    os.close(full)
    _, said = await process.communicate()
    assert (process.returncode, said.decode()) == (1, "tryon: cannot print the answer: No space left on device\n")


async def test_servers_words_cannot_steer_the_terminal(
    web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another server may answer with anything in place of an id."""
    session, token = await web.submit()
    view = (await do(web, "get", session.id, token)).json()
    view["session_id"] = "\x1b]0;title\x07" + "\x9b2J"
    body = json.dumps({"sessions": [view], "next_cursor": None}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with raw_server(sending(head, body)) as url:
        assert await verbs.list_sessions(Target(url, tmp_path / "token", False), limit=1) == 0
    out, err = capsys.readouterr()
    assert "]0;title" in out and "]0;title" in err
    assert not any(unicodedata.category(each) == "Cc" for each in (out + err).replace("\n", ""))


@pytest.mark.parametrize(
    ("id", "type"),
    [
        ("../../escaped", "image/png"),
        ("/etc/escaped", "image/png"),
        ("01a219f8-685f-78c5-846f-95400635ef70", "image/../x"),
        ("01a219f8-685f-78c5-846f-95400635ef70", "text/x-sh"),
    ],
)
def test_answer_cannot_lead_out_of_the_folder(tmp_path: Path, id: str, type: str) -> None:
    """The name of a saved picture is made of ids and types of this product alone."""
    file = FileView(role="result", index=0, type=type, width=1, height=1, bytes=1, link="/x")
    with pytest.raises(Problem):
        verbs._place(tmp_path, id, file, 1)


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
