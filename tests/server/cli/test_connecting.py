"""Warnings and advice that a command of a client prints beside its answer."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from server.cli.connecting import Refused, Target, advice, travels_in_clear
from tryon.client.address import DEFAULT_URL
from tryon.client.problems import Problem


def test_addresses_beyond_this_machine_travel_in_clear() -> None:
    """Without TLS, unless the host is this machine."""
    safe = (
        "https://tryon.example",
        "http://localhost:8000",
        "http://a.localhost",
        "http://127.8.9.1",
        "http://[::1]:1",
    )
    clear = ("http://tryon.example", "http://192.168.1.9:8000", "http://[fd00::1]", "http://localhost.example")
    assert [travels_in_clear(each) for each in (*safe, *clear)] == [False] * len(safe) + [True] * len(clear)


async def open_and_close(target: Target) -> None:
    await target.open().close()


async def test_token_sent_in_clear_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once a command, also as JSON."""
    await open_and_close(Target("http://tryon.example", tmp_path / "token", as_json=False))
    out, err = capsys.readouterr()
    assert (out, err.count("tryon: warning: ")) == ("", 1)
    assert "http://tryon.example is not encrypted" in err
    await open_and_close(Target("http://tryon.example", tmp_path / "token", as_json=True))
    assert "is not encrypted" in json.loads(capsys.readouterr().err)["warning"]
    await open_and_close(Target("https://tryon.example", tmp_path / "token", as_json=True))
    assert capsys.readouterr() == ("", "")


async def test_exposed_token_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The usual file is closed, so it is said once; another one is left alone."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    usual, own = Target(DEFAULT_URL, None, as_json=False), Target(DEFAULT_URL, tmp_path / "mine", as_json=False)
    for target in (usual, own):
        await open_and_close(target)
    (kept,) = (tmp_path / "tryon/tokens").iterdir()
    for path in (kept, tmp_path / "mine"):
        path.chmod(0o644)
    capsys.readouterr()
    await open_and_close(usual)
    assert capsys.readouterr().err == f"tryon: warning: other users could read the token in {kept}; now only you can.\n"
    await open_and_close(usual)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        await open_and_close(own)
        assert capsys.readouterr().err.endswith(f"Type: chmod 600 {tmp_path / 'mine'}\n")
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o644


def test_advice_names_the_next_step() -> None:
    """For those refusals whose text does not."""
    here, there = Target(DEFAULT_URL, None, as_json=False), Target("https://tryon.example", None, as_json=False)
    assert "Start it with `tryon up`" in advice(here, Problem("network", "No answer: refused"))
    assert advice(there, Problem("network", "No answer: refused")) == "Does `tryon up` run there?"
    assert advice(there, Problem("rate_limited", status=429, retry_after=41.2)) == "Try again in 42 s."
    assert "list --server https://tryon.example` shows your sessions" in advice(there, Problem("not_found", status=404))
    assert "https://tryon.example" in advice(there, Problem("unknown", status=404))
    assert advice(there, Problem("not_completed", status=409)) == ""
    refused = Refused("body_too_large")
    refused.advice = "Make it smaller."
    assert advice(there, refused) == "Make it smaller."
