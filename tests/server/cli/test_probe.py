"""`tryon probe`, the health check of a container."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from server.config.settings import Config
from testkit.processes import environment, free_port
from testkit.running import running_web


def probe(folder: Path, *words: str, **settings: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "server", "probe", *words],
        cwd=folder,
        env=environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


async def test_probe_finds_the_process_of_its_own_settings(config: Callable[..., Config], tmp_path: Path) -> None:
    """Listening on all addresses, and under names that exclude this one."""
    async with running_web(config(hosts=("shop.example",))) as web:
        for words in ((), ("--ready",)):
            for host in ("0.0.0.0", "127.0.0.1"):
                settings = {"TRYON_HOST": host, "TRYON_PORT": str(web.port)}
                status, said = await asyncio.to_thread(probe, tmp_path, *words, **settings)
                assert (status, said) == (0, "")


@pytest.mark.parametrize("words", [("--worker",), ("--worker", "--ready")])
def test_probe_of_worker_names_what_it_lacks(words: tuple[str, ...], tmp_path: Path) -> None:
    """A worker without a port cannot be asked, and none is ever "ready"."""
    assert probe(tmp_path, *words)[0] == 2


@pytest.mark.parametrize("words", [(), ("--ready",), ("--worker",)])
def test_probe_says_that_nothing_answers(words: tuple[str, ...], tmp_path: Path) -> None:
    """One line, and the status of a server that cannot be reached."""
    status, said = probe(
        tmp_path, *words, **dict.fromkeys(("TRYON_PORT", "TRYON_WORKER_METRICS_PORT"), str(free_port()))
    )
    assert status == 3
    assert said.startswith("tryon: /api/health/") and said.count("\n") == 1
