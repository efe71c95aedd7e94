"""The clients and proxies of docs/compatibility.md, as the commands there run them."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from server.config.settings import Config
from testkit.documents import Reader, text_of
from testkit.fixtures import StartStack
from testkit.following import end, follow
from testkit.plugin import missing
from testkit.processes import ROOT

MakeConfig = Callable[..., Config]

ROWS: Final = re.findall(r"^\| ([^|]+) \| [^|]+ \|(?: [^|]+ \|)? `(.+)` \|$", text_of("docs/compatibility.md"), re.M)
COMMANDS: Final = [(client, command) for client, command in ROWS if ":8000" in command]
FOLLOWING: Final = [(client, command) for client, command in COMMANDS if "<id>" in command]
WHOLE: Final = [(client, command) for client, command in COMMANDS if "examples/" in command and "<id>" not in command]
UPLOADING: Final = [row for row in COMMANDS if row not in FOLLOWING + WHOLE]

DOTNET_FORM: Final = (
    b"--5bb1f2b1-dotnet\r\n"
    b"Content-Type: image/jpeg\r\n"
    b"Content-Disposition: form-data; name=image; filename=photo.jpg; filename*=utf-8''photo.jpg\r\n"
    b"\r\n%b\r\n--5bb1f2b1-dotnet--\r\n"
)
"""A photo as .NET's ``MultipartFormDataContent`` sends it."""


@pytest.fixture
async def reader(stack: StartStack, photos: Path, tmp_path: Path) -> Reader:
    """Make a reader who has the files that the commands name."""
    for tool in ("curl", "java", "node", "npx"):
        if shutil.which(tool) is None:
            missing(f"{tool}, of docs/compatibility.md")
    folder = tmp_path / "reader"
    folder.mkdir()
    photo = (photos / "photo.jpg").read_bytes()
    (folder / "photo.jpg").write_bytes(photo)
    (folder / "dotnet-form.bin").write_bytes(DOTNET_FORM % photo)
    (folder / "docs").symlink_to(ROOT / "docs")
    return Reader(await stack(), folder)


def test_page_has_every_kind_of_row() -> None:
    """The patterns of this module find the rows, and no row is left out."""
    assert (len(UPLOADING), len(FOLLOWING), len(WHOLE)) == (6, 3, 3)
    others = {command for _, command in ROWS if (_, command) not in COMMANDS}
    assert {command.split()[0] for command in others} == {"./test", "nginx", "caddy", "haproxy"}
    for command in others:
        assert not command.startswith("./test ") or (ROOT / command.split()[1]).exists()


@pytest.mark.slow
async def test_each_upload_command_makes_a_session(reader: Reader) -> None:
    """Every way to upload is answered with a session that completes."""
    answers = await asyncio.gather(*(reader.types(command) for _, command in UPLOADING))
    for (client, _), answer in zip(UPLOADING, answers, strict=True):
        session = json.loads(answer)
        assert session.get("status") == "created", (client, answer)
        async for step in follow("sse", reader.stack.url, session["session_id"], session["client_token"]):
            last = step
        assert last == end("completed"), client


@pytest.mark.slow
async def test_each_program_follows_its_session(reader: Reader) -> None:
    """Every program uploads a photo and prints how its session ended."""
    printed = await asyncio.gather(*(reader.types(command) for _, command in WHOLE))
    for (client, _), lines in zip(WHOLE, printed, strict=True):
        assert "completed" in lines.splitlines()[-1], (client, lines)


@pytest.mark.slow
async def test_each_following_command_sees_the_end(reader: Reader) -> None:
    """Every way to follow prints the snapshot first and the end last."""
    reader.session = json.loads(await reader.types(UPLOADING[0][1]))

    async def screen(command: str) -> str:
        in_terminal = command.startswith("npx wscat")
        return await (reader.types_in_a_terminal if in_terminal else reader.types)(command)

    screens = await asyncio.gather(*(screen(command) for _, command in FOLLOWING))
    for (client, _), text in zip(FOLLOWING, screens, strict=True):
        frames = [json.loads(frame) for frame in re.findall(r"(?:^|< |data: )({.*})", text, re.M)]
        assert frames[0]["type"] == "snapshot", (client, text)
        assert (frames[-1]["type"], frames[-1]["reason"]) == ("bye", "completed"), (client, text)
