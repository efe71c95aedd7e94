"""A real proxy in front of several web processes, with the configuration of deploy/.

It may be killed, started again, stopped and reloaded while clients are connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import httpx
import psutil

from testkit.installed import PLACES
from testkit.plugin import missing
from testkit.processes import ROOT, free_port, listening, spawn

DEPLOY: Final = ROOT / "deploy"
KINDS: Final = ("nginx", "haproxy", "caddy")
FILES: Final = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "caddy": "Caddyfile"}
PORT_OF_CONFIGURATION: Final = "8080"
NODES: Final = ("127.0.0.1:8001", "127.0.0.1:8002")
"""Addresses of the web processes in each file of deploy/."""
ADMIN: Final = "127.0.0.1:2019"
"""Address at which Caddy takes a new configuration."""
END_SECONDS: Final = 10.0
RELOAD_SECONDS: Final = 60.0
SIGNAL_SECONDS: Final = 1.0


Certificate: TypeAlias = tuple[Path, Path]
"""A certificate and its key, as :meth:`Authority.issue` writes them."""


def _uncommented(text: str, *changes: tuple[str, object]) -> str:
    """Return the file with its commented lines in force that name the first of a pair.

    The second stands in its place.
    """
    for shown, given in changes:
        text, count = re.subn(rf"^( *)# ?(.*){re.escape(shown)}", rf"\g<1>\g<2>{given}", text, flags=re.M)
        count = count or text.count(shown)
        assert count == 1, f"{shown} stands in {count} lines"
        text = text.replace(shown, str(given))
    return text


class Balancer:
    """A proxy that passes one port on to several; made with its configuration.

    ``certificate``: it speaks TLS and HTTP/2, as its file shows in comments.
    """

    def __init__(
        self, kind: str, targets: Sequence[int], folder: Path, *, port: int = 0, certificate: Certificate | None = None
    ) -> None:
        assert kind in KINDS and len(targets) == len(NODES)
        self.kind = kind
        self._certificate = certificate
        self.port = port or free_port()
        self.folder = folder
        self.log = folder.parent / "logs" / f"{kind}.log"
        self.configuration = folder / FILES[kind]
        self._admin = f"127.0.0.1:{free_port()}"
        self._process: asyncio.subprocess.Process | None = None
        for made in (folder, self.log.parent):
            made.mkdir(parents=True, exist_ok=True)
        self.configuration.write_text(self._text(targets))

    def __repr__(self) -> str:
        return f"<Balancer {self.kind} {self.url}>"

    @property
    def url(self) -> str:
        return f"{'http' if self._certificate is None else 'https'}://127.0.0.1:{self.port}"

    def _text(self, targets: Sequence[int]) -> str:
        """Return the file of deploy/ with ports and folders of this run."""
        text = (DEPLOY / FILES[self.kind]).read_text()
        for node, target in zip(NODES, targets, strict=True):
            assert node in text, f"{FILES[self.kind]} does not name {node}"
            text = text.replace(node, f"127.0.0.1:{target}")
        plain = self.port
        if self._certificate is not None:
            plain = free_port()
            text = self._secured(text, self._certificate)
        if self.kind == "nginx":
            text = text.replace("pid /run/nginx.pid;", f"pid {self.folder}/nginx.pid;")
            text = text.replace(f"listen {PORT_OF_CONFIGURATION}", f"listen 127.0.0.1:{plain}")
            temporary = "".join(
                f"    {name}_temp_path {self.folder}/{name};\n"
                for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            return text.replace("http {\n", "http {\n" + temporary, 1)
        if self.kind == "haproxy":
            return text.replace(f"bind :{PORT_OF_CONFIGURATION}", f"bind 127.0.0.1:{plain}")
        address = f"http://:{PORT_OF_CONFIGURATION} {{"
        text = re.sub(rf"^{re.escape(address)}", f"http://:{plain} {{\n    bind 127.0.0.1", text, flags=re.M)
        return text.replace(ADMIN, self._admin)

    def _secured(self, text: str, certificate: Certificate) -> str:
        """Return the file with its lines for TLS in force."""
        public, private = certificate
        if self.kind == "caddy":  # it would fetch a certificate for a name, and redirect from port 80
            text = text.replace("{\n    admin", "{\n    auto_https disable_redirects\n    admin", 1)
            secured = f"{self.url} {{\n    bind 127.0.0.1\n    tls {public} {private}\n"
            return text.replace(f"http://:{PORT_OF_CONFIGURATION} {{\n", secured)
        if self.kind == "haproxy":
            both = self.folder / "both.pem"
            both.write_bytes(public.read_bytes() + private.read_bytes())
            return _uncommented(text, ("bind :443", f"bind 127.0.0.1:{self.port}"), ("/etc/ssl/shop.example.pem", both))
        return _uncommented(
            text,
            ("listen 443", f"listen 127.0.0.1:{self.port}"),
            ("/etc/ssl/shop.example.pem", public),
            ("/etc/ssl/shop.example.key", private),
        )

    def _command(self) -> tuple[str, ...]:
        found = shutil.which(self.kind, path=PLACES)
        if found is None:
            missing(f"{self.kind} (Debian: apt-get install {self.kind})")
        file = str(self.configuration)
        return {
            "nginx": (found, "-g", "daemon off;", "-c", file, "-p", str(self.folder)),
            "haproxy": (found, "-W", "-f", file),
            "caddy": (found, "run", "--adapter", "caddyfile", "--config", file),
        }[self.kind]

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it (again), and return when it listens."""
        assert not self.running, "it runs already"
        folders = {name: str(self.folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        self._process = await spawn(
            *self._command(), settings=folders, folder=self.folder, log=self.log, end_signal=signal.SIGTERM
        )
        await listening(self.port, self._process)

    async def reload(self) -> None:
        """Have it read its configuration again; connections that are open go on."""
        assert self._process is not None
        if self.kind != "caddy":
            async with asyncio.timeout(RELOAD_SECONDS):
                await self._signal_reload()
            return
        program = self._command()[0]
        options = ("--adapter", "caddyfile", "--config", str(self.configuration), "--address", self._admin)
        loading = await spawn(program, "reload", "--force", *options, folder=self.folder, log=self.log)
        assert await loading.wait() == 0, f"Caddy refused its configuration: {self.log.read_text()}"

    async def _signal_reload(self) -> None:
        """Send the signal until new workers run: HAProxy drops one that comes early."""
        assert self._process is not None
        while not (before := self._workers()):
            await asyncio.sleep(0.01)
        while not self._workers() - before:
            self._process.send_signal(signal.SIGHUP if self.kind == "nginx" else signal.SIGUSR2)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SIGNAL_SECONDS):
                    while not self._workers() - before:
                        await asyncio.sleep(0.01)

    def _workers(self) -> set[int]:
        """Return the process ids of its workers, old and new ones."""
        assert self._process is not None
        return {worker.pid for worker in psutil.Process(self._process.pid).children()}

    async def failures(self) -> int:
        """Return the failures of web processes that Caddy counts; 0 of other kinds.

        Caddy leaves a process out for a moment then, and its clients wait.
        """
        if self.kind != "caddy":
            return 0
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://{self._admin}/reverse_proxy/upstreams")
        return sum(each["fails"] for each in answer.raise_for_status().json())

    async def kill(self) -> None:
        """End it with all of its processes at once; its connections are reset."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def close(self) -> None:
        """End it, at once for those who are still connected."""
        if not self.running:
            return
        assert self._process is not None
        self._process.send_signal(signal.SIGINT if self.kind == "nginx" else signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        if self.running:
            await self.kill()
