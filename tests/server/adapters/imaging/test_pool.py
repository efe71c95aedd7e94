"""The processes that decode photos: what one photo does to its own process, no other
photo and no caller notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from server.adapters.imaging import cleaner as imaging_child
from server.adapters.imaging.pool import ACCEPTED, MAX_WAITING, NICENESS, Imaging
from server.adapters.imaging.sample_photos import metadata
from server.domain.images import CleanImage, ImageFormat, Limits
from tryon.protocol.errors import TryOnError, Unavailable

ROOT = Path(__file__).resolve().parents[4]
FAULTY = (str(Path(__file__).with_name("faulty_imaging.py")),)
SMALL = Limits(max_pixels=1_000_000)
LINUX = pytest.mark.skipif("sys.platform != 'linux'", reason="needs /proc and prctl")

Start = Callable[..., Imaging]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts pools whose decoder obeys the photo; all of them are closed in the end."""
    async with contextlib.AsyncExitStack() as stack:

        def begin(limits: Limits = SMALL, *, program: Any = FAULTY, **options: Any) -> Imaging:
            imaging = Imaging(limits, program=program, **options)
            stack.push_async_callback(imaging.close)
            return imaging

        yield begin


def photo(side: int = 100, format: str = "PNG", **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(file, format, **options)
    return file


async def outcome(work: asyncio.Future[CleanImage] | Any) -> str:
    try:
        return str((await work).width)
    except TryOnError as error:
        return error.code


async def pid_of(imaging: Imaging) -> int:
    """Of the process that would take the next photo."""
    with pytest.raises(TryOnError) as caught:
        await imaging.clean(io.BytesIO(b"pid"))
    return int(caught.value.detail)


async def gone(pid: int) -> None:
    """Waits until the process has ended, reaped or not."""
    try:
        file = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(file, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), 10)
    finally:
        asyncio.get_running_loop().remove_reader(file)
        os.close(file)


class Gate:
    """A photo that is being worked on for as long as the test wants."""

    def __init__(self, folder: Path) -> None:
        self._paths = (folder / "reached", folder / "open")
        for path in self._paths:
            os.mkfifo(path)
        self._reached, self._open = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in self._paths)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reached)
        os.close(self._open)

    @property
    def words(self) -> bytes:
        return "wait {} {}".format(*self._paths).encode()

    def photo(self) -> io.BytesIO:
        return io.BytesIO(self.words)

    async def reached(self) -> None:
        """Waits until a process works on it."""
        loop, reached = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._reached, reached.set)
        try:
            await asyncio.wait_for(reached.wait(), 10)
        finally:
            loop.remove_reader(self._reached)

    def open(self) -> None:
        os.write(self._open, b"!")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


# What a photo may do


async def test_a_crash_refuses_its_own_photo_and_no_other(start: Start) -> None:
    imaging = start()
    photos = [io.BytesIO(b"crash") if at % 4 == 1 else photo(100 + at) for at in range(12)]
    outcomes = await asyncio.gather(*(outcome(imaging.clean(source)) for source in photos))
    assert outcomes == ["unreadable_image" if at % 4 == 1 else str(100 + at) for at in range(12)]


async def test_a_loop_is_cut_off_while_others_go_on(start: Start) -> None:
    imaging = start(work_seconds=1.0)
    looping = asyncio.ensure_future(outcome(imaging.clean(io.BytesIO(b"loop"))))
    assert [await outcome(imaging.clean(photo())) for _ in range(5)] == ["100"] * 5
    assert not looping.done()
    assert await looping == "unreadable_image"
    assert await outcome(imaging.clean(photo())) == "100"


@LINUX
async def test_a_loop_ends_by_its_cpu_time_should_nobody_watch(start: Start) -> None:
    imaging = start()
    child = psutil.Process(await pid_of(imaging))
    assert child.rlimit(resource.RLIMIT_CPU)[0] <= imaging_child.CPU_SECONDS + 2
    child.rlimit(resource.RLIMIT_CPU, (1, 1))  # the test does not want to wait that long
    gone_by_itself = asyncio.ensure_future(gone(child.pid))
    assert await outcome(imaging.clean(io.BytesIO(b"loop"))) == "unreadable_image"
    await gone_by_itself


