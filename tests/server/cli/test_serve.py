"""The options of `tryon up` win over the settings of its environment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from server.cli import serve
from testkit.fixtures import StartStack
from testkit.processes import free_port
from testkit.running import until


async def test_up_takes_its_options_and_opens_the_page(stack: StartStack, tmp_path: Path) -> None:
    """Take port and processor from the options; print nothing but the address."""
    opened, program, port = tmp_path / "opened", tmp_path / "open-page", free_port()
    program.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}.part && mv {opened}.part {opened}\n')
    program.chmod(0o700)
    words = ("up", "--port", str(port), "--processor", "mock", "--open", "--quiet")
    up = await stack(
        *words, BROWSER=str(program), TRYON_PORT="not a port", TRYON_PROCESSOR="none", TRYON_LOG_LEVEL="debug"
    )
    assert up.url == f"http://127.0.0.1:{port}"
    await until(opened.exists)
    assert opened.read_text() == up.url
    assert [line for line in (*up.lines, *up.errors) if "ready at" not in line] == []


async def test_start_warns_of_callers_without_limit(stack: StartStack) -> None:
    """The log says so once; a plan `default` without limits says that it is meant."""
    up = await stack("up", TRYON_QUOTAS='{"pro": {"scope": "tryon:pro"}}')
    said = "TRYON_QUOTAS does not limit clients without a JWT: it has no plan default"
    assert [line for line in (*up.lines, *up.errors) if said in line]


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has a screen, as far as a program can see")
def test_page_is_named_without_a_screen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs that would open it there fail without a word, or take the terminal."""
    for name in ("xdg-open", "www-browser", "w3m"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/opened\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    serve._open("http://127.0.0.1:8000")
    assert capsys.readouterr().err == "tryon: no browser was found; open http://127.0.0.1:8000\n"
    assert not (tmp_path / "opened").exists()
