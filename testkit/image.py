"""Build and run a Dockerfile without a container engine: overlays, chroot, setpriv.

Each stage begins as this machine's own root file system (the base image's place is
taken by it: its Python, its package manager) under an overlay that takes the changes.
A container is a process in a mount namespace: the image read-only, ``/tmp`` and the
volume writable, the image's user, no capability. Cgroups, the network and seccomp are
the host's. Needs root and Linux.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from testkit.processes import ROOT, spawn

BUILD_SECONDS: Final = 170.0
"""Longest build; half a minute on an idle machine."""


class ImageError(Exception):
    """The image cannot be built, or not here."""


@dataclass(slots=True)
class Stage:
    """One stage of a Dockerfile, as far as it has been read."""

    name: str
    layers: list[Path]
    """Folders with the changes of the stage: one while it is built."""
    variables: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments, lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


class Image:
    """The last stage of a Dockerfile, built below ``folder``."""

    def __init__(self, dockerfile: Path, folder: Path) -> None:
        self._dockerfile = dockerfile
        self._folder = folder
        self._stages: dict[str, Stage] = {}
        self.stage = Stage("", [])

    def build(self) -> Image:
        """Follow the instructions. Raises :class:`ImageError`."""
        if sys.platform != "linux" or os.geteuid() != 0:
            raise ImageError("overlays and chroot need root and Linux")
        for word, rest in instructions(self._dockerfile.read_text()):
            handler = getattr(self, f"_{word.lower()}", None)
            if handler is None:
                raise ImageError(f"{word} is not understood")
            handler(rest)
        return self

    # -- instructions ------------------------------------------------------------------

    def _from(self, rest: str) -> None:
        name = rest.partition(" AS ")[2] or f"stage{len(self._stages)}"
        layer = self._folder / name
        layer.mkdir(parents=True)
        self.stage = self._stages[name] = Stage(name, [layer], {"PATH": os.environ["PATH"]})
        # This machine's Python may lie in root's home, which other users cannot enter.
        self._do("chmod a+x /root")

    def _run(self, rest: str) -> None:
        self._do(rest)

    def _copy(self, rest: str) -> None:
        words = rest.split()
        source_stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        *sources, target = words
        for source in sources:
            into = PurePosixPath(target) / PurePosixPath(source).name if target.endswith("/") else PurePosixPath(target)
            origin = self._stages[source_stage].layers[0] if source_stage else self._context()
            taken, placed = origin / source.lstrip("/"), self.stage.layers[0] / str(into).lstrip("/")
            placed.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", "--no-target-directory", str(taken), str(placed)], check=True)

    def _env(self, rest: str) -> None:
        for word in shlex.split(rest):
            name, _, value = word.partition("=")
            self.stage.variables[name] = value.replace("$PATH", self.stage.variables["PATH"])

    def _workdir(self, rest: str) -> None:
        self.stage.directory = rest

    def _user(self, rest: str) -> None:
        self.stage.user = rest

    def _entrypoint(self, rest: str) -> None:
        self.stage.entrypoint = json.loads(rest)

    def _cmd(self, rest: str) -> None:
        self.stage.command = json.loads(rest)

    def _healthcheck(self, rest: str) -> None:
        self.stage.health = json.loads(rest.partition(" CMD ")[2])

    def _volume(self, rest: str) -> None:
        self.stage.volumes.append(rest)

    def _label(self, rest: str) -> None:
        pass

    def _expose(self, rest: str) -> None:
        pass

    # -- building ----------------------------------------------------------------------

    def _context(self) -> Path:
        """Return a copy of what git and ``.dockerignore`` let into the build."""
        context = self._folder / "context"
        if not context.exists():
            kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
            tracked = subprocess.run(
                ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split("\0")
            for name in filter(None, tracked):
                if any(fnmatch.fnmatch(name, f"{each}*") for each in kept) and (ROOT / name).is_file():
                    (context / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, context / name)
        return context

    def _do(self, shell_line: str) -> None:
        """Run a line in the stage as it is now, its changes kept."""
        script = [*self._inside(self.stage, changes=True), "sh", "-euc", shell_line]
        done = subprocess.run(
            self._unshared(script), capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        if done.returncode:
            raise ImageError(f"{shell_line}: {done.stdout[-400:]}{done.stderr[-600:]}")

    def _unshared(self, words: Sequence[str]) -> list[str]:
        return ["unshare", "--mount", "--propagation", "private", *words]

    def _inside(self, stage: Stage, *, changes: bool, volume: Path | None = None) -> list[str]:
        """Return the words that enter the stage's root; a command follows them."""
        root = self._folder / f"{stage.name}-root"
        work = self._folder / f"{stage.name}-work"
        for each in (root, work):
            each.mkdir(exist_ok=True)
        upper = stage.layers[0]
        lower = f"lowerdir=/,upperdir={upper},workdir={work}" if changes else f"lowerdir={upper}:/"
        lines = [
            "set -eu",
            f"mount -t overlay overlay -o {lower} {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",
        ]
        if volume is not None:
            lines.append(f"mount --bind {volume} {root}{stage.volumes[0]}")
        uid, gid = stage.user.split(":")
        confined = (
            "" if changes else f"setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs --bounding-set=-all "
        )
        lines.append(
            f'exec chroot {root} {confined}sh -c \'cd {stage.directory if not changes else "/"} && exec "$@"\' sh "$@"'
        )
        kept = ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "HOME", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
        host = {name: os.environ[name] for name in kept if changes and name in os.environ}
        variables = [f"{name}={value}" for name, value in (host | stage.variables).items()]
        return ["env", "-i", *variables, "sh", "-c", "\n".join(lines), "sh"]

    # -- running -----------------------------------------------------------------------

    async def start(
        self, *command: str, settings: Mapping[str, str], volume: Path, log: Path | None = None
    ) -> asyncio.subprocess.Process:
        """Start a container of the image with this volume; no command: the image's."""
        stage = self.stage
        words = [*stage.entrypoint, *(command or stage.command)]
        entered = self._inside(stage, changes=False, volume=volume)
        entered[2:2] = [f"{name}={value}" for name, value in settings.items()]
        return await spawn(*self._unshared(entered), *words, log=log, piped=log is None)