async def test_eating_memory_ends_at_the_limit(start: Start) -> None:
    imaging = start()
    assert await outcome(imaging.clean(io.BytesIO(b"eat"))) == "unreadable_image"
    assert await outcome(imaging.clean(photo())) == "100"


async def test_a_result_beyond_all_bounds_is_never_read(start: Start) -> None:
    imaging = start()
    assert await outcome(imaging.clean(io.BytesIO(b"fill"))) == "unreadable_image"
    assert await outcome(imaging.clean(photo())) == "100"


@pytest.mark.parametrize("answer", ["EXE 1 1", "no_such_code", "PNG 1 1 1", "\xff\xfe", "PNG 123456 1"])
async def test_whatever_a_decoder_says_is_judged(start: Start, answer: str) -> None:
    assert await outcome(start().clean(io.BytesIO(b"say " + answer.encode("latin-1")))) == "unreadable_image"


async def test_a_process_that_speaks_unasked_is_ended(start: Start) -> None:
    imaging = start()
    pid = await pid_of(imaging)
    await outcome(imaging.clean(io.BytesIO(b"chatter")))
    await gone(pid)
    assert await outcome(imaging.clean(photo())) == "100"


@pytest.mark.parametrize("format", ["WEBP", "JPEG"])
async def test_an_honest_photo_of_the_largest_size_has_memory_enough(start: Start, format: str) -> None:
    """Lossless WebP and progressive CMYK JPEG, turned, are the hungriest."""
    limits = Limits()
    picture = Image.new("RGBA" if format == "WEBP" else "CMYK", (8000, 5000), (10, 20, 30, 40))
    with tempfile.TemporaryFile() as file:
        options: dict[str, Any] = {"lossless": True, "method": 0} if format == "WEBP" else {"progressive": True}
        picture.save(file, format, exif=metadata(6), **options)
        image = await start(limits, program=imaging_program()).clean(file)
    assert (image.width, image.height) == (5000, 8000)


def imaging_program() -> tuple[str, ...]:
    return ("-m", "server.adapters.imaging.cleaner")


# What somebody else may do to a process


async def test_a_process_killed_at_work_costs_one_photo(start: Start, gate: Gate) -> None:
    imaging = start(workers=1)
    pid = await pid_of(imaging)
    working = asyncio.ensure_future(outcome(imaging.clean(gate.photo())))
    waiting = asyncio.ensure_future(outcome(imaging.clean(photo())))
    await gate.reached()
    os.kill(pid, signal.SIGKILL)
    assert await working == "unreadable_image"
    assert await waiting == "100"
    assert await pid_of(imaging) != pid


async def test_a_process_killed_while_idle_costs_nothing(start: Start) -> None:
    imaging = start()
    pid = await pid_of(imaging)
    os.kill(pid, signal.SIGKILL)
    assert await outcome(imaging.clean(photo())) == "100"
    await gone(pid)
    assert await pid_of(imaging) != pid


async def test_a_stopped_process_is_replaced(start: Start) -> None:
    imaging = start(workers=1, work_seconds=0.5)
    pid = await pid_of(imaging)
    os.kill(pid, signal.SIGSTOP)
    assert await outcome(imaging.clean(photo())) == "unreadable_image"
    await gone(pid)
    assert await outcome(imaging.clean(photo())) == "100"


async def test_signals_meant_for_the_server_do_not_refuse_photos(start: Start) -> None:
    imaging = start()
    pid = await pid_of(imaging)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    assert await pid_of(imaging) == pid


async def test_no_process_at_all_is_said_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = start(program=("-c", "raise SystemExit(1)"))
    answers = await asyncio.gather(*(outcome(broken.clean(photo())) for _ in range(5)))
    assert answers == ["unavailable"] * 5
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert await outcome(start().clean(photo())) == "unavailable"


