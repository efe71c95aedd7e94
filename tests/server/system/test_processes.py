"""Processes of ours: what they inherit, what they may use, how they end."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from server.system.processes import (
    ROOT,
    exit_text,
    kill_family,
    kill_group,
    limit_cpu,
    lower_limit,
    python,
    python_environment,
)

LINUX = pytest.mark.skipif("sys.platform != 'linux'", reason="needs prctl and /proc")


def run(script: str) -> str:
    """Run a script that uses the module, in a process of its own."""
    command = python("-c", f"from server.system.processes import *\nimport os, resource\n{script}")
    environment = python_environment(os.environ)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-9, "was killed by SIGKILL"),
        (-250, "ended with status -250"),
        (None, "closed its connection"),
    ],
)
def test_exit_text_names_signal_or_status(status: int | None, text: str) -> None:
    """An operator reads the name of a signal, not its number."""
    assert exit_text(status) == text


def test_python_finds_this_code(tmp_path: Path) -> None:
    """A Python of ours imports this code, and nothing from the working directory."""
    (tmp_path / "server.py").write_text("raise SystemExit('the wrong server')")
    environment = python_environment({"PYTHONPATH": "/somewhere"})
    assert environment["PYTHONPATH"] == os.pathsep.join((str(ROOT), "/somewhere"))
    subprocess.run(python("-c", "import server.system.processes"), cwd=tmp_path, env=environment, check=True)


@LINUX
def test_child_dies_with_its_parent() -> None:
    """The kernel kills the child of a parent that was killed."""
    script = """
import subprocess, sys, time
from server.system.processes import dying_with_parent
print(subprocess.Popen(["sleep", "60"], preexec_fn=dying_with_parent()).pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        python("-c", script), env=python_environment(os.environ), stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone or child.status() == psutil.STATUS_ZOMBIE


@LINUX
def test_child_of_dead_parent_ends_at_once() -> None:
    """A parent that died before the child asked is noticed all the same."""
    script = f"from server.system.processes import die_with_parent; die_with_parent({os.getpid() + 1})"
    done = subprocess.run(python("-c", script), env=python_environment(os.environ), check=False)
    assert done.returncode == 1


def test_limits_are_lowered_never_raised() -> None:
    """A limit that is lower already stays; one for good cannot be raised again."""
    assert (
        run("""
lower_limit(resource.RLIMIT_NOFILE, 64)
lower_limit(resource.RLIMIT_NOFILE, 128)
print(resource.getrlimit(resource.RLIMIT_NOFILE))
""")
        == "(64, 64)"
    )


def test_cpu_limit_counts_from_now() -> None:
    """The limit can be set again, and lies a little above the time used so far."""
    out = run("""
limit_cpu(100)
limit_cpu(2.5)
print(*resource.getrlimit(resource.RLIMIT_CPU))
""").split()
    assert int(out[0]) in (3, 4)
    assert int(out[1]) == resource.getrlimit(resource.RLIMIT_CPU)[1]


def test_used_up_cpu_time_ends_process() -> None:
    """A process that spins is ended by SIGXCPU."""
    script = "from server.system.processes import limit_cpu; limit_cpu(0.1)\nwhile True: pass"
    done = subprocess.run(python("-c", script), env=python_environment(os.environ), check=False)
    assert exit_text(done.returncode) == "was killed by SIGXCPU"


def test_refused_cpu_limit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """No session runs without its limit; other limits may be refused."""

    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise OSError("not on this system")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    lower_limit(resource.RLIMIT_CORE, 0)
    with pytest.raises(OSError, match="not on this system"):
        limit_cpu(1)


@LINUX
def test_process_steps_back() -> None:
    """Niceness and the score for the kernel's choice of a victim are set."""
    out = run("step_back(3, oom_score=500); print(os.nice(0), open('/proc/self/oom_score_adj').read())")
    assert out.split() == [str(min(19, os.nice(0) + 3)), "500"]


def test_stop_signals_are_ignored_but_not_inherited() -> None:
    """The process goes on; a program that it starts can still be terminated."""
    assert (
        run("""
import signal, subprocess
ignore_stop_signals()
for number in STOP_SIGNALS:
    signal.raise_signal(number)
sleeper = subprocess.Popen(["sleep", "60"])
sleeper.terminate()
print(exit_text(sleeper.wait(10)))
""")
        == "was killed by SIGTERM"
    )


def test_family_is_killed_with_its_leader() -> None:
    """A group goes at once, and a process that leads none is killed alone."""
    with subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True
    ) as shell:
        assert shell.stdout is not None
        grandchild = psutil.Process(int(shell.stdout.readline()))
        kill_family(shell.pid)
        assert shell.wait(10) == -signal.SIGKILL
    gone, _ = psutil.wait_procs([grandchild], timeout=10)
    assert gone or grandchild.status() == psutil.STATUS_ZOMBIE
    assert not kill_group(shell.pid)

    with subprocess.Popen(["sleep", "60"]) as alone:
        kill_family(alone.pid)
        assert alone.wait(10) == -signal.SIGKILL


def test_import_stays_light() -> None:
    """An image process starts with this module: it loads no event loop."""
    loaded = set(run("import sys; from server.system import memory_files; print(*sys.modules)").split())
    assert "server.system.memory_files" in loaded
    assert not loaded & {"asyncio", "subprocess", "tempfile", "socket"}
