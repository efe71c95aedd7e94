"""Image processes: what one photo does, no other photo and no caller notices."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from server.adapters.imaging import template
from server.adapters.imaging.pool import MAX_WAITING, Imaging
from server.adapters.imaging.sample_photos import SIZES, metadata
from server.domain.images import ImageFormat, Limits
from tests.server.adapters.imaging.pictures import LIMITS
from tests.server.adapters.imaging.pools import (
    FAULTY,
    LINUX,
    ROOT,
    SMALL,
    Gate,
    Start,
    gone,
    imaging_program,
    outcome,
    photo,
    pid_of,
)
from tryon.protocol.errors import TryOnError, Unavailable

# -- what a photo may do ---------------------------------------------------------------


async def test_crash_refuses_its_own_photo(start: Start) -> None:
    """A decoder that crashes refuses its own photo and no other."""
    imaging = start()
    photos = [io.BytesIO(b"crash") if at % 4 == 1 else photo(100 + at) for at in range(12)]
    outcomes = await asyncio.gather(*(outcome(imaging.clean(source)) for source in photos))
    assert outcomes == ["unreadable_image" if at % 4 == 1 else str(100 + at) for at in range(12)]


async def test_loop_is_cut_off(start: Start) -> None:
    """A decoder that loops is ended in time, while other photos go on."""
    imaging = start(work_seconds=5.0)
    await asyncio.gather(*(imaging.clean(photo()) for _ in range(4)))  # both processes are there
    looping = asyncio.ensure_future(outcome(imaging.clean(io.BytesIO(b"loop"))))
    assert [await outcome(imaging.clean(photo())) for _ in range(5)] == ["100"] * 5
    assert not looping.done()
    assert await looping == "unreadable_image"
    assert await outcome(imaging.clean(photo())) == "100"


@pytest.mark.slow
@LINUX
async def test_loop_meets_cpu_limit(start: Start) -> None:
    """A decoder that loops ends by its own limit of CPU time, too."""
    imaging = start(work_seconds=120.0)  # a second of CPU takes long on a busy machine, at its niceness
    pid = await pid_of(imaging)
    with pytest.raises(TryOnError) as caught:
        await imaging.clean(io.BytesIO(b"limit"))
    assert int(caught.value.detail) <= template.cpu_seconds(SMALL) + 1
    assert await outcome(imaging.clean(io.BytesIO(b"burn"))) == "unreadable_image"
    assert await pid_of(imaging) == pid


async def test_memory_ends_at_limit(start: Start) -> None:
    """A decoder that takes memory without end refuses its own photo."""
    imaging = start()
    assert await outcome(imaging.clean(io.BytesIO(b"eat"))) == "unreadable_image"
    assert await outcome(imaging.clean(photo())) == "100"


async def test_oversized_result_is_not_read(start: Start) -> None:
    """A result beyond the limit is refused without being read."""
    imaging = start()
    assert await outcome(imaging.clean(io.BytesIO(b"fill"))) == "unreadable_image"
    assert await outcome(imaging.clean(photo())) == "100"


@pytest.mark.parametrize("answer", ["EXE 1 1", "no_such_code", "PNG 1 1 1", "\xff\xfe", "PNG 123456 1"])
async def test_invalid_answer_is_refused(start: Start, answer: str) -> None:
    """An answer that no honest process gives refuses the photo."""
    assert await outcome(start().clean(io.BytesIO(b"say " + answer.encode("latin-1")))) == "unreadable_image"


async def test_second_answer_reaches_no_other_photo(start: Start) -> None:
    """A child that answers twice is believed once at most, and ends."""
    imaging = start(workers=1)
    assert await outcome(imaging.clean(io.BytesIO(b"chatter"))) in ("1", "unreadable_image")
    assert await outcome(imaging.clean(photo())) == "100"


@pytest.mark.parametrize("format", ["WEBP", "JPEG"])
async def test_largest_photo_has_memory_enough(start: Start, format: str) -> None:
    """Lossless WebP and progressive CMYK JPEG, turned, take the most memory."""
    limits = Limits()
    picture = Image.new("RGBA" if format == "WEBP" else "CMYK", (8000, 5000), (10, 20, 30, 40))
    with tempfile.TemporaryFile() as file:
        options: dict[str, Any] = {"lossless": True, "method": 0} if format == "WEBP" else {"progressive": True}
        picture.save(file, format, exif=metadata(6), **options)
        image = await start(limits, program=imaging_program(), work_seconds=240.0).clean(file)
    assert (image.width, image.height) == (5000, 8000)


# -- what may happen to a process ------------------------------------------------------


async def test_process_killed_at_work_costs_one_photo(start: Start, gate: Gate) -> None:
    """The next photo has a new process."""
    imaging = start(workers=1)
    pid = await pid_of(imaging)
    working = asyncio.ensure_future(outcome(imaging.clean(gate.photo())))
    waiting = asyncio.ensure_future(outcome(imaging.clean(photo())))
    await gate.reached()
    os.kill(pid, signal.SIGKILL)
    assert await working == "unreadable_image"
    assert await waiting == "100"
    assert await pid_of(imaging) != pid


async def test_process_killed_while_idle_costs_nothing(start: Start) -> None:
    """The next photo is cleaned by a new process."""
    imaging = start()
    pid = await pid_of(imaging)
    os.kill(pid, signal.SIGKILL)
    assert await outcome(imaging.clean(photo())) == "100"
    await gone(pid)
    assert await pid_of(imaging) != pid


async def test_stopped_process_is_replaced(start: Start) -> None:
    """A process that was stopped by a signal is ended in time."""
    imaging = start(workers=1, work_seconds=2.0)
    pid = await pid_of(imaging)
    os.kill(pid, signal.SIGSTOP)
    assert await outcome(imaging.clean(photo())) == "unreadable_image"
    await gone(pid)
    assert await outcome(imaging.clean(photo())) == "100"


async def test_stop_signals_refuse_no_photo(start: Start) -> None:
    """Signals that are meant for the server do not end a process."""
    imaging = start()
    pid = await pid_of(imaging)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    assert await pid_of(imaging) == pid


async def test_missing_process_is_unavailable_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are refused at once if no process can be started."""
    broken = start(program=("-c", "raise SystemExit(1)"))
    answers = await asyncio.gather(*(outcome(broken.clean(photo())) for _ in range(5)))
    assert answers == ["unavailable"] * 5
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert await outcome(start().clean(photo())) == "unavailable"


