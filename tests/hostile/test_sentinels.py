"""Unmistakable bytes in everything that a person sends: where they are, and are not.

A session with them is uploaded over HTTP, followed, completed, looked at and deleted.
Before that only the stored forms are found; afterwards nothing is, in files, rows,
Redis, its log, temporary files, logs and metrics.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sqlalchemy import text

from server.adapters.redis import bus as bus_module
from server.config.settings import Config
from server.domain.stored_files import NewFile
from server.domain.tokens import new_token, token_hash
from server.reconciler import timing
from testkit.fixtures import StartValkey
from testkit.running import Web, running_web
from testkit.servers import ValkeyServer
from tests.server.sessions.test_traces import files_with
from tryon.protocol.paths import SESSIONS

NEVER = {
    "EXIF": "sentinel-in-exif",
    "XMP": "sentinel-in-xmp",
    "text chunk": "sentinel-in-text",
    "file name": "sentinel-name",
    "part's type": "sentinel/type",
    "header field": "sentinel-agent",
    "idempotency key": "sentinel-key",
    "query": "sentinel-query",
    "unknown field": "sentinel-field",
}
"""Never written anywhere, not even while the session lives."""
PARAM = "sentinel-in-params"
OUTPUT = b"\xff\xd8\xff\xe0 sentinel-in-the-output"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Scrub ten times a second, and keep temporary files where they are searched."""
    monkeypatch.setattr(timing, "TRACES_SECONDS", 0.1)
    monkeypatch.setattr(bus_module, "REWRITE_SECONDS", 1)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))


def photo() -> bytes:
    """Return a PNG with a sentinel wherever it can hold one, too large for memory."""
    picture = Image.effect_noise((900, 900), 100).convert("RGB")
    exif = Image.Exif()
    exif[0x010E] = NEVER["EXIF"]
    notes = PngInfo()
    notes.add_text("note", NEVER["text chunk"])
    notes.add_itxt("XML:com.adobe.xmp", NEVER["XMP"])
    out = io.BytesIO()
    picture.save(out, "PNG", exif=exif, pnginfo=notes)
    return out.getvalue()


class Traces:
    """All places where bytes of a session may lie."""

    def __init__(self, web: Web, valkey: ValkeyServer, folder: Path, log: Callable[[], str]) -> None:
        self._web = web
        self._valkey = valkey
        self._folder = folder
        self._log = log

    async def of(self, needles: Mapping[str, bytes], *, logs: bool = True) -> set[str]:
        """Return the names of the needles that are found, each with its place."""
        found = {f"{name} in {file}" for name, needle in needles.items() for file, _ in self._files(needle)}
        places = {"rows": await self._rows(), "Redis": await self._redis()}
        if logs:
            metrics = (await self._web.client.get("/metrics")).content
            places |= {"log": self._log().encode(), "metrics": metrics}
        return found | {
            f"{name} in {place}"
            for place, content in places.items()
            for name, needle in needles.items()
            if needle in content
        }

    def _files(self, needle: bytes) -> Iterable[tuple[str, bytes]]:
        return [*files_with(self._folder, [needle]), *files_with(self._valkey.folder, [needle])]

    async def _rows(self) -> bytes:
        content = ""
        async with self._web.database.connections.read() as connection:
            for table in ("tryon_sessions", "tryon_events", "tryon_gone", "tryon_leases"):
                content += "".join(str(tuple(row)) for row in await connection.execute(text(f"SELECT * FROM {table}")))
        return content.encode()

    async def _redis(self) -> bytes:
        found = b""
        async with self._valkey.client() as client:
            client.connection_pool.connection_kwargs["decode_responses"] = False
            for key in await client.keys("*"):
                found += bytes(key) + (await client.dump(key) or b"")
        return found


def lines_of(caplog: pytest.LogCaptureFixture) -> str:
    """Return the server's log: at DEBUG what is its own, at INFO its libraries'."""
    own = ("tryon", "uvicorn")
    clients = ("httpx", "httpcore", "websockets.client")
    return "\n".join(
        f"{record.getMessage()} {vars(record)}"
        for record in caplog.records
        if record.name.startswith(own) or (record.levelno >= logging.INFO and not record.name.startswith(clients))
    )


async def uploaded(web: Web, token: str, image: bytes) -> Any:
    """Upload with a sentinel in every part and field that a client can fill."""
    files: dict[str, Any] = {
        "image": (NEVER["file name"] + ".png", image, NEVER["part's type"]),
        "params": (None, json.dumps({"said": PARAM})),
        "more": (None, NEVER["unknown field"]),
    }
    headers = {
        "X-Client-Token": token,
        "User-Agent": NEVER["header field"],
        "Idempotency-Key": NEVER["idempotency key"],
    }
    answer = await web.client.post(f"{SESSIONS}?q={NEVER['query']}", files=files, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_deleted_session_leaves_no_byte(
    config: Callable[..., Config],
    database_url: str,
    start_valkey: StartValkey,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What identifies the session is found while it lives, and nowhere afterwards."""
    caplog.set_level(logging.DEBUG)
    valkey = start_valkey(persistent=True)
    async with running_web(config(redis_url=valkey.url)) as web:
        token, image = new_token(), photo()
        view = await uploaded(web, token, image)
        session = await web.database.reader.get(view["session_id"])
        assert session is not None
        async with web.follow(session.id, token) as client:
            await client.next("snapshot")
            claim = await web.begin(session)
            await web.services.sessions.claims.report(claim, 0.5, "rendering")
            assert await web.services.sessions.claims.complete(claim, [NewFile(OUTPUT)])
            await client.rest()
        stored = (await web.client.get(view["links"]["input"])).content
        ticket, link = view["links"]["ws"].partition("ticket=")[2], view["links"]["input"].partition("signature=")[2]

        never = {name: value.encode() for name, value in NEVER.items()}
        never |= {"token": token.encode(), "ticket": ticket.encode(), "signature": link.encode()}
        never |= {f"sent bytes at {at}": image[at : at + 32] for at in (0, len(image) // 2)} if image != stored else {}
        in_log = {"session id": session.id.encode()}
        living = {
            "params": PARAM.encode(),
            "photo": stored[len(stored) // 2 :][:48],
            "output": OUTPUT[4:],
            "owner": token_hash(token).encode(),
        }
        traces = Traces(web, valkey, tmp_path, lambda: lines_of(caplog))
        never.pop("sent bytes at 0", None)  # the signature of every PNG
        assert await traces.of(never) == set()
        seen = await traces.of(living | in_log)
        assert {name.partition(" in ")[0] for name in seen} == {*living, *in_log}, "the search finds what there is"

        await web.services.redis.delete(f"{web.config.key_prefix}rewritten")  # that of the start
        answer = await web.client.delete(f"{SESSIONS}/{session.id}", headers={"X-Client-Token": token})
        assert answer.status_code == 200
        left: set[str] = {"not yet looked"}

        async def gone() -> bool:
            nonlocal left
            left = await traces.of(never | living) | await traces.of(in_log, logs=False)
            return not left

        try:
            await _until(gone)
        except TimeoutError:
            assert left == set()


async def _until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not await true():
            await asyncio.sleep(0.1)
