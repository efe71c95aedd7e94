"""The checks of ``tryon doctor``, one function each.

A check changes nothing and starts nothing that would take a GPU. Its finding is
``ok``, a ``warning`` (it works, or will once it is started) or ``broken``.
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import shutil
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import click
import msgspec

from server import __version__
from server.adapters.database.database import open_database
from server.adapters.database.start_check import check_database, describe_database
from server.adapters.files.local import LocalFiles
from server.adapters.files.opening import check_storage
from server.adapters.files.threads import StorageThreads
from server.adapters.redis.delivery import try_delivery
from server.adapters.redis.errors import UNAVAILABLE
from server.adapters.redis.start_check import check_redis
from server.cli.wording import duration, size
from server.config.authorities import served_name
from server.config.database_url import parse_database_url
from server.config.parsing import private_token
from server.config.settings import Config, ConfigError
from server.config.users import callers_without_limit
from server.sessions.processors import ProcessorDirectory
from server.system import sandbox
from server.system.clock import SystemClock
from server.system.processes import python, python_environment
from server.up.probes import reachable
from server.up.reservations import at
from tryon.client.http import HttpNetwork
from tryon.client.network import NoAnswer
from tryon.protocol.errors import TryOnError, Unavailable
from tryon.protocol.paths import HEALTH

CHECK_SECONDS: Final = 10.0
"""Time for one check; a database that does not answer takes half of it."""
CLOCK_SECONDS: Final = 2.0
"""Difference between this machine's clock and the database's that is worth a warning:
links and tickets are judged by both.
"""
OPEN_FILES: Final = 4096
"""Open files below which a web process can serve few clients; each takes one."""
FREE_BYTES: Final = 2**30
"""Free space below which a warning is due."""


class Finding(msgspec.Struct, frozen=True):
    """The finding of one check; ``mend``: how to mend it."""

    name: str
    state: Literal["ok", "warning", "broken"]
    text: str
    mend: str = ""


async def examine(config: Config, *, as_json: bool) -> int:
    """Run every check and print its finding; return the exit status."""
    broken = 0
    for name, check in CHECKS:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                finding = await check(config)
        except TimeoutError:
            finding = Finding(name, "broken", "no answer in time", "Look at its log and at the network.")
        except ConfigError as error:
            finding = Finding(name, "broken", str(error), "`tryon settings` lists every setting.")
        except PermissionError as error:
            mend = "Run it as the user of the server, in a folder of that user."
            finding = Finding(name, "broken", _reason(error), mend)
        except OSError as error:
            finding = Finding(name, "broken", _reason(error), "TRYON_DATA_DIR: name a folder that can be made.")
        broken += finding.state == "broken"
        click.echo(msgspec.json.encode(finding) if as_json else words_of(finding))
    return 1 if broken else 0


def words_of(finding: Finding) -> str:
    """Return a finding as a line, with its mend on the next."""
    line = f"{finding.state:8} {finding.name:10} {finding.text}"
    return f"{line}\n{'':20}{finding.mend}" if finding.mend else line


# -- the checks ------------------------------------------------------------------------


async def _versions(config: Config) -> Finding:
    used = ", ".join(f"{name} {version(name)}" for name in ("redis", "arq", "SQLAlchemy", "pillow"))
    return Finding("versions", "ok", f"tryon {__version__}, Python {platform.python_version()}, {used}")


def _reason(error: OSError) -> str:
    about = f"{error.filename}: " if error.filename else ""
    return f"{about}{error.strerror or error}"


def _is_there(path: Path) -> bool:
    """Return whether a file or folder exists.

    Raises OSError if that cannot be seen, which :meth:`Path.exists` says in some
    releases of Python only.
    """
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def _missing_file(config: Config) -> str | None:
    """Return the path of an SQLite file that is not there: to look would make it.

    Raises OSError.
    """
    url = parse_database_url(config.database)
    return url.path if url.sqlite and url.path and not _is_there(Path(url.path)) else None


async def _database(config: Config) -> Finding:
    if missing := _missing_file(config):
        return Finding(
            "database", "warning", f"{missing} does not exist yet", "`tryon up` or `tryon migrate` makes it."
        )
    try:
        await check_database(config.database)
    except ConfigError as error:
        mend = "Is the server up, and are address, name and password in TRYON_DATABASE_URL right?"
        return Finding("database", "broken", str(error), "" if "tryon migrate" in str(error) else mend)
    return Finding("database", "ok", await describe_database(config.database))


async def _redis(config: Config) -> Finding:
    if config.redis_url is None and not _is_there(config.redis_address_file):
        text = "TRYON_REDIS_URL is not set, and no `tryon up` runs on this data folder"
        return Finding("redis", "warning", text, "`tryon up` starts one of its own; else set TRYON_REDIS_URL.")
    try:
        await check_redis(config)
        delivery = await try_delivery(config.redis, config.key_prefix)
    except ConfigError as error:
        mend = f"Is the server up, and are address and password in {str(error).partition(':')[0]} right?"
        return Finding("redis", "broken", str(error), "" if "docs/redis.md" in str(error) else mend)
    except UNAVAILABLE as error:
        return Finding(
            "redis", "broken", f"it refuses to be used: {error}", "Look at its log, its memory and its disk."
        )
    if delivery.seconds is None:
        mend = "Is it a proxy or a cluster that does not pass pub/sub on? Clients are served every few seconds only."
        return Finding("redis", "broken", f"{delivery.server} delivers no published message", mend)
    text = f"{delivery.server}{delivery.form} delivers in {delivery.seconds * 1000:.1f} ms"
    if config.queue_redis != config.redis:
        text += "; the queue has another one"
    if delivery.eviction not in ("", "noeviction"):
        return Finding(
            "redis", "warning", f"{text}, but evicts keys ({delivery.eviction})", "Set maxmemory-policy noeviction."
        )
    if delivery.keeps_file:
        text += ", but keeps an append-only file, where ids of erased sessions stay until Redis rewrites it"
        return Finding("redis", "warning", text, "Set appendonly no at each node: the cluster holds news alone.")
    return Finding("redis", "ok", text)


async def _bucket(config: Config) -> Finding:
    assert config.storage_url is not None
    try:
        await check_storage(config)
    except ConfigError as error:
        text = str(error).removeprefix("TRYON_STORAGE_URL: ")
        return Finding("storage", "broken", text, "docs/storage.md names the rights and variables that it needs.")
    links = "results are read from the bucket" if config.presigned else "results are read through the web processes"
    return Finding("storage", "ok", f"{config.storage_url} can be written; {links}")


async def _storage(config: Config) -> Finding:
    if config.storage_url is not None:
        return await _bucket(config)
    mend = "TRYON_DATA_DIR: give this user a folder with room that it may write, the same on every machine."
    if not _is_there(config.uploads_dir):
        folder = config.data_dir.absolute()
        parent = next(each for each in (folder, *folder.parents) if _is_there(each))
        if not os.access(parent, os.W_OK | os.X_OK):
            return Finding("storage", "broken", f"{config.data_dir} cannot be made in {parent}", mend)
        return Finding("storage", "warning", f"{config.data_dir} does not exist yet", "The first start makes it.")
    try:
        await LocalFiles(config.uploads_dir, StorageThreads()).check()
    except TryOnError as error:
        return Finding("storage", "broken", f"{config.uploads_dir}: {error.__cause__ or error.detail}", mend)
    free = shutil.disk_usage(config.uploads_dir).free
    if free < FREE_BYTES:
        return Finding(
            "storage",
            "warning",
            f"{config.uploads_dir} has {size(free)} left",
            "Make room, or shorten TRYON_RETENTION_SECONDS.",
        )
    return Finding("storage", "ok", f"{config.uploads_dir} can be written, {size(free)} free")


async def _clock(config: Config) -> Finding:
    if parse_database_url(config.database).sqlite:
        return Finding("clock", "ok", "the database uses this machine's")
    clock = SystemClock()
    database = open_database(config.database, clock=clock, settings=config)
    try:
        await database.clock.synchronize()
        ahead = clock.wall() - database.clock.now()
    except Unavailable:
        return Finding("clock", "warning", "the database's is unknown", "Mend the database first.")
    finally:
        await database.close()
    text = f"{duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} the database's"
    if abs(ahead) > CLOCK_SECONDS:
        return Finding("clock", "warning", text, "Synchronize both (chrony, systemd-timesyncd).")
    return Finding("clock", "ok", text)


async def _limits(config: Config) -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    text = f"{files} open files, {os.cpu_count()} processors"
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        mend = "Raise `ulimit -Hn` (LimitNOFILE= in systemd, --ulimit nofile in Docker): each client takes one."
        return Finding("limits", "warning", text, mend)
    if lacking := sandbox.missing_here():
        mend = "docs/operations.md, Isolation, says which kernel and which rights have it."
        return Finding("limits", "warning", f"{text}; for the sandbox this machine lacks {lacking}", mend)
    return Finding("limits", "ok", text)


async def _quotas(config: Config) -> Finding:
    if unlimited := callers_without_limit(config):
        return Finding("quotas", "warning", unlimited, "Add it; one without limits if this is meant: docs/quotas.md.")
    return Finding("quotas", "ok", f"plans: {', '.join(plan.name for plan in config.quotas) or 'none'}")


async def _processor(config: Config) -> Finding:
    """Find its class and check its options, in a process of its own; start nothing."""
    for name in config.processors:
        process = await asyncio.create_subprocess_exec(
            *python("-m", "worker.trial", name, "--find"),
            env=python_environment(os.environ) | {"PYTHONPATH": os.pathsep.join(_paths())},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            text = err.decode(errors="replace").strip().splitlines()[-1:] or [f"{name} cannot be loaded"]
            return Finding(
                "processor", "broken", text[0].removeprefix("tryon: "), f"Try `tryon processor check {name} photo.jpg`."
            )
    return await _published(config)


def _paths() -> list[str]:
    """Return the path of a worker: the working directory is on it."""
    ours = python_environment(os.environ).get("PYTHONPATH", "")
    return [os.getcwd(), *filter(None, ours.split(os.pathsep))]


async def _published(config: Config) -> Finding:
    database = open_database(config.database, clock=SystemClock(), settings=config)
    found = f"{config.processor} can be loaded"
    try:
        await check_database(config.database)
        directory = ProcessorDirectory(rows=database.processors, setting=config.processor, clock=SystemClock())
        current = await directory.current()
    except (ConfigError, OSError):  # the check of the database says so
        return Finding("processor", "ok", found)
    except TryOnError as error:
        return Finding(
            "processor", "warning", f"{found}; {error.detail}", "Start a worker: `tryon up` or `tryon worker`."
        )
    finally:
        await database.close()
    if current.disagreement:
        return Finding("processor", "warning", current.disagreement, "Give every worker the same TRYON_PROCESSOR.")
    if not current.view.available:
        return Finding(
            "processor", "warning", f"{found}; no worker runs it now", "Start a worker: `tryon up` or `tryon worker`."
        )
    return Finding("processor", "ok", f"{current.view.label or current.view.name}, run by a worker now")


async def _server(config: Config) -> Finding:
    address = at(reachable(config.host), config.port)
    headers = {"Host": served_name(config.hosts, address)}
    if token := private_token(config.private_paths):
        headers["Authorization"] = f"Bearer {token}"
    network = HttpNetwork(f"http://{address}", trust_env=False)
    try:
        answer = await network.request("GET", HEALTH, headers=headers, seconds=5)
        checks = answer.json()["checks"]
    except NoAnswer as error:
        return Finding(
            "server", "warning", f"nothing answers on {address} ({error})", "Start it: `tryon up` or `tryon serve`."
        )
    except (ValueError, KeyError, TypeError):
        mend = "Another program listens there: set TRYON_PORT, or stop that program."
        return Finding("server", "broken", f"what answers on {address} is no TryOn Push", mend)
    finally:
        await network.close()
    bad = {name: check for name, check in checks.items() if check["status"] != "ok"}
    if not bad:
        workers = checks["workers"]["count"]
        return Finding("server", "ok", f"{address} is well, {workers} worker{'' if workers == 1 else 's'}")
    text = "; ".join(f"{name} {check['status']}: {check.get('detail', '')}".rstrip(": ") for name, check in bad.items())
    broken = any(check["status"] == "down" for check in bad.values())
    return Finding("server", "broken" if broken else "warning", text, "docs/operations.md, Health, explains each.")


Check = Callable[[Config], Awaitable[Finding]]

CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("versions", _versions),
    ("database", _database),
    ("clock", _clock),
    ("redis", _redis),
    ("storage", _storage),
    ("limits", _limits),
    ("quotas", _quotas),
    ("processor", _processor),
    ("server", _server),
)
"""Every check by its name, in the order of their printing."""
