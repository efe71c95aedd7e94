"""``python -m testkit.second_chance FILE``: run tests that failed once more, alone.

Three processes of tests keep two cores so busy that a test may wait in vain for what is
there a moment later. A test that fails alone, too, has failed. Fault rows run apart and
get no other chance: they exist to find what happens once in a hundred times. Failures
in many files are no accident either.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from testkit.processes import ROOT

MOST: Final = 5
"""Maximum number of files with tests that failed by accident.

A fixture that fails takes all tests of its file along.
"""


def chosen(failures: str) -> list[str]:
    """Return the tests to run again, from what ``--failures-to`` wrote."""
    found = sorted({re.sub(r"@[\w .-]+$", "", each) for each in re.findall(r"^=== failed: (.+) ===$", failures, re.M)})
    return [] if len({each.partition("::")[0] for each in found}) > MOST else found


def main(failures: Path) -> int:
    """Return 0 if each of the tests passes alone, which the file then says, else 1."""
    tests = chosen(failures.read_text())
    if not tests:
        return 1
    print(f"=== {len(tests)} tests once more, alone ===", flush=True)
    if subprocess.run([sys.executable, "-m", "pytest", *tests], cwd=ROOT, check=False).returncode:
        return 1
    with failures.open("a") as file:
        file.writelines(f"UNSTEADY: {each} failed beside others, and passed alone\n" for each in tests)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
