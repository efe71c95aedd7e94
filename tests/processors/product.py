"""`tryon up` with a chosen processor, and a client that keeps every frame."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image
from websockets.asyncio.client import connect

from testkit.stack import Stack
from testkit.stored_rows import stored_rows
from tests.processors.backends import Params
from tryon.protocol.paths import SESSIONS

WAIT_SECONDS = 60.0
"""Longest wait for anything in a story, on a busy machine."""

BEFORE_WORK = frozenset({"sending the photo", "waiting for the model server", "warming"})
"""Stages in which an upstream may not have the work yet."""

Frame = Mapping[str, Any]


class Watcher:
    """A client on a session's WebSocket; ``frames`` are all that it was sent."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._changed = asyncio.Event()

    async def until(self, met: Callable[[Frame], object]) -> Frame:
        """Wait for a frame, past ones included, that meets a condition."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                self._changed.clear()
                for frame in self.frames:
                    if met(frame):
                        return frame
                await self._changed.wait()

    async def event(self, name: str) -> Frame:
        """Wait for a transition."""
        return await self.until(lambda frame: frame["type"] == "event" and frame["event"] == name)

    async def running(self, *, after: int = 0) -> Frame:
        """Wait until the model works, in an attempt after this ``seq``."""
        return await self.until(
            lambda frame: frame["type"] == "progress" and frame["seq"] > after and frame["stage"] not in BEFORE_WORK
        )

    def progress(self) -> list[Frame]:
        """Return the frames of progress."""
        return [frame for frame in self.frames if frame["type"] == "progress"]

    async def read(self, url: str, token: str) -> None:
        """Keep frames until the server closes the connection."""
        protocols: Any = ["tryon.v1", f"tryon.bearer.{token}"]
        async with connect(url, subprotocols=protocols, proxy=None, max_size=None) as connection:
            async for text in connection:
                self.frames.append(json.loads(text))
                self._changed.set()


class Product:
    """A running installation, and one owner of sessions there."""

    def __init__(self, stack: Stack, photos: Mapping[str, bytes]) -> None:
        self.stack = stack
        self.photos = photos
        self.token = secrets.token_urlsafe(24)
        self.client = httpx.AsyncClient(
            base_url=stack.url, trust_env=False, headers={"Authorization": f"Bearer {self.token}"}, timeout=30
        )

    def __repr__(self) -> str:
        return f"<Product {self.stack!r}>"

    async def upload(self, params: Params) -> str:
        """Upload the photos; return the session's id."""
        files = {role: (f"{role}.jpg", data) for role, data in self.photos.items()}
        answer = await self.client.post(SESSIONS, files=files, data={"params": json.dumps(params)})
        assert answer.status_code == 201, answer.text
        session_id: str = answer.json()["session_id"]
        return session_id

    @contextlib.asynccontextmanager
    async def watching(self, session_id: str) -> AsyncIterator[Watcher]:
        """Follow a session for the length of a block."""
        watcher = Watcher()
        url = f"{self.stack.url.replace('http', 'ws', 1)}{SESSIONS}/{session_id}/ws"
        reading = asyncio.create_task(watcher.read(url, self.token))
        try:
            yield watcher
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def get(self, path: str) -> Any:
        """Return the JSON of a GET, which must succeed."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def session(self, session_id: str) -> Any:
        """Return a session as it is now."""
        return await self.get(f"{SESSIONS}/{session_id}")

    async def picture(self, link: str) -> Image.Image:
        """Return the picture that a link names, decoded."""
        answer = await self.client.get(link)
        assert answer.status_code == 200, answer.text
        with Image.open(io.BytesIO(answer.content)) as image:
            image.load()
            return image

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes."""
        children = psutil.Process(self.stack.process.pid).children()
        return [each for each in children if "arq worker.Settings" in " ".join(each.cmdline())]

    async def remains(self, session_id: str) -> list[str]:
        """Return the files and rows that name a session."""
        folder = self.stack.data_dir
        found = [str(path) for path in (folder / "uploads").rglob("*") if session_id in path.name]
        for table, rows in (await stored_rows(self.stack.database_url)).items():
            found += [table for row in rows if any(session_id in str(value) for value in row)]
        return found

    async def cleaned_up(self) -> None:
        """Wait until no upstream work has yet to be stopped or deleted."""
        async with asyncio.timeout(2 * WAIT_SECONDS):  # one that fails is tried again
            while (await stored_rows(self.stack.database_url))["tryon_cleanups"]:
                await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Stop the installation."""
        await self.client.aclose()
        await self.stack.close()
        print(f"--- output of {self.stack!r}\n{self.stack.output}")


@contextlib.asynccontextmanager
async def running_product(
    folder: Path, photos: Mapping[str, bytes], settings: Mapping[str, str]
) -> AsyncIterator[Product]:
    """Run `tryon up` in ``folder`` with these settings until the end of the block."""
    fast = {"TRYON_PORT": "0", "TRYON_UPLOAD_RATE": "off", "TRYON_LEASE_SECONDS": "3"}
    stack = await Stack.open(folder, "up", env=fast | dict(settings))
    product = Product(stack, photos)
    try:
        await stack.ready()
        product.client.base_url = httpx.URL(stack.url)
        yield product
    finally:
        await product.close()
