"""An image process: its rights, its code, its memory and its descriptors."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from PIL import Image

from server.adapters.imaging import cleaner
from server.adapters.imaging.pool import ACCEPTED, NICENESS, Imaging
from server.adapters.imaging.sample_photos import metadata
from server.domain.images import ImageFormat, Limits
from server.system.sandbox import PHOTOS, Sandbox
from testkit import films
from testkit.mutations import mutated
from testkit.originals import originals, plain
from tests.server.adapters.imaging.pools import (
    FAULTY,
    LINUX,
    ROOT,
    Start,
    imaging_program,
    outcome,
    photo,
)
from tests.server.system.attempts import need_layers, open_target, reached_without_sandbox
from tryon.protocol.errors import TryOnError


@LINUX
async def test_process_is_confined(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has few rights: no secret, few files, little memory, no log."""
    monkeypatch.setenv("TRYON_SECRET_KEY", "a secret")
    imaging = start(Limits(), program=imaging_program())
    await imaging.clean(photo())
    process = psutil.Process(imaging.pids[0])
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    hard = {line[:26].strip(): line[26:].split()[1] for line in limits.splitlines()[1:]}
    assert hard["Max core file size"] == "0"
    assert int(hard["Max open files"]) <= 16
    assert int(hard["Max address space"]) <= 1_700_000_000
    assert int(hard["Max file size"]) <= 210_000_000
    assert process.nice() == min(19, psutil.Process().nice() + NICENESS)
    assert "NoNewPrivs:\t1" in Path(f"/proc/{process.pid}/status").read_text()
    if os.geteuid() == 0:  # nobody else may look at these
        assert b"a secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
        assert len(os.listdir(f"/proc/{process.pid}/fd")) <= 4
        assert os.readlink(f"/proc/{process.pid}/fd/2") == "/dev/null"


@LINUX
async def test_photo_reaches_nothing(start: Start, tmp_path: Path) -> None:
    """A decoder that was taken over fails in everything that succeeds elsewhere."""
    need_layers(Sandbox(PHOTOS))
    imaging = start()
    with open_target(tmp_path) as target:
        assert set(reached_without_sandbox(target).values()) == {"reached"}
        own = dataclasses.replace(target, pid=os.getpid())
        for each in (target, own):
            assert await said(imaging, f"attempt {each.dump()}") == "reached []"
    assert imaging.sandbox_missing == ()


