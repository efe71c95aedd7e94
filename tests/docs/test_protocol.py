"""`docs/protocol.md` is true.

Its session with wscat is replayed, its receipt checked, its tables held to the code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import pytest
from websockets.asyncio.client import connect

from server.web.api import in_flight
from server.web.api.operations import OPERATIONS
from server.web.docs.asyncapi import asyncapi
from server.web.docs.examples import CLIENT_MESSAGES, FRAMES, OWNER_FRAMES, OWNER_MESSAGES
from server.web.transports import inbound
from server.web.transports import long_poll as polls
from testkit.documents import Reader, frames_in, keys_of
from testkit.fixtures import StartStack
from testkit.plugin import missing
from testkit.processes import ROOT
from tryon.protocol import backoff, errors
from tryon.protocol.close_codes import CLOSE_CODES
from tryon.protocol.frames import BEARER_SUBPROTOCOL, SUBPROTOCOL
from tryon.protocol.paths import SESSIONS
from tryon.protocol.states import Event

PAGE: Final = (ROOT / "docs" / "protocol.md").read_text()
SECONDS: Final = 30

Frame = dict[str, Any]


def blocks() -> Iterator[tuple[str, str]]:
    """Yield the mark and the text of every marked block, in order."""
    yield from re.findall(r"<!-- ([\w: ]+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)


def table(first_column: str) -> list[list[str]]:
    """Return the rows of the table with this first column."""
    found = re.search(rf"^\| {re.escape(first_column)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found, first_column
    return [[cell.strip() for cell in row.strip("|").split(" |")] for row in found[1].splitlines()]


def names(cell: str) -> list[str]:
    """Return the names in backticks of a cell."""
    return re.findall(r"`(\w+)`", cell)


# -- the session with wscat ------------------------------------------------------------


class Terminal(Protocol):
    async def frame(self, kind: str) -> Frame:
        """Return the next frame of that type."""
        ...

    async def say(self, text: str) -> None: ...

    async def shows(self, line: str) -> None:
        """Wait for a line that is not a frame."""
        ...


class Wscat:
    """The real wscat, in a terminal of its own."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str] | None = None) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            ["bash", "-euc", command],
            cwd=folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(self._ours, False)
        self._raw = bytearray()
        self._seen = 0
        self._frames = 0
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._ours, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                piece = os.read(self._ours, 65536)
            except OSError:  # EIO: wscat has ended
                piece = b""
            if not piece:
                asyncio.get_running_loop().remove_reader(self._ours)
            self._raw += piece
            self._more.set()

    @property
    def screen(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self._raw.decode(errors="replace"))

    async def _wait(self) -> None:
        self._more.clear()
        await asyncio.wait_for(self._more.wait(), SECONDS)

    async def frame(self, kind: str) -> Frame:
        while True:
            for frame in frames_in(self.screen)[self._frames :]:
                self._frames += 1
                if frame["type"] == kind:
                    return frame
            await self._wait()

    async def say(self, text: str) -> None:
        os.write(self._ours, text.encode() + b"\n")

    async def shows(self, line: str) -> None:
        while line not in self.screen[self._seen :]:
            await self._wait()
        self._seen = self.screen.index(line, self._seen)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        self._process.kill()
        self._process.wait()
        os.close(self._ours)


