"""`tryon processor check` runs a processor once, as a worker would."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from testkit.fixtures import StartStack
from testkit.photos import small
from tryon.protocol.errors import UnsupportedMedia

SEPIA = '''
from tryon.processor import Info, Output

class Sepia:
    """Returns its input, and says so."""
    info = Info(name="sepia", label="a test")
    def __init__(self, words="warming"):
        self.words = words
    async def run(self, job, report):
        await report(0.5, self.words)
        await report.checkpoint({})  # answered when the report has been passed on
        print("half a line of the processor's", end="", flush=True)
        return Output(job.input("person").read())

class Reader(Sepia):
    async def run(self, job, report):
        return Output(open("/etc/hostname", "rb").read())

class Liar(Sepia):
    async def run(self, job, report):
        return Output(b"no picture")

class Sized(Sepia):
    info = Info(name="sized", params_schema={"properties": {"size": {"enum": ["S", "M"]}}})

class Unmade(Sepia):
    def __init__(self):
        raise OSError("no weights\\nin this folder")
'''

SLOW = """
import asyncio

class Slow(Sepia):
    async def run(self, job, report):
        await report(0.5, "on its way")
        await asyncio.sleep(60)
"""

MISUSES = (
    (["sepia:Sepia", "nowhere.jpg"], "'nowhere.jpg' does not exist"),
    (["sepia:Sepia", "me.jpg", "--garment", "nowhere.jpg"], "'nowhere.jpg' does not exist"),
    (["sepia:Sepia", "me.jpg", "--input", "garment=nowhere.jpg"], "there is no file nowhere.jpg"),
    (["sepia:Sepia", "me.jpg", "--input", "garment"], "'garment' is not ROLE=FILE"),
    (["sepia:Sepia", "me.jpg", "--params", "{size: M}"], "it is not JSON: "),
    (["sepia:Sepia", "me.jpg", "--params", "[]"], "it is not a JSON object"),
    (["sepia:Sepia", "me.jpg", "--options", "{"], "tryon: --options: it is not JSON: "),
    (["sepia:Sepia", "me.jpg", "--options", "no.toml"], "tryon: --options: cannot read 'no.toml': No such file"),
    (["sepia:Sepia", "me.jpg", "--options", "notes.txt"], "tryon: --options: notes.txt is no TOML file: "),
    (["sepia:Sepia", "me.jpg", "-o", "no/out.jpg"], "there is no folder "),
)
"""Arguments that are wrong, and what is said of them."""

FAILURES = {
    "a text": (
        ["sepia:Sepia", "notes.txt"],
        2,
        f"photos       notes.txt: {UnsupportedMedia('unsupported_image').detail}",
    ),
    "an unknown role": (["sepia:Sepia", "me.jpg", "--input", "hat=me.jpg"], 2, "photos       it has no role 'hat'"),
    "params": (["sepia:Sized", "me.jpg", "--params", '{"size": "L"}'], 2, "params       /size: "),
    "options": (
        ["sepia:Sepia", "me.jpg", "--options", '{"colour": 1}'],
        1,
        "loads        'sepia:Sepia' cannot be loaded (TypeError",
    ),
    "no module": (
        ["nowhere:Sepia", "me.jpg"],
        1,
        "loads        'nowhere:Sepia' cannot be loaded (ModuleNotFoundError: No module",
    ),
    "a broken module": (
        ["broken:Sepia", "me.jpg"],
        1,
        "loads        'broken:Sepia' cannot be loaded (ZeroDivisionError: division by zero)",
    ),
    "a constructor": (
        ["sepia:Unmade", "me.jpg"],
        1,
        "loads        'sepia:Unmade' cannot be loaded (OSError: no weights in this folder)",
    ),
}
"""Arguments with which a step fails, the exit status, and the line of the step."""


async def test_check_runs_a_processor_of_the_folder(stack: StartStack, tmp_path: Path) -> None:
    """Every step is printed, the picture is saved, and the next command is named."""
    (tmp_path / "sepia.py").write_text(SEPIA)
    (tmp_path / "me.jpg").write_bytes(small())
    words = ("processor", "check", "sepia:Sepia", "me.jpg", "-o", "out.jpg", "--options", '{"words": "toning"}')
    check = await stack(*words, ready=False, folder=tmp_path)
    assert await check.wait() == 0, check.output
    steps = [line.split()[1] for line in check.lines if line.startswith("ok ")]
    assert steps == ["loads", "starts", "params", "photos", "runs", "result"]
    assert "half a line of the processor's" in check.output
    assert "toning" in check.output
    assert "  TRYON_PROCESSOR=sepia:Sepia tryon up" in check.errors
    assert (tmp_path / "out.jpg").read_bytes()[:2] == b"\xff\xd8"


async def test_check_names_the_step_that_fails(stack: StartStack, tmp_path: Path) -> None:
    """A class that is not there, a file that is out of reach, and a false picture."""
    (tmp_path / "sepia.py").write_text(SEPIA)
    (tmp_path / "me.jpg").write_bytes(small())
    for name, step, part in (
        ("sepia:Nothing", "loads", "sepia:Nothing"),
        ("sepia:Liar", "result", "image/jpeg"),
        ("sepia:Reader", "runs", "PermissionError"),
    ):
        check = await stack(*("processor", "check", name, "me.jpg", "--json"), ready=False, folder=tmp_path)
        assert await check.wait() == 1, check.output
        last = json.loads(check.lines[-1])
        if name == "sepia:Reader" and last["name"] != "runs":
            continue  # this machine lacks the sandbox
        assert (last["name"], last["ok"]) == (step, False), check.output
        assert part in last["text"], check.output


def fill(folder: Path) -> None:
    """Write processors, a photo and a text."""
    (folder / "sepia.py").write_text(SEPIA)
    (folder / "broken.py").write_text("from sepia import Sepia\n1 / 0\n")
    (folder / "me.jpg").write_bytes(small())
    (folder / "notes.txt").write_text("A text is no photo, and no options either.")


@pytest.mark.parametrize(("words", "message"), MISUSES)
async def test_check_refuses_wrong_arguments(words: list[str], message: str, stack: StartStack, tmp_path: Path) -> None:
    """Exit with 2 and one line, before any process of the processor starts."""
    fill(tmp_path)
    check = await stack("processor", "check", *words, ready=False, folder=tmp_path)
    assert (await check.wait(), check.lines) == (2, []), check.output
    assert message in check.errors[-1]
    assert len(check.errors) == 1 or check.errors[0].startswith("Usage: ")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name not in ("a text", "a constructor") else name
        for name in FAILURES
    ],
)
async def test_check_says_in_one_line_what_fails(name: str, stack: StartStack, tmp_path: Path) -> None:
    """A wrong photo or parameter exits with 2, a processor that fails with 1."""
    words, status, line = FAILURES[name]
    fill(tmp_path)
    check = await stack("processor", "check", *words, ready=False, folder=tmp_path)
    assert await check.wait() == status, check.output
    failed = [each for each in check.lines if each.startswith("FAILED")]
    assert len(failed) == 1, check.output
    assert failed[0].startswith(f"FAILED  {line}")
    assert "Traceback" not in check.output


@pytest.mark.slow
async def test_interrupted_check_ends_in_silence(stack: StartStack, tmp_path: Path) -> None:
    """Ctrl-C ends the command and the processor's processes with 130."""
    (tmp_path / "slow.py").write_text(f"{SEPIA}{SLOW}")
    (tmp_path / "me.jpg").write_bytes(small())
    check = await stack("processor", "check", "slow:Slow", "me.jpg", ready=False, folder=tmp_path)
    await check.line("on its way")
    trial = Path(f"/proc/{check.process.pid}/task/{check.process.pid}/children").read_text().split()
    for process in (*map(int, trial), check.process.pid):  # a terminal signals both
        os.kill(process, signal.SIGINT)
    assert await check.wait() == 130
    assert "Traceback" not in check.output
