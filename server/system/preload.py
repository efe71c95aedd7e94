"""Load a program's code, and run it when the stack says so.

``python -m server.system.preload <module> <arguments>`` imports the module's code,
waits for a byte on standard input and then runs the module. ``tryon up`` starts this
while the migrations still run: most of a Python process's start is importing, and this
way web, worker and migrations import at the same time (ready after 2.0 s instead of 2.7
on two cores).
"""

from __future__ import annotations

import importlib
import runpy
import sys
from typing import Final

HEAVY: Final = {
    "server": ("server.web.app", "server.web.serving.server"),
    "arq": ("arq.cli", "arq.worker", "server.services"),
}
"""The modules that each program imports first; importing them has no effect of its own.
"""


def main() -> None:
    """Load, wait, run."""
    module = sys.argv.pop(1)
    for name in HEAVY[module]:
        importlib.import_module(name)
    if sys.stdin.buffer.read(1):  # no byte: the stack gave up
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