@LINUX
async def test_nothing_outlives_a_killed_server(gate: Gate) -> None:
    script = f"""
import asyncio, io
from server.adapters.imaging.pool import Imaging
from server.domain.images import Limits
async def main():
    imaging = Imaging(Limits(), program={FAULTY!r})
    work = asyncio.gather(imaging.clean(io.BytesIO({gate.words!r})), imaging.clean(io.BytesIO(b"loop")))
    await asyncio.sleep(0)
    print(*imaging.pids, flush=True)
    await work
asyncio.run(main())
"""
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE, cwd=ROOT)
    assert server.stdout is not None
    pids = [int(pid) for pid in (await server.stdout.readline()).split()]
    assert len(pids) == 2
    await gate.reached()
    server.kill()
    await server.wait()
    for pid in pids:
        await gone(pid)


# Whose turn it is


async def test_processes_are_started_when_needed_and_let_go_when_not(start: Start) -> None:
    imaging = start(idle_seconds=0.05)
    assert imaging.pids == []
    imaging.warm()
    imaging.warm()
    first = imaging.pids
    assert len(first) == 1
    work = asyncio.gather(*(imaging.clean(photo()) for _ in range(8)))
    await asyncio.sleep(0)
    both = imaging.pids
    assert len(both) == 2
    await work
    assert imaging.pids == both
    await asyncio.wait([asyncio.ensure_future(gone(pid)) for pid in both], return_when=asyncio.FIRST_COMPLETED)
    assert len(imaging.pids) == 1
    assert await outcome(imaging.clean(photo())) == "100"


async def test_photos_are_taken_in_the_order_in_which_they_came(start: Start) -> None:
    imaging = start(workers=1)
    done: list[int] = []

    async def clean(at: int) -> None:
        await imaging.clean(photo(100 + at, "JPEG" if at % 2 else "PNG"))
        done.append(at)

    await asyncio.gather(*(clean(at) for at in range(20)))
    assert done == list(range(20))


