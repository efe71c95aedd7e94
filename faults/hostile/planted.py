"""The server with a planted fault, so that a test sees each reported.

``python -m faults.hostile.planted serve`` is ``python -m server serve`` that
misbehaves with every :data:`EVERY` th upload, as the environment says.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from faults.hostile.usage import PLANTED

EVERY: Final = 20
_kept: list[object] = []


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang() -> None:
    time.sleep(3)  # as a loop that never ends would


def _server_error() -> None:
    raise RuntimeError("planted")


def _memory() -> None:
    _kept.append(os.urandom(20 * 2**20))


def _descriptors() -> None:
    _kept.extend(os.pipe() + os.pipe() + os.pipe())


def _process() -> None:
    _kept.append(subprocess.Popen(("sleep", "600"), start_new_session=True))


def _file() -> None:
    (Path(os.environ["TRYON_DATA_DIR"]) / "uploads" / "inputs" / f"{os.urandom(8).hex()}.jpg").write_bytes(b"planted")


PLANTS: Final[dict[str, Callable[[], None]]] = {
    "crash": _crash,
    "hang": _hang,
    "5xx": _server_error,
    "memory": _memory,
    "descriptors": _descriptors,
    "process": _process,
    "file": _file,
}
"""The faults by their names."""


def main() -> None:
    """Serve as the product does, but for the planted fault."""
    from server.cli.main import main as command
    from server.web.api.submit import SubmitEndpoints

    plant, uploads, upload = PLANTS[os.environ[PLANTED]], itertools.count(1), SubmitEndpoints.upload

    async def faulty(endpoints: Any, request: Any) -> Any:
        if next(uploads) % EVERY == 0:
            plant()
        return await upload(endpoints, request)

    SubmitEndpoints.upload = faulty  # type: ignore[method-assign, assignment]  # the only way in
    command()


if __name__ == "__main__":
    main()
