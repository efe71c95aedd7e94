"""``python -m server.system.preload <module> <arguments>``: load the module's code,
wait for a byte on stdin, then run it.

What `tryon up` starts while the migrations still run: most of a Python process's start
is importing, and this way web, worker and migrations import at the same time (ready
after 2.0 s instead of 2.7 on two cores).
"""

import importlib
import runpy
import sys

#: What each program would import first of all; importing these has no effect of its
#: own.
HEAVY = {
    "server": ("server.web.app", "server.web.serving.server"),
    "arq": ("arq.cli", "arq.worker", "server.services"),
}


def main() -> None:
    module = sys.argv.pop(1)
    for name in HEAVY[module]:
        importlib.import_module(name)
    if sys.stdin.buffer.read(1):  # nothing: the stack gave up
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
