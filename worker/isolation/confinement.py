"""The sandbox of a processor, which closes in two steps.

Before the processor is made, while its child has one thread, the child gives up the
product's files, and the memory and signals of other processes. The rest closes after
``start()``, which may download weights: the network, the services of this machine, and
all files but its code, its ``reads``, its temporary folder and :data:`READABLE`.

A thread that ``start()`` has left behind keeps the files of the first step; system
calls are refused in all threads (:mod:`server.system.sandbox`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final
from urllib.parse import parse_qs, urlsplit

from server.config.database_url import parse_database_url
from server.config.settings import Config
from server.config.storage_url import credential_names
from server.system import landlock, sandbox
from server.system.sandbox import Policy, Sandbox
from tryon.processor import Needs
from worker.processors.registry import options_file

_ROOT, _PROC, _ETC, _DEV = (Path(each) for each in ("/", "/proc", "/etc", "/dev"))

_SYSTEM: Final = ("usr", "lib", "lib32", "lib64", "bin", "sbin", "nix/store", "gnu/store", "sys/devices/system")
_SETTINGS: Final = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "alternatives", "localtime", "timezone"),
    *("passwd", "group", "nsswitch.conf", "os-release", "lsb-release", "locale.alias", "locale.conf"),
    *("fonts", "mime.types", "magic", "ImageMagick-6", "ImageMagick-7", "OpenCL", "vulkan", "glvnd", "egl"),
    *("ssl/certs", "ssl/openssl.cnf", "pki/tls/certs", "pki/tls/openssl.cnf", "pki/ca-trust/extracted"),
    *("crypto-policies", "ca-certificates", "resolv.conf", "hosts", "host.conf", "gai.conf", "services", "protocols"),
)
"""Settings of libraries below ``/etc``. None holds a secret."""
READABLE: Final = (*(_ROOT / each for each in _SYSTEM), *(_ETC / each for each in _SETTINGS))
"""Programs and libraries of the system, and their settings."""

_MACHINE: Final = ("cpuinfo", "meminfo", "stat", "loadavg", "uptime", "version", "filesystems", "devices", "sys")
_DEVICES: Final = ("null", "zero", "full", "random", "urandom")

GPU_DEVICES: Final = ("nvidia*", "dri", "kfd", "dxg")
"""Devices of GPUs below ``/dev``: NVIDIA, Mesa, ROCm, WSL."""
_GPU_READABLE: Final = (Path("/sys"), _PROC / "driver", _PROC / "modules", Path("/opt/rocm"), Path("/run/nvidia"))


def hidden_paths(config: Config) -> list[str]:
    """Return the product's own files: no child of a worker may open them."""
    paths = [str(path.resolve()) for path in (config.data_dir, Path(".env"))]
    if (options := options_file(config)) is not None:  # it may hold an upstream's key
        paths.append(str(options.resolve()))
    if database := parse_database_url(config.database).path:
        paths += [f"{Path(database).resolve()}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")]
    # Files of keys: those that the storage's variables name, and those of Redis's TLS.
    named = [os.environ[name] for name in credential_names(config.storage_url, os.environ)]
    for url in filter(None, (config.redis_url, config.queue_redis_url)):
        named += parse_qs(urlsplit(url).query).get("ssl_keyfile", [])
    return paths + [str(Path(each).resolve()) for each in named if each.startswith("/") and Path(each).is_file()]


def code_paths(
    modules: Mapping[str, ModuleType], search_path: Sequence[str], hidden: Sequence[Path]
) -> tuple[Path, ...]:
    """Return the files and folders of Python, and of the code that it finds.

    Of a folder that holds more than code, which is the working directory and any that
    has a ``hidden`` path below it, only the packages that are loaded.
    """
    here = Path.cwd()
    entries = {Path(entry or here).resolve() for entry in search_path}
    mixed = {each for each in entries if each == here or any(each in path.parents or each == path for path in hidden)}
    libraries = (Path(each).resolve() for each in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if each)
    found = {Path(each).resolve() for each in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)}
    found |= {Path(sys.executable), *entries, *libraries} - mixed - {_ROOT}
    for module in [module for name, module in modules.items() if "." not in name]:
        places = [file] if (file := getattr(module, "__file__", None)) else list(getattr(module, "__path__", ()))
        for place in (Path(each).resolve() for each in places):
            holder = next((each for each in (place, *place.parents) if each.parent in mixed), None)
            if holder is not None and holder not in mixed:
                found.add(holder)
    return tuple(sorted(each for each in found if not any(parent in found for parent in each.parents)))


class Confinement:
    """The sandbox of one child, which closes in two steps."""

    def __init__(self, code: Iterable[Path], temporary: Path) -> None:
        own = _PROC / str(os.getpid())
        self._rules = (
            *((path, landlock.READ) for path in (*code, own)),
            (temporary.resolve(), landlock.ALL),
        )

    def __repr__(self) -> str:
        return f"<Confinement rules={len(self._rules)}>"

    def hide_product(self, hidden: Iterable[str], reads: Iterable[str]) -> None:
        """Give up the product's files and other processes; one thread runs.

        The files in a folder above a hidden path, and what it gets later, are given up
        as well, but for code and ``reads``.
        """
        closed = {_PROC, *map(Path, hidden)}
        roots = (_ROOT, *(Path(each).resolve() for each in reads))
        shown = (path for root in roots for path in landlock.without(root, closed))
        machine = (_PROC / name for name in (*_MACHINE, "driver", "modules"))
        paths = [(path, landlock.ALL) for path in (*shown, _PROC / str(os.getpid()))]
        sandbox.hide([*paths, *((path, landlock.READ) for path in machine), *self._rules])

    def close(self, needs: Needs) -> list[str]:
        """Close the sandbox; return the layers that this machine lacks.

        Raises OSError: a layer that is there cannot be closed.
        """
        rules = (*self._rules, *_rules_of(needs))
        closed = Sandbox(Policy(rules=rules, network=needs.needs_network, programs=True, own_user=False, scoped=False))
        closed.enter()
        return closed.missing


def _rules_of(needs: Needs) -> Iterable[tuple[Path, int]]:
    """Return the rules for the system's files, and for those that a processor names."""
    for path in (*READABLE, *(_PROC / name for name in _MACHINE), *map(Path, needs.reads)):
        yield path, landlock.READ
    for name in _DEVICES:
        yield _DEV / name, landlock.OF_FILES
    if needs.needs_gpu:
        yield from ((path, landlock.READ) for path in _GPU_READABLE)
        yield from ((path, landlock.ALL) for name in GPU_DEVICES for path in _DEV.glob(name))
