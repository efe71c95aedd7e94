"""A fake of the hosts that sell try-ons: submit, poll, fetch, cancel, forget.

It counts what it is paid for, and has the faults of the real ones.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import itertools
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from PIL import Image

from testkit.upstreams import Reply, Request, UpstreamServer


def picture(type: str = "image/jpeg", size: tuple[int, int] = (48, 64), colour: str = "teal") -> bytes:
    """Return a small picture of this type."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, type.partition("/")[2].upper())
    return file.getvalue()


@dataclass(slots=True)
class Work:
    """One paid piece of work."""

    body: Any = field(repr=False)
    polls: int = 0
    state: str = "working"
    """working, done, failed, cancelled, forgotten."""


class ModelHost:
    """A host at :attr:`url`; what a test sets here holds from the next request on.

    ``polls`` is how often work is asked for before it is done; None: it never is.
    """

    def __init__(self, *, polls: int | None = 2) -> None:
        self.server = UpstreamServer(self._answer)
        self.polls = polls
        self.works: dict[str, Work] = {}
        self.uploads: set[str] = set()
        """Numbers of the pictures that were uploaded, and are kept."""
        self.results: list[bytes] = [picture()]
        self.result_type = "image/jpeg"
        self.failure: Mapping[str, Any] = {}
        """Merged into the status of work that fails; empty: it does not."""
        self.next: list[Reply] = []
        """Answers to the next requests, in place of the true ones."""
        self.refusal: Reply | None = None
        """Answer to every request meanwhile; the host does nothing else."""
        self.redirect: str | None = None
        """Where the result's file is said to be."""
        self.polled = asyncio.Event()
        self.stuck = False
        """Whether it never answers a request to cancel or to forget."""
        self.waiting: set[str] = set()
        """Such requests that it has not answered."""
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        return f"<ModelHost {self.server.url} works={len(self.works)}>"

    @property
    def url(self) -> str:
        return self.server.url

    async def __aenter__(self) -> Self:
        await self.server.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.server.__aexit__(*error)

    def options(self, **more: Any) -> dict[str, Any]:
        """Return options of httpjob for this host."""
        return {
            "url": self.url,
            "headers": {"Authorization": "Bearer {key}"},
            "key": "sk-secret",
            "submit": {
                "path": "/jobs",
                "keep": {"id": "id"},
                "json": {"person": "{person}", "garments": "{garment[]}", "seed": "{seed}"},
            },
            "poll": {"path": "/jobs/{id}", "every": 0.02, "position": "position", "progress": "progress"}
            | {"preview": "preview"},
            "result": {"files": "files.*.url", "count": 4},
            "usage": {"credits": "cost"},
            "cancel": {"method": "POST", "path": "/jobs/{id}/cancel"},
            "forget": {"method": "DELETE", "path": "/jobs/{id}"},
            **more,
        }

    async def _answer(self, request: Request) -> Reply:
        if self.next:
            return self.next.pop(0)
        if self.refusal is not None:
            return self.refusal
        if self.stuck and (request.method == "DELETE" or request.path.endswith("/cancel")):
            self.waiting.add(f"{request.method} {request.path}")
            await asyncio.Event().wait()
        match request.method, request.path.strip("/").split("/"):
            case "POST", ["jobs"]:
                number = str(next(self._numbers))
                self.works[number] = Work(request.json())
                return Reply.of({"id": number, "url": f"{self.url}/jobs/{number}"}, 201)
            case "GET", ["jobs", number] if number in self.works:
                return self._status(self.works[number])
            case "POST", ["jobs", number, "cancel"] if number in self.works:
                self.works[number].state = "cancelled"
                return Reply.of({})
            case "DELETE", ["jobs", number] if number in self.works:
                self.works[number].state = "forgotten"
                return Reply.of({})
            case "GET", ["files", number]:
                if self.redirect is not None:
                    return Reply(302, headers={"Location": self.redirect})
                return Reply(body=self.results[int(number)], headers={"Content-Type": self.result_type})
            case "GET", ["previews", number]:
                return Reply(body=picture(size=(24, 32), colour=f"rgb(0, 0, {number})"))
            case "POST", ["files"]:
                self.uploads.add(number := str(next(self._numbers)))
                return Reply.of({"id": number, "urls": {"get": f"{self.url}/inputs/{number}"}}, 201)
            case "DELETE", ["files", number] if number in self.uploads:
                self.uploads.remove(number)
                return Reply.of({})
            case "POST", ["try-on"]:
                self.works[str(next(self._numbers))] = Work(request.json(), state="done")
                return Reply.of({"image": base64.b64encode(self.results[0]).decode(), "cost": 2})
            case _:
                return Reply.of({"error": "not found"}, 404)

    def _status(self, work: Work) -> Reply:
        self.polled.set()
        work.polls += 1
        if work.state == "forgotten":
            return Reply.of({"error": "gone"}, 404)
        if work.state == "working" and self.polls is not None and work.polls > self.polls:
            work.state = "failed" if self.failure else "done"
        match work.state:
            case "done":
                files = [{"url": f"{self.url}/files/{number}"} for number in range(len(self.results))]
                return Reply.of({"status": "succeeded", "files": files, "cost": 1.5})
            case "failed" | "cancelled":
                return Reply.of({"status": "failed", **self.failure})
            case _:
                ahead = max(0, 2 - work.polls)
                progress = min(0.9, work.polls / 10)
                preview = f"{self.url}/previews/{min(work.polls, 2)}"
                return Reply.of(
                    {"status": "running", "progress": progress, "position": ahead or None, "preview": preview}
                )


@contextlib.contextmanager
def serving_aside(**options: Any) -> Iterator[ModelHost]:
    """Run a host on an event loop of its own, for tests that have none or many."""
    loop = asyncio.new_event_loop()
    host = ModelHost(**options)
    thread = threading.Thread(target=loop.run_forever, name="model host", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(host.__aenter__(), loop).result(10)
        yield host
    finally:
        asyncio.run_coroutine_threadsafe(host.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def slowly(data: bytes, pause: float) -> AsyncGenerator[bytes, None]:
    """Yield a body byte by byte."""
    for number in range(len(data)):
        yield data[number : number + 1]
        await asyncio.sleep(pause)
