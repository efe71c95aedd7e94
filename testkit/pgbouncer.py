"""A real PgBouncer in front of the PostgreSQL of the tests, in transaction mode."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from server.system.processes import dying_with_parent
from testkit.processes import START_SECONDS, free_port


def find_pgbouncer() -> str | None:
    """Return the program, which Debian installs where only root looks; None without."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class PgBouncer:
    """A pooler that gives each transaction one of ``size`` connections."""

    def __init__(self, program: str, server_port: int, *, size: int = 3) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pb-", dir="/tmp"))
        self.port = free_port()
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server_port} user=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = {size}\nmax_client_conn = 100\n"
        )
        self._folder.chmod(0o755)
        settings.chmod(0o644)
        as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, *as_nobody, str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dying_with_parent(),
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer did not start: {(self._folder / 'log').read_text()}")
            time.sleep(0.005)  # nothing announces that it listens

    def __repr__(self) -> str:
        return f"<PgBouncer port={self.port} pid={self._process.pid}>"

    def close(self) -> None:
        """End it, and its connections."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
