"""The error codes in ``static/tryon.d.ts``, made from the protocol's tables.

``python -m testkit.declarations`` prints them; with ``--write`` it puts them into the
file. A test holds the file to them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from testkit.processes import ROOT
from tryon.protocol.errors import CODES, FAILURES, LIMITS, QUOTAS

TYPES: Final = ROOT / "static" / "tryon.d.ts"
BEGIN, END = "// <made by python -m testkit.declarations>\n", "// </made>\n"

COLUMNS: Final = 120


def union(name: str, job: str, values: Iterable[str]) -> str:
    """Return a documented type of these strings, wrapped at 120 columns."""
    lines, line = [], f"/** {job} */\nexport type {name} =\n "
    for value in values:
        part = f' | "{value}"'
        if len(line.rpartition("\n")[2]) + len(part) > COLUMNS - 1:
            lines.append(line)
            line = " "
        line += part
    return "\n".join((*lines, line)) + ";\n"


def section() -> str:
    """Return the declarations of all codes."""
    return "".join(
        (
            union("RefusalCode", "Codes of a refused call, and of a session that is gone.", CODES),
            union("FailureCode", "Codes of a failed session. A processor may add its own.", FAILURES),
            union(
                "LimitName",
                "Limits of `rate_limited`, called like their settings, and of `over_quota`, the fields of a plan.",
                (*LIMITS, *QUOTAS),
            ),
        )
    )


def written(text: str) -> str:
    """Return the file with the codes of today's tables."""
    before, found, rest = text.partition(BEGIN)
    assert found, f"{Path(TYPES).name} has no place for the codes"
    return f"{before}{BEGIN}{section()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        TYPES.write_text(written(TYPES.read_text()))
    else:
        print(section(), end="")
