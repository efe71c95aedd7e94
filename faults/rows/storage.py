"""The storage cannot delete, or answers nothing; no file descriptor is left.

What needs the storage is refused with a time to come back. Nothing else waits for it:
sessions end in time, their clients are notified, and their files go afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import httpx
import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from faults.outcome import Outcome, Row
from faults.pace import Pace
from faults.scene import Scene, running_scene
from testkit.disks import read_only, silent_disk
from testkit.photos import photo
from testkit.programs import Program
from tryon.protocol.paths import SESSIONS

RETENTION_SECONDS: Final = 12.0
"""Life of the sessions of a row: they expire during the fault."""

SLOTS: Final[dict[str, Any]] = {"worker_jobs": 20}

NOTICE_SECONDS: Final = 5.0
"""Promised time from the end of a session to its clients' notice."""

REMOVAL_SECONDS: Final = 60.0
"""Promised time from the return of the storage to the last trace's removal."""

STOP_SECONDS: Final = 5.0
"""Promised time of a web process's end."""


@dataclass
class Page:
    """A client that follows its own session to the end."""

    session: dict[str, Any]
    token: str
    connection: ClientConnection
    code: int = 0
    reason: str = ""
    ended_at: float = 0.0
    """Unix seconds."""

    @property
    def id(self) -> str:
        return str(self.session["session_id"])

    @property
    def expires_at(self) -> float:
        return datetime.fromisoformat(self.session["expires_at"]).timestamp()

    async def read(self) -> None:
        """Read until the server closes, and note when and why it did."""
        try:
            while True:
                frame = json.loads(await self.connection.recv())
                if frame["type"] == "bye":
                    self.reason = frame["reason"]
        except ConnectionClosed:
            self.code, self.ended_at = self.connection.close_code or 0, time.time()


@contextlib.asynccontextmanager
async def _pages(scene: Scene, count: int) -> AsyncIterator[list[Page]]:
    """Upload sessions past the scene's own checker, and connect a client to each.

    They run until they are deleted or expire.
    """
    pages: list[Page] = []
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            answer = await _upload(scene, seconds=600)
            answer.raise_for_status()
            session = answer.json()
            url = scene.cluster.url.replace("http", "ws") + session["links"]["ws"]
            connection = await stack.enter_async_context(connect(url, proxy=None, compression=None, close_timeout=1))
            pages.append(Page(session, session["client_token"], connection))
        yield pages


async def _upload(scene: Scene, *, seconds: float = 0.2) -> httpx.Response:
    data = {"params": json.dumps({"seconds": seconds})}
    answer = await scene.http.post(scene.cluster.url + SESSIONS, files={"image": photo()}, data=data, timeout=30)
    if answer.status_code == 201:
        scene.props.append(answer.json()["session_id"])
    return answer


async def _delete(scene: Scene, page: Page) -> httpx.Response:
    headers = {"Authorization": f"Bearer {page.token}"}
    return await scene.http.delete(f"{scene.cluster.url}{SESSIONS}/{page.id}", headers=headers, timeout=30)


async def _end_all(scene: Scene, pages: list[Page]) -> None:
    """Delete two sessions, let the others expire; hold each notice to its time."""
    reading = [asyncio.create_task(page.read()) for page in pages]
    asked = {page.id: time.time() for page in pages[:2]}
    answers = await asyncio.gather(*(_delete(scene, page) for page in pages[:2]))
    for answer in answers:
        scene.expect(
            answer.status_code == 503 and "Retry-After" in answer.headers, f"a DELETE got {answer.status_code}"
        )
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RETENTION_SECONDS + 4 * NOTICE_SECONDS):
            await asyncio.gather(*reading)
    latest = 0.0
    for page, task in zip(pages, reading, strict=True):
        task.cancel()
        wanted = "deleted" if page.id in asked else "expired"
        scene.expect(
            (page.code, page.reason) == (4510, wanted), f"a client got {page.code} {page.reason}, not {wanted}"
        )
        latest = max(latest, page.ended_at - asked.get(page.id, page.expires_at))
        headers = {"Authorization": f"Bearer {page.token}"}
        status = (await scene.http.get(f"{scene.cluster.url}{SESSIONS}/{page.id}", headers=headers)).status_code
        scene.expect(status == 404, f"an ended session is answered with {status}")
    scene.outcome.stale_seconds, scene.outcome.stalest = latest, "notice"
    scene.promises.within(latest, NOTICE_SECONDS, "the latest notice of an end")


async def _all_removed(scene: Scene, pages: list[Page]) -> None:
    """Wait until nothing of these sessions is left, and hold that to its time."""
    uploads = scene.cluster.data / "uploads"
    left: set[str] = {"?"}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * REMOVAL_SECONDS):
            while left:
                await asyncio.sleep(0.1)
                ids = {page.id for page in pages}
                left = {each.id for each in await scene.sessions()} & ids
                left |= {path.name for path in uploads.rglob("*") if path.name[:36] in ids}
    scene.recovered()
    scene.expect(not left, f"left over: {left}")
    scene.promises.within(scene.outcome.recovery_seconds or 0.0, REMOVAL_SECONDS, "removal")


async def cannot_delete(pace: Pace) -> Outcome:
    """Let the storage be read-only while sessions end, and kill the web process."""
    async with running_scene(pace, disk_bytes=2**22, retention_seconds=RETENTION_SECONDS, **SLOTS) as scene:
        await scene.healthy("storage", "workers")
        async with _pages(scene, 6) as pages:
            with read_only(scene.cluster.data / "uploads"):
                scene.began()
                await _end_all(scene, pages)
                await scene.cluster.web.kill()
                await scene.cluster.start_web(scene.cluster.web)
            scene.repaired()
            await _all_removed(scene, pages)
        scene.expect((await _upload(scene)).status_code == 201, "an upload was refused afterwards")
        scene.note("503 for a DELETE; rows and files went after the return, though a web process was killed")
        scene.promises.still_running(scene.cluster.web, scene.cluster.worker)
    return scene.outcome