async def test_too_many_waiting_are_told_to_come_back(start: Start, gate: Gate) -> None:
    imaging = start(workers=1)
    working = asyncio.ensure_future(imaging.clean(gate.photo()))
    await gate.reached()
    waiting = [asyncio.ensure_future(outcome(imaging.clean(photo()))) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    assert imaging.waiting == MAX_WAITING
    with pytest.raises(Unavailable) as caught:
        await imaging.clean(photo())
    assert caught.value.retry_after is not None
    gate.open()
    assert (await working).data == b"waited"
    assert await asyncio.gather(*waiting) == ["100"] * MAX_WAITING


async def test_who_is_cancelled_while_waiting_gives_up_its_place(start: Start, gate: Gate) -> None:
    imaging = start(workers=1)
    working = asyncio.ensure_future(imaging.clean(gate.photo()))
    await gate.reached()
    waiting = asyncio.ensure_future(imaging.clean(io.BytesIO(b"crash")))
    await asyncio.sleep(0)
    pids = imaging.pids
    waiting.cancel()
    await asyncio.wait([waiting])
    assert imaging.waiting == 0
    gate.open()
    await working
    assert [await pid_of(imaging)] == pids


async def test_who_is_cancelled_at_work_leaves_a_sound_process_and_no_result(start: Start, gate: Gate) -> None:
    imaging = start(workers=1)
    pid = await pid_of(imaging)
    working = asyncio.ensure_future(imaging.clean(gate.photo()))
    await gate.reached()
    working.cancel()
    await asyncio.wait([working])
    following = asyncio.ensure_future(imaging.clean(photo(123)))
    gate.open()
    assert (await following).width == 123
    assert await pid_of(imaging) == pid


async def test_who_is_cancelled_at_work_that_never_ends_holds_no_process_for_long(start: Start) -> None:
    imaging = start(workers=1, work_seconds=0.5)
    pid = await pid_of(imaging)
    working = asyncio.ensure_future(imaging.clean(io.BytesIO(b"loop")))
    await asyncio.sleep(0)
    working.cancel()
    assert await outcome(imaging.clean(photo())) == "100"
    await gone(pid)


async def test_a_process_is_replaced_before_leaks_add_up(start: Start) -> None:
    imaging = start(images_per_process=3, workers=1)
    pids = [await pid_of(imaging) for _ in range(9)]
    assert len(set(pids)) == 3
    assert pids == sorted(pids, key=pids.index)


async def test_a_photo_whose_owner_has_closed_it_disturbs_nobody(start: Start) -> None:
    imaging = start(workers=1)
    closed = photo()
    refused = asyncio.ensure_future(outcome(imaging.clean(closed)))
    with tempfile.TemporaryFile() as file:
        other = asyncio.ensure_future(outcome(imaging.clean(file)))
        await asyncio.sleep(0)
    closed.close()
    assert await outcome(imaging.clean(photo())) == "100"
    assert [await refused, await other] == ["unavailable", "unavailable"]


async def test_closing_ends_everything_within_a_second(start: Start) -> None:
    imaging = start()
    work = [asyncio.ensure_future(outcome(imaging.clean(io.BytesIO(what)))) for what in (b"loop", b"loop", b"pid")]
    await asyncio.sleep(0)
    pids = imaging.pids
    began = time.monotonic()
    await imaging.close()
    assert time.monotonic() - began < 1
    assert [psutil.pid_exists(pid) for pid in pids] == [False, False]
    assert await asyncio.gather(*work) == ["unavailable"] * 3
    assert await outcome(imaging.clean(photo())) == "unavailable"


# What a process is given


@LINUX
async def test_a_process_is_confined(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRYON_SECRET_KEY", "a secret")
    imaging = start(Limits(), program=imaging_program())
    await imaging.clean(photo())
    child = psutil.Process(imaging.pids[0])
    assert child.rlimit(resource.RLIMIT_CORE) == (0, 0)
    assert child.rlimit(resource.RLIMIT_NOFILE)[1] <= 16
    assert child.rlimit(resource.RLIMIT_AS)[1] <= 1_700_000_000
    assert child.rlimit(resource.RLIMIT_FSIZE)[1] <= 210_000_000
    assert child.nice() == min(19, psutil.Process().nice() + NICENESS)
    assert "NoNewPrivs:\t1" in Path(f"/proc/{child.pid}/status").read_text()
    assert "a secret" not in child.environ().values()
    assert child.num_fds() <= 4
    assert os.readlink(f"/proc/{child.pid}/fd/2") == "/dev/null"


def test_neither_side_loads_what_it_does_not_need() -> None:
    assert loaded("server.web.app") & {"PIL", "PIL.Image"} <= {"PIL"}
    child = loaded("server.adapters.imaging.cleaner")
    assert "PIL.Image" in child
    assert not child & {
        "asyncio",
        "sqlalchemy",
        "redis",
        "starlette",
        "msgspec",
        "server.config.settings",
        "server.telemetry.metrics",
    }


def loaded(module: str) -> set[str]:
    script = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_what_is_promised_is_what_the_decoders_take() -> None:
    assert imaging_child.ACCEPTED == ACCEPTED


async def test_a_photo_in_a_file_is_handed_over_unread(start: Start) -> None:
    imaging = start(Limits(), program=imaging_program())
    with tempfile.TemporaryFile() as file:
        Image.effect_noise((1500, 1500), 100).save(file, "PNG")
        file.seek(0)
        image = await imaging.clean(file)
    assert (image.format, image.width) == (ImageFormat.PNG, 1500)
    assert len(image.data) > 2**20
    assert Image.open(io.BytesIO(image.data)).size == (1500, 1500)


@LINUX
async def test_memory_is_given_back_when_no_photo_follows(start: Start) -> None:
    imaging = start(Limits(), program=imaging_program())
    await imaging.clean(photo())
    child = psutil.Process(imaging.pids[0])
    before = child.memory_info().rss
    await imaging.clean(photo(3000, "JPEG", exif=metadata(6)))
    async with asyncio.timeout(10):
        while child.memory_info().rss > before + 5_000_000:
            await asyncio.sleep(0.02)  # nothing tells when a foreign process gives memory back
    assert imaging.pids == [child.pid]


@LINUX
async def test_no_descriptor_is_left_open(start: Start) -> None:
    imaging = start()
    await imaging.clean(photo())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        cancelled = asyncio.ensure_future(imaging.clean(photo()))
        await asyncio.sleep(0)
        cancelled.cancel()
        outcomes = [outcome(imaging.clean(source)) for source in (photo(), io.BytesIO(b"eat"), io.BytesIO(b"GIF89a"))]
        await asyncio.gather(*outcomes)
    await imaging.close()
    assert len(os.listdir("/proc/self/fd")) < before