class Library:
    """The same session by a Python library."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def frame(self, kind: str) -> Frame:
        while True:
            frame: Frame = json.loads(await asyncio.wait_for(self._connection.recv(), SECONDS))
            if frame["type"] == kind:
                return frame

    async def say(self, text: str) -> None:
        await self._connection.send(text)

    async def shows(self, line: str) -> None:
        if line.startswith("Disconnected"):
            await self._connection.wait_closed()
            code, reason = self._connection.close_code, self._connection.close_reason
            assert line == f'Disconnected (code: {code}, reason: "{reason}")'


def replays(line: str, frame: Frame) -> None:
    """Check that a frame has the fields that the page shows, and their fixed values."""
    assert set(re.findall(r'"(\w+)":', line)) <= keys_of(frame), line
    for name, value in re.findall(r'"(event|from|code|reason|reconnect|terminal)":("?[\w]+"?)(?=[,}])', line):
        assert f'"{name}":{value}' in json.dumps(frame, separators=(",", ":")), (name, value, frame)
    if "missed" in frame:
        shown = line.partition('"missed":')[2]
        assert [event["seq"] for event in frame["missed"]] == [int(seq) for seq in re.findall(r'"seq":(\d+)', shown)]


async def replay(block: str, terminal: Terminal) -> None:
    """Type the lines of a session, and check the frames between them."""
    for line in block.splitlines()[1:]:
        if line.startswith("< "):
            kind = re.search(r'"type":"(\w+)"', line)
            assert kind
            replays(line, await terminal.frame(kind[1]))
        elif line.startswith("> "):
            await terminal.say(line[2:])
        else:
            await terminal.shows(line)


@pytest.fixture
async def reader(stack: StartStack, tmp_path: Path) -> Reader:
    """Return a reader that has typed the commands of the page, up to wscat."""
    if shutil.which("curl") is None:
        missing("curl")
    reader = Reader(await stack(TRYON_MOCK_SECONDS="10"), tmp_path)
    for mark, block in blocks():
        if mark == "wscat":
            break
        out = await reader.types(block)
        if mark == "run: upload":
            reader.session = json.loads(out)
    return reader


def wscat_block(mark: str = "wscat") -> str:
    (block,) = [block for name, block in blocks() if name == mark]
    return block


@pytest.fixture
def wscat() -> None:
    if (
        shutil.which("npx") is None
        or subprocess.run(["npx", "--no-install", "wscat", "--version"], capture_output=True, check=False).returncode
    ):
        missing("wscat (npm install --global wscat)")


@pytest.mark.usefixtures("wscat")
async def test_wscat_session_is_what_wscat_shows(reader: Reader) -> None:
    """The session on the page is typed into the real wscat."""
    block = wscat_block()
    terminal = Wscat(reader.filled_in(block.splitlines()[0].removeprefix("$ ")), reader.folder)
    try:
        await replay(block, terminal)
    finally:
        terminal.close()
        print(terminal.screen)


async def processing(reader: Reader) -> None:
    """Return when a worker has the session, as the page's snapshot shows it.

    wscat takes longer to start than a worker to claim a session; this client does not.
    """
    session, ticket = reader.session["links"]["self"], reader.session["links"]["ws"].partition("?")[2]
    async with asyncio.timeout(SECONDS), httpx.AsyncClient(base_url=reader.stack.url, trust_env=False) as http:
        while (await http.get(f"{session}?{ticket}")).json()["status"] == "created":
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_wscat_session_is_what_any_client_sees(reader: Reader) -> None:
    """The same frames come to a client in Python."""
    address = re.search(r'"(ws://\S+)"', wscat_block())
    assert address
    await processing(reader)
    async with connect(reader.filled_in(address[1]), proxy=None) as connection:
        await replay(wscat_block(), Library(connection))


@pytest.mark.usefixtures("wscat")
async def test_wscat_follows_an_owner_as_documented(reader: Reader) -> None:
    """The connection for all sessions of an owner, typed into the real wscat."""
    await processing(reader)
    block = wscat_block("wscat: owner").replace("<id>", reader.session["session_id"])
    command = reader.filled_in(block.splitlines()[0].removeprefix("$ "))
    terminal = Wscat(command, reader.folder, reader.environment() | {"TOKEN": reader.kept["TOKEN"]})
    try:
        await replay(block, terminal)
    finally:
        terminal.close()
        print(terminal.screen)


@pytest.mark.slow
async def test_any_client_follows_an_owner_as_documented(reader: Reader) -> None:
    """The same frames come to a client in Python."""
    await processing(reader)
    block = wscat_block("wscat: owner").replace("<id>", reader.session["session_id"])
    offered = ["tryon.v1", f"tryon.bearer.{reader.kept['TOKEN']}"]
    url = f"{reader.stack.url.replace('http', 'ws', 1)}/api/tryon/ws"
    async with connect(url, proxy=None, subprotocols=offered) as connection:  # type: ignore[arg-type]  # a NewType of str
        await replay(block, Library(connection))


async def test_receipt_verifies_as_documented(reader: Reader) -> None:
    """Both ways of the page accept a receipt; a changed one is refused."""
    rest = list(blocks())
    rest = rest[[mark for mark, _ in rest].index("wscat") + 1 :]
    rest = [(mark, block) for mark, block in rest if not mark.startswith("wscat")]
    assert [mark for mark, _ in rest] == ["run", "python: verify", "run: openssl"]
    if shutil.which("openssl") is None:
        missing("openssl")
    await reader.types(rest[0][1])
    (reader.folder / "verify.py").write_text(rest[1][1])
    await reader.types(".venv/bin/python verify.py")
    assert "Verified Successfully" in await reader.types(rest[2][1])
    receipt = json.loads((reader.folder / "receipt.json").read_text())
    (reader.folder / "receipt.json").write_text(json.dumps(receipt | {"reason": "expired"}))
    with pytest.raises(AssertionError, match="InvalidSignature"):
        await reader.types(".venv/bin/python verify.py")


# -- the tables ------------------------------------------------------------------------


def fields_by_tag(structs: Mapping[type, Any]) -> dict[str, list[str]]:
    schemas = asyncapi()["components"]["schemas"]
    found = {}
    for struct in structs:
        fields = schemas[struct.__name__]["properties"]
        found[fields["type"]["const"]] = [name for name in fields if name != "type"]
    return found


def test_frame_table_is_the_code() -> None:
    """Each frame's fields stand in the table, in order."""
    assert {names(row[0])[0]: names(row[1]) for row in table("Frame")} == fields_by_tag(FRAMES)