@LINUX
async def test_no_process_outlives_killed_server(gate: Gate) -> None:
    """Busy and looping processes end with a killed server."""
    photo = gate.photo()
    script = f"""
import asyncio, io
from server.adapters.imaging.pool import Imaging
from server.domain.images import Limits
from tests.server.adapters.imaging.pools import Inherited
async def main():
    imaging = Imaging(Limits(), program={FAULTY!r})
    work = asyncio.gather(imaging.clean(Inherited({photo.fileno()})), imaging.clean(io.BytesIO(b"loop")))
    await asyncio.sleep(0)
    print(*imaging.pids, flush=True)
    await work
asyncio.run(main())
"""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=subprocess.PIPE, cwd=ROOT, pass_fds=[photo.fileno()]
    )
    assert server.stdout is not None
    pids = [int(pid) for pid in (await server.stdout.readline()).split()]
    assert len(pids) == 2
    await gate.reached()
    children = [child.pid for pid in pids for child in psutil.Process(pid).children()]
    assert children
    server.kill()
    await server.wait()
    for pid in pids + children:
        await gone(pid)


# -- the queue -------------------------------------------------------------------------


async def test_processes_follow_the_demand(start: Start) -> None:
    """Processes start when photos wait; of the idle ones, one is kept."""
    imaging = start(idle_seconds=2.0)
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


async def test_photos_are_taken_in_order(start: Start) -> None:
    """Photos are cleaned in the order of their arrival."""
    imaging = start(workers=1)
    done: list[int] = []

    async def clean(at: int) -> None:
        await imaging.clean(photo(100 + at, "JPEG" if at % 2 else "PNG"))
        done.append(at)

    await asyncio.gather(*(clean(at) for at in range(20)))
    assert done == list(range(20))


async def test_full_queue_is_unavailable(start: Start, gate: Gate) -> None:
    """A photo beyond the longest queue is refused with a time to retry."""
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


async def test_idle_process_makes_no_queue_longer(start: Start) -> None:
    """An address that may begin no more photos fills the queue, whatever idles."""
    imaging = start(workers=2)
    with Gate() as one, Gate() as two:
        held = [asyncio.ensure_future(imaging.clean(gate.photo(), address="a")) for gate in (one, two)]
        await asyncio.gather(one.reached(), two.reached())
        await imaging.clean(photo(), address="b")  # a third process, which idles from here on
        waiting = [asyncio.ensure_future(outcome(imaging.clean(photo(), address="a"))) for _ in range(MAX_WAITING + 1)]
        await asyncio.sleep(0)
        assert imaging.waiting == MAX_WAITING
        assert await outcome(imaging.clean(photo(), address="b")) == "100"
        one.open()
        two.open()
        await asyncio.gather(*held)
        assert sorted(await asyncio.gather(*waiting)) == ["100"] * (MAX_WAITING - 1) + ["unavailable"] * 2


async def test_addresses_take_turns(start: Start, gate: Gate) -> None:
    """Ten photos of one address do not keep another address waiting for ten."""
    imaging = start(workers=1)
    done: list[str] = []

    async def clean(address: str, source: io.BytesIO) -> None:
        await imaging.clean(source, address=address)
        done.append(address)

    first = asyncio.ensure_future(clean("a", gate.photo()))
    await gate.reached()
    work = [asyncio.ensure_future(clean(address, photo())) for address in "aaaabbc"]
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(first, *work)
    assert "".join(done) == "abcabaaa"


