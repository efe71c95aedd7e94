"""A real nginx in front of the product, as its package installs it: no Upgrade.

Its log has one line per answer, from which a test counts what was open at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from testkit.installed import running_program
from testkit.processes import free_port

CONFIGURATION: Final = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  log_format answers '$msec $request_time $status $uri';
  access_log {folder}/access.log answers;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  server {{
    listen 127.0.0.1:{port};
    {locations}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of the log; times in seconds since 1970."""

    began: float
    ended: float
    status: int
    path: str


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx that passes everything to one port."""

    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> Iterator[Answer]:
        """Yield the answers that have ended, in the order of their ends."""
        for line in (self.folder / "access.log").read_text().splitlines():
            ended, seconds, status, path = line.split(maxsplit=3)
            yield Answer(float(ended) - float(seconds), float(ended), int(status), path)


@contextlib.asynccontextmanager
async def running_nginx(target: int, folder: Path, *, locations: str | None = None) -> AsyncIterator[Nginx]:
    """Pass a free port on to ``target`` until the end of the block.

    ``locations``: the blocks of the server; one that passes everything unless given.
    The test is skipped with a loud reason where nginx is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    configuration = folder / "nginx.conf"
    locations = locations or f"location / {{ proxy_pass http://127.0.0.1:{target}; }}"
    configuration.write_text(CONFIGURATION.format(folder=folder, port=port, locations=locations))
    async with running_program("nginx", "-c", str(configuration), "-p", str(folder), port=port, folder=folder):
        yield Nginx(port, folder)


def most_at_once(answers: list[Answer], *, overlap_seconds: float = 0.1) -> int:
    """Return how many of these answers were open at the same time.

    Less overlap than ``overlap_seconds`` does not count: one end and the next beginning
    pass each other on their ways to nginx.
    """
    return max(
        (sum(other.began <= one.began < other.ended - overlap_seconds for other in answers) for one in answers),
        default=0,
    )