def test_client_frame_table_is_the_code() -> None:
    """The same for the frames that a client may send."""
    on_page = {names(row[0])[0]: names(row[1]) for row in table("Client's frame")}
    assert on_page == fields_by_tag(CLIENT_MESSAGES)


def test_owner_frame_tables_are_the_code() -> None:
    """The same for the frames that only a connection of an owner has."""
    on_page = {names(row[0])[0]: names(row[1]) for row in table("Owner's frame")}
    assert on_page == fields_by_tag(OWNER_FRAMES)
    assert {names(row[0])[0]: names(row[1]) for row in table("Owner's message")} == fields_by_tag(OWNER_MESSAGES)


def test_close_code_table_is_the_code() -> None:
    """Codes, meanings and reconnection, row by row."""
    assert table("Code") == [[str(row.code), row.meaning, row.reconnect.value] for row in CLOSE_CODES]


def test_error_tables_are_the_code() -> None:
    """Codes, statuses, texts and retries, row by row, of refusals and failures."""
    in_code = [
        (code, str(error.status), error.codes[code].detail, "yes" if error.codes[code].retryable else "no")
        for code, error in errors.CODES.items()
    ]
    assert [(row[0].strip("`"), *row[1:4]) for row in table("`code`")] == in_code
    failures = [
        [code, known.cause, known.fix, "yes" if known.retryable else "no"] for code, known in errors.FAILURES.items()
    ]
    assert [[row[0].strip("`"), *row[1:4]] for row in table("`error.code`")] == failures


def test_limit_table_is_the_code() -> None:
    """Every limit that a refusal may name, with its message."""
    assert {names(limit)[0]: detail for limit, detail in table("`limit`")} == errors.LIMITS


def test_plan_table_is_the_code() -> None:
    """The same for what a plan limits."""
    assert {names(limit)[0]: detail for limit, detail in table("Plan's `limit`")} == errors.QUOTAS


def test_call_table_is_the_operations() -> None:
    """Every operation on sessions, with the statuses of its answers."""
    in_code = {
        f"{row.method} {row.path}": {status for status in row.answers if status < 400}
        for row in OPERATIONS
        if row.tag == "sessions"
    }
    on_page = {
        row[0].strip("`"): {int(status) for status in re.findall(r"\b[12345]\d\d\b", row[1])} for row in table("Call")
    }
    assert on_page == in_code


def test_numbers_are_the_code() -> None:
    """Limits, waiting times, subprotocols and events on the page are those in use."""
    assert f"{inbound.INBOUND_LIMIT} messages in {inbound.INBOUND_SECONDS:g} seconds" in PAGE
    assert f"S at most {polls.MAX_WAIT_SECONDS:g} s" in PAGE
    assert f"waits up to {in_flight.IN_FLIGHT_SECONDS:g} s" in " ".join(PAGE.split())
    assert f"min({backoff.MOST_SECONDS:g} s, {backoff.FIRST_SECONDS:g} s × 2ⁿ)" in PAGE
    assert f"`{SUBPROTOCOL}, {BEARER_SUBPROTOCOL}<token>`" in PAGE
    assert SESSIONS in PAGE
    for event in Event:
        assert f"`{event}`" in PAGE
