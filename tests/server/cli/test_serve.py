"""The options of `tryon up` win over the settings of its environment."""

from __future__ import annotations

import os
from pathlib import Path

from testkit.fixtures import StartStack
from testkit.processes import free_port
from testkit.running import until


async def test_up_takes_its_options_and_opens_the_page(stack: StartStack, tmp_path: Path) -> None:
    """Take port and processor from the options; print nothing but the address."""
    opened, program, port = tmp_path / "opened", tmp_path / "xdg-open", free_port()
    program.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}.part && mv {opened}.part {opened}\n')
    program.chmod(0o700)
    words = ("up", "--port", str(port), "--processor", "mock", "--open", "--quiet")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    up = await stack(*words, PATH=path, TRYON_PORT="not a port", TRYON_PROCESSOR="none", TRYON_LOG_LEVEL="debug")
    assert up.url == f"http://127.0.0.1:{port}"
    await until(opened.exists)
    assert opened.read_text() == up.url
    assert [line for line in (*up.lines, *up.errors) if "ready at" not in line] == []