@LINUX
async def test_photo_is_handed_nothing_else(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child has its photo, its result and a pipe, and no variable of the server's."""
    monkeypatch.setenv("TRYON_SECRET_KEY", "a secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    imaging = start()
    names, _, files = (await said(imaging, "holdings")).rpartition(" ")
    assert sorted(files) == sorted("dd" + "ff" + "p")  # /dev/null twice
    assert not {"TRYON_SECRET_KEY", "AWS_SECRET_ACCESS_KEY"} & set(names.split("'"))


@LINUX
async def test_photo_finds_nothing_of_the_one_before(start: Start) -> None:
    """The bytes of a photo are in no memory that the next photo's decoder has."""
    imaging = start(workers=1)
    word = b"f00dcafe-" * 3 + b"the-photo-before"
    before = photo(100, "JPEG", comment=word * 64)
    await imaging.clean(before)
    assert await outcome(imaging.clean(io.BytesIO(b"remember " + word))) == "unsupported_image"
    assert await said(imaging, f"scan {word[:20].decode()} {word[20:].decode()}") == "0"


def test_scan_finds_word_in_same_process() -> None:
    """The scan of the test before finds a word that its own process has held."""
    script = """
from tests.server.adapters.imaging import faulty_imaging as faulty
kept = [b"f00d" + b"cafe" * 8 + bytes([number]) for number in range(256)]
faulty._note_maps()
print(faulty._count_in_memory(b"f00d", b"cafe") >= 256)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@LINUX
async def test_missing_layers_are_logged_once(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """What a machine lacks is one line of the log, and known to the pool."""
    program = (
        "-c",
        "import runpy; from server.system import landlock; landlock.version = lambda: 0;"
        f"runpy.run_path({FAULTY[0]!r}, run_name='__main__')",
    )
    imaging = start(program=program)
    assert await outcome(imaging.clean(photo())) == "100"
    assert await outcome(imaging.clean(photo())) == "100"
    assert imaging.sandbox_missing == ("landlock",)
    assert caplog.messages == ["Sandbox of image processes: this machine lacks Landlock, Linux 5.13 (files)"]


async def said(imaging: Imaging, words: str) -> str:
    """Return what a decoder that obeys says."""
    with pytest.raises(TryOnError) as caught:
        await imaging.clean(io.BytesIO(words.encode()))
    return str(caught.value.detail)


def test_rehearsal_loads_all_code() -> None:
    """After the rehearsal no photo of any kind opens a file: the sandbox has none.

    The photos are made by another process: an encoder loads what a decoder may need.
    """
    script = """
import io, pickle, sys
photos = pickle.load(sys.stdin.buffer)
from server.adapters.imaging import cleaner, template
from server.adapters.imaging.outputs import verifier
from server.domain.images import Limits
from server.domain.outputs import EXTENSIONS
template._rehearse(cleaner.clean, verifier.verify)
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event in ("open", "import") else None)
for photo in photos:
    try:
        cleaner.clean(io.BytesIO(photo), Limits(min_side=1))
    except cleaner.TryOnError:
        pass
    for type in EXTENSIONS:
        try:
            verifier.verify(io.BytesIO(photo), type, Limits(min_side=1), generated=True)
        except cleaner.TryOnError:
            pass
print(opened)
"""
    photos = [*originals().values(), films.mp4(), films.webm(), *(mutated(7, number)[1] for number in range(300))]
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, input=pickle.dumps(photos), capture_output=True, check=True)
    assert done.stdout == b"[]\n"


async def test_process_cleans_what_the_cleaner_cleans(start: Start) -> None:
    """No kind of photo needs what the sandbox keeps away."""
    limits = Limits(min_side=8)
    imaging = start(limits, program=imaging_program())
    for name, data in {**originals(), **heic()}.items():
        found = []
        for work in (imaging.clean(io.BytesIO(data)), asyncio.to_thread(cleaner.clean, io.BytesIO(data), limits)):
            try:
                found.append((await work).data)
            except TryOnError as error:
                found.append(str(error).encode())
        assert found[0] == found[1], name


def heic() -> dict[str, bytes]:
    """Return a HEIC photo, where the extra that decodes it can also encode it."""
    if ImageFormat.HEIC not in ACCEPTED:
        return {}
    file = io.BytesIO()
    plain(80).save(file, "HEIF", exif=metadata(6))
    return {"heic": file.getvalue()}


def test_each_side_loads_only_its_own_code() -> None:
    """The server loads no Pillow, and a process no server."""
    assert loaded("server.web.app") & {"PIL", "PIL.Image"} <= {"PIL"}
    child = loaded("server.adapters.imaging.template")
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


def test_accepted_formats_match_decoders() -> None:
    """The formats that the server accepts are those the decoders take."""
    assert cleaner.ACCEPTED == ACCEPTED


async def test_photo_in_file_is_handed_over(start: Start) -> None:
    """A photo in a file goes to the process by its descriptor."""
    imaging = start(Limits(), program=imaging_program())
    with tempfile.TemporaryFile() as file:
        Image.effect_noise((1500, 1500), 100).save(file, "PNG")
        file.seek(0)
        image = await imaging.clean(file)
    assert (image.format, image.width) == (ImageFormat.PNG, 1500)
    assert len(image.data) > 2**20
    assert Image.open(io.BytesIO(image.data)).size == (1500, 1500)


@LINUX
async def test_template_takes_no_memory_for_photo(start: Start) -> None:
    """A photo's memory is its child's, and ends with it."""
    imaging = start(Limits(), program=imaging_program())
    await imaging.clean(photo())
    template = psutil.Process(imaging.pids[0])
    before = template.memory_info().rss
    await imaging.clean(photo(3000, "JPEG", exif=metadata(6)))
    assert template.memory_info().rss < before + 2_000_000
    assert imaging.pids == [template.pid]
    assert template.children() == []


@LINUX
async def test_no_descriptor_is_left_open(start: Start) -> None:
    """Cancelled, refused and cleaned photos close their descriptors."""
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