async def silent(pace: Pace) -> Outcome:
    """Let every call of the storage wait for ever: a network share that is gone."""
    async with running_scene(pace, retention_seconds=RETENTION_SECONDS, **SLOTS) as scene:
        await scene.healthy("storage", "workers")
        async with _pages(scene, 6) as pages:
            with _silent_storage(scene):
                scene.began()
                ending = asyncio.create_task(_end_all(scene, pages))
                crowd = [asyncio.create_task(_status(scene, page.session["links"]["input"])) for page in pages * 5]
                for path in ("/", "/api/health/live", "/api/tryon/receipt-key"):
                    began = time.monotonic()
                    status = await _status(scene, path)
                    scene.expect(status == 200, f"{path} was answered with {status}")
                    scene.promises.within(time.monotonic() - began, 1.0, f"GET {path}")
                refused = await _upload(scene)
                scene.expect(
                    refused.status_code == 503 and "Retry-After" in refused.headers,
                    f"an upload got {refused.status_code}",
                )
                await ending
                scene.expect(set(await asyncio.gather(*crowd)) <= {503, 404}, "a photo was answered")
                drain_seconds = float(pace.settings.get("drain_seconds", 10))
                for program, limit in (
                    (scene.cluster.web, STOP_SECONDS),
                    (scene.cluster.worker, STOP_SECONDS + drain_seconds),
                ):
                    scene.promises.within(await _end(scene, program), limit, f"the end of {program.name}")
                await scene.cluster.make_web().start()
                await scene.cluster.make_worker().start()
                await scene.until(lambda: _answers(scene))
            scene.repaired()
            await _all_removed(scene, pages)
        await scene.healthy("storage", "workers")
        scene.expect((await _upload(scene)).status_code == 201, "an upload was refused afterwards")
        scene.note("pages and health answered, 503 for the rest, both processes stopped and started again meanwhile")
    return scene.outcome


@contextlib.contextmanager
def _silent_storage(scene: Scene) -> Iterator[None]:
    uploads = scene.cluster.data / "uploads"
    with silent_disk(uploads / "inputs"), silent_disk(uploads / "outputs"):
        yield


async def _end(scene: Scene, program: Program) -> float:
    """Stop a process; return the seconds until it has ended.

    A thread of it may wait in the kernel for the lock of a folder, which a silent call
    of another process holds. Not even SIGKILL ends that, so the process is a zombie
    until the storage answers: it has ended all the same.
    """
    began = time.monotonic()
    program.send(signal.SIGTERM)
    await scene.until(lambda: not program.running or _zombie(program.pid), 60)
    return time.monotonic() - began


def _zombie(pid: int) -> bool:
    """Return whether a process has ended and only its threads are left, if anything."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def _status(scene: Scene, path: str) -> int:
    return (await scene.http.get(scene.cluster.url + path, timeout=30)).status_code


def _answers(scene: Scene) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", scene.cluster.port), 1):
        return True
    return False


async def descriptors(pace: Pace) -> Outcome:
    """Take every file descriptor of the web process, then of the worker."""
    async with running_scene(pace) as scene:
        await scene.healthy("storage", "workers")
        web, worker = scene.cluster.web, scene.cluster.worker
        following = await scene.submit(seconds=pace.outage_seconds, over="ws")
        await scene.until(lambda: following.connected)
        scene.began()
        with _exhausted(web.pid):
            idle = [_idle(scene.cluster.port) for _ in range(40)]
            lines, used, began = _lines(web.log), _cpu(web.pid), time.monotonic()
            for _ in range(5):
                with contextlib.suppress(httpx.HTTPError):
                    status = (await _upload(scene)).status_code
                    scene.expect(status in (201, 503), f"an upload got {status}")
            await scene.outage(pace.outage_seconds)
            share = (_cpu(web.pid) - used) / (time.monotonic() - began)
            scene.expect(share < 0.5, f"without a descriptor it used {share:.0%} of a core")
            written = _lines(web.log) - lines
            scene.expect(written < 300, f"without a descriptor it wrote {written} lines into its log")
            for each in idle:
                each.close()
        scene.repaired()
        await scene.healthy("storage", "redis")
        with _exhausted(worker.pid):
            made = await scene.submit()
            await scene.outage(1.0)
        await scene.until(lambda: made.outcome)
        again = await scene.submit()
        await scene.until(lambda: again.outcome)
        scene.recovered()
        await scene.finish()
        scene.promises.streams_stayed()
        scene.promises.still_running(web, worker)
        scene.promises.nothing_stale()
        scene.note(f"{share:.0%} of a core and {written} lines of log meanwhile")
    return scene.outcome


@contextlib.contextmanager
def _exhausted(pid: int) -> Iterator[None]:
    """Lower the limit of a process to the descriptors that it has."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def _idle(port: int) -> socket.socket:
    held = socket.socket()
    held.settimeout(2)
    with contextlib.suppress(OSError):
        held.connect(("127.0.0.1", port))
    return held


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _lines(log: Any) -> int:
    return len(log.read_text(errors="replace").splitlines())


ROWS: Final[dict[str, Row]] = {
    "storage-read-only": Row("The storage cannot delete", cannot_delete),
    "storage-silent": Row("The storage answers nothing", silent),
    "descriptors": Row("No file descriptor is left", descriptors, sample=True),
}
