"""The sandbox: its layers, each in a process of its own."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.system import landlock, sandbox, seccomp
from server.system.sandbox import PHOTOS, Policy, Sandbox
from tests.server.system.attempts import (
    ALONE,
    ATTEMPTS,
    Target,
    need_layers,
    open_target,
    outcomes,
    reached_without_sandbox,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with open_target(tmp_path) as target:
        yield target


def in_child(work: Callable[[], str]) -> str:
    """Return what the work returns in a child process."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(theirs, work().encode())
        except BaseException as error:
            os.write(theirs, repr(error).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours) as answers:
        answer = answers.read()
    os.waitpid(pid, 0)
    return answer


@pytest.mark.parametrize(
    "policy",
    [PHOTOS, Policy(own_user=False), Policy(programs=True), Policy(programs=True, own_user=False)],
    ids=["photo", "photo-same-user", "processor", "processor-same-user"],
)
def test_sandbox_lets_nothing_through(target: Target, policy: Policy) -> None:
    """Every attempt succeeds outside of a sandbox and fails inside."""
    closed = Sandbox(policy)
    need_layers(closed)
    attempts = ATTEMPTS if policy.programs else {**ATTEMPTS, **ALONE}

    def work() -> str:
        closed.enter()
        if not policy.programs:
            closed.stay_alone()
        return "\n".join(name for name, how in outcomes(attempts, target).items() if how == "reached")

    assert set(reached_without_sandbox(target).values()) == {"reached"}
    assert in_child(work) == ""


@pytest.mark.parametrize("own_user", [True, False])
def test_lone_process_may_start_threads_alone(own_user: bool) -> None:
    """A decoder that needs a thread gets it, and no process."""
    closed = Sandbox(Policy(own_user=own_user))
    need_layers(closed)

    def work() -> str:
        closed.enter()
        closed.stay_alone(threads=True)
        found: list[str] = []
        thread = threading.Thread(target=found.append, args=("thread",))
        thread.start()
        thread.join()
        try:
            os.fork()
        except OSError as error:
            found.append(type(error).__name__)
        return " ".join(found)

    assert in_child(work) == "thread PermissionError"


@pytest.mark.parametrize("layer", ["landlock", "seccomp"])
def test_layer_holds_without_the_other(target: Target, layer: str) -> None:
    """One layer alone keeps files, or the network, away."""
    closed = Sandbox(Policy(own_user=False))
    need_layers(closed)
    closed.missing[:] = [{"landlock": "seccomp", "seccomp": "landlock"}[layer]]
    kept = {
        "landlock": ("read the database", "read the environment", "connect to a port", "signal", "trace"),
        "seccomp": ("connect to a port", "connect to a service", "send a datagram", "read memory", "trace"),
    }[layer]

    def work() -> str:
        closed.enter()
        found = outcomes({name: ATTEMPTS[name] for name in kept}, target)
        return " ".join(name for name, how in found.items() if how == "reached")

    assert in_child(work) == ""


def test_network_policy_allows_internet_alone(target: Target) -> None:
    """With ``network`` a port is reached, and a service's socket is not."""
    closed = Sandbox(Policy(network=True))
    need_layers(closed)

    def work() -> str:
        closed.enter()
        names = ("connect to a port", "connect to a service")
        return str(list(outcomes({name: ATTEMPTS[name] for name in names}, target).values()))

    assert in_child(work) == "['reached', 'PermissionError 1']"


def test_rules_allow_reading_or_writing(target: Target, tmp_path: Path) -> None:
    """A path may be read, or written to; its neighbours may not."""
    tmp_path.chmod(0o755)
    folders = [tmp_path / name for name in ("read", "written")]
    for folder in folders:
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
        (folder / "file").write_text("here")
    closed = Sandbox(Policy(rules=((folders[0], landlock.READ), (folders[1], landlock.ALL))))
    need_layers(closed)

    def work() -> str:
        closed.enter()
        found = [(folder / "file").read_text() for folder in folders]
        (folders[1] / "new").write_text("new")
        try:
            (folders[0] / "new").write_text("new")
        except OSError as error:
            found.append(type(error).__name__)
        return " ".join(found)

    if all(sandbox.may_be_read_by_others(folder) for folder in folders):
        assert in_child(work) == "here here PermissionError"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_becomes_user_of_its_own() -> None:
    """Root becomes a user and a group that no other process has."""
    closed = Sandbox(PHOTOS)
    need_layers(closed)

    def work() -> str:
        closed.enter()
        users = {*os.getresuid(), *os.getresgid()}
        return f"{users} {os.getgroups()} {os.getpid()}"

    users, groups, pid = in_child(work).split()
    assert groups == "[]"
    assert users in (f"{{{2_000_000_000 + int(pid)}}}", "{65534}")


def test_start_without_a_layer_names_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A machine without Landlock and seccomp says so, in one line."""
    monkeypatch.setattr(landlock, "version", lambda: 0)
    monkeypatch.setattr(seccomp, "available", lambda: False)
    lacking = Sandbox(Policy(programs=True, own_user=False)).missing
    assert lacking == ["landlock", "signals", "seccomp"]
    sandbox.log_missing(logging.getLogger("tryon"), "processors", lacking)
    [line] = caplog.messages
    assert line.startswith("Sandbox of processors: this machine lacks Landlock, Linux 5.13 (files); ")


def test_others_read_open_folders_alone(tmp_path: Path) -> None:
    """A path can be read by others if it and each folder above it say so."""
    file = tmp_path / "open" / "file"
    file.parent.mkdir()
    file.touch()
    assert not sandbox.may_be_read_by_others(tmp_path / "nothing")
    file.chmod(0o600)
    assert not sandbox.may_be_read_by_others(file)
    assert sandbox.may_be_read_by_others(Path("/"))
