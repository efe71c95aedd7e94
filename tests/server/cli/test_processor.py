"""`tryon processor check` runs a processor once, as a worker would."""

from __future__ import annotations

import json
from pathlib import Path

from testkit.fixtures import StartStack
from testkit.photos import small

SEPIA = '''
from tryon.processor import Info, Output

class Sepia:
    """Returns its input, and says so."""
    info = Info(name="sepia", label="a test")
    def __init__(self, words="warming"):
        self.words = words
    async def run(self, job, report):
        await report(0.5, self.words)
        print("printed by the processor")
        return Output(job.input("person").read())

class Reader(Sepia):
    async def run(self, job, report):
        return Output(open("/etc/hostname", "rb").read())

class Liar(Sepia):
    async def run(self, job, report):
        return Output(b"no picture")
'''


async def test_check_runs_a_processor_of_the_folder(stack: StartStack, tmp_path: Path) -> None:
    """Every step is told, the picture is saved, and the next command is printed."""
    (tmp_path / "sepia.py").write_text(SEPIA)
    (tmp_path / "me.jpg").write_bytes(small())
    words = ("processor", "check", "sepia:Sepia", "me.jpg", "-o", "out.jpg", "--options", '{"words": "toning"}')
    check = await stack(*words, ready=False, folder=tmp_path)
    assert await check.wait() == 0, check.output
    steps = [line.split()[1] for line in check.lines if line.startswith("ok ")]
    assert steps == ["loads", "starts", "params", "photos", "runs", "result"]
    assert "toning" in check.errors
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
