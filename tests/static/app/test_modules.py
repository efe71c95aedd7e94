"""Scripts without page or server: their rules in Node, and QR codes by a decoder."""

from __future__ import annotations

import json
import random
import re
import shutil
import string
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pytest

from testkit.plugin import missing
from testkit.processes import ROOT, run_program

HERE: Final = Path(__file__).parent
QR: Final = (ROOT / "static" / "app" / "qr.js").as_uri()
PIXELS: Final = 6
"""Width of a module in the picture that is decoded."""


async def node(*arguments: str) -> str:
    """Return the output of a Node process; fail with it if the process does."""
    found = shutil.which("node")
    if found is None:
        missing("Node.js")
    status, output, errors = await run_program(found, "--no-warnings", *arguments, seconds=60)
    assert status == 0, output + errors
    return output


RULES: Final = sorted(HERE.parent.rglob("*.test.mjs"))
"""One file for each module, in the place that mirrors the module's."""


@pytest.mark.parametrize("path", RULES, ids=[path.name for path in RULES])
async def test_module_keeps_its_rules_in_node(path: Path) -> None:
    """Every rule is kept, and there is one; a file that is cut short has none."""
    assert re.search(
        r"^# pass [1-9]\d*\n# fail 0\n# cancelled 0$", await node("--test-reporter=tap", str(path)), re.MULTILINE
    )


ENCODE: Final = f"""
const {{ encode }} = await import("{QR}");
const texts = JSON.parse(process.argv[1]);
console.log(JSON.stringify(texts.map((text) => encode(text).map((row) => row.map(Number)))));
"""


def picture(modules: list[list[int]]) -> Any:
    """Return the code with its quiet zone, black on white."""
    light = np.pad(np.array(modules, dtype=np.uint8), 4)
    return np.kron((1 - light) * 255, np.ones((PIXELS, PIXELS), dtype=np.uint8)).astype(np.uint8)


async def test_qr_codes_are_read_by_decoder() -> None:
    """Links as long as share links are; codes with and without a version field."""
    dice = random.Random(15)
    texts = ["https://example.org/", "Grüße: 試着"]
    for length in (30, 61, 62, 120, 213, 214, 260, 300, 420, 700):
        texts.append("https://tryon.example/" + "".join(dice.choices(string.ascii_letters + string.digits, k=length)))
    codes = json.loads(await node("--input-type=module", "-e", ENCODE, json.dumps(texts)))
    assert [len(code) for code in codes[:2]] == [25, 25]
    decoder = cv2.QRCodeDetectorAruco()
    assert [decoder.detectAndDecode(picture(code))[0] for code in codes] == texts