async def test_address_waits_for_no_photo_of_another(start: Start) -> None:
    """Two photos that never end, and ten behind them, delay another address by none."""
    imaging = start(workers=2)
    with Gate() as one, Gate() as two:
        held = [asyncio.ensure_future(imaging.clean(gate.photo(), address="a")) for gate in (one, two)]
        await asyncio.gather(one.reached(), two.reached())
        behind = [asyncio.ensure_future(outcome(imaging.clean(photo(), address="a"))) for _ in range(10)]
        assert [await outcome(imaging.clean(photo(), address="b")) for _ in range(3)] == ["100"] * 3
        assert imaging.waiting == 10
        assert len(imaging.pids) == 3
        one.open()
        two.open()
        assert [image.data for image in await asyncio.gather(*held)] == [b"waited"] * 2
        assert await asyncio.gather(*behind) == ["100"] * 10


async def test_full_queue_refuses_address_with_most_photos(start: Start, gate: Gate) -> None:
    """One address fills the queue; the photo of another takes its newest place."""
    imaging = start(workers=1)
    working = asyncio.ensure_future(imaging.clean(gate.photo(), address="a"))
    await gate.reached()
    waiting = [asyncio.ensure_future(outcome(imaging.clean(photo(), address="a"))) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    other = asyncio.ensure_future(outcome(imaging.clean(photo(), address="b")))
    assert await waiting[-1] == "unavailable"
    assert imaging.waiting == MAX_WAITING
    gate.open()
    await working
    assert await other == "100"
    assert await asyncio.gather(*waiting[:-1]) == ["100"] * (MAX_WAITING - 1)


async def test_cancelled_waiter_gives_up_its_place(start: Start, gate: Gate) -> None:
    """A caller that is cancelled while it waits leaves the queue."""
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


async def test_cancelled_work_spares_the_process(start: Start, gate: Gate) -> None:
    """A process whose caller was cancelled cleans the next photo rightly."""
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


async def test_cancelled_loop_holds_no_process(start: Start) -> None:
    """Work without an end is ended although its caller was cancelled."""
    imaging = start(workers=1, work_seconds=2.0)
    pid = await pid_of(imaging)
    working = asyncio.ensure_future(imaging.clean(io.BytesIO(b"loop")))
    await asyncio.sleep(0)
    working.cancel()
    assert await outcome(imaging.clean(photo())) == "100"
    await gone(pid)


async def test_closed_photo_disturbs_no_other(start: Start) -> None:
    """A photo that its caller has closed is refused, the next is cleaned."""
    imaging = start(workers=1)
    closed = photo()
    refused = asyncio.ensure_future(outcome(imaging.clean(closed)))
    with tempfile.TemporaryFile() as file:
        other = asyncio.ensure_future(outcome(imaging.clean(file)))
        await asyncio.sleep(0)
    closed.close()
    assert await outcome(imaging.clean(photo())) == "100"
    assert [await refused, await other] == ["unavailable", "unavailable"]


async def test_close_ends_all_within_a_second(start: Start) -> None:
    """Looping and waiting photos are refused when the pool closes."""
    imaging = start()
    work = [asyncio.ensure_future(outcome(imaging.clean(io.BytesIO(what)))) for what in (b"loop", b"loop", b"pid")]
    await asyncio.sleep(0)
    pids = imaging.pids
    began = time.monotonic()
    await imaging.close()
    assert time.monotonic() - began < 5  # 0.05 on an idle machine, 1 promised
    assert [psutil.pid_exists(pid) for pid in pids] == [False, False]
    assert await asyncio.gather(*work) == ["unavailable"] * 3
    assert await outcome(imaging.clean(photo())) == "unavailable"


# -- real photos -----------------------------------------------------------------------


@pytest.fixture
async def imaging() -> AsyncIterator[Imaging]:
    imaging = Imaging(LIMITS)
    yield imaging
    await imaging.close()


async def test_many_photos_are_cleaned_at_once(imaging: Imaging, photos: Path) -> None:
    """Nine photos in two processes come back to their own callers."""
    names = list(itertools.islice(itertools.cycle(("photo.jpg", "garment.png", "photo.webp")), 9))
    images = await asyncio.gather(*(imaging.clean(io.BytesIO((photos / name).read_bytes())) for name in names))
    assert [(image.width, image.height) for image in images] == [SIZES[name] for name in names]


async def test_refusal_reaches_caller(imaging: Imaging) -> None:
    """A refusal in the process is the same error for the caller."""
    with pytest.raises(TryOnError) as caught:
        await imaging.clean(io.BytesIO(b"GIF89a"))
    assert caught.value.code == "unsupported_image"


async def test_source_is_read_from_its_beginning(imaging: Imaging, photos: Path) -> None:
    """A source that was read before is read from its beginning."""
    source = io.BytesIO((photos / "photo.webp").read_bytes())
    source.read(100)
    assert (await imaging.clean(source)).format is ImageFormat.WEBP


async def test_closing_waits_for_running_work(imaging: Imaging, photos: Path) -> None:
    """A photo that is being worked on is finished before the pool closes."""
    await imaging.clean(io.BytesIO((photos / "photo.webp").read_bytes()))
    work = asyncio.ensure_future(imaging.clean(io.BytesIO((photos / "photo.jpg").read_bytes())))
    await asyncio.sleep(0)
    await imaging.close()
    assert (await work).width == 900
