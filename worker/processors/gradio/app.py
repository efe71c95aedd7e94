"""The requests to a Gradio app: config, upload, join, stream, cancel, files.

Everything is asked of the app's own host. A file that the app returned is fetched by
its path below the app's address, never by the ``url`` beside it.
"""

from __future__ import annotations

import asyncio
import secrets
import urllib.parse
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tryon.processor import Checkpoint, Input, Output, ProcessorError
from worker.processors.gradio.failures import BUSY_SECONDS, COLD_SECONDS, Rule, failure_of
from worker.processors.gradio.messages import PROTOCOLS, Conversation, Lost, Word
from worker.processors.gradio.templates import FileData, Json
from worker.processors.upstream import MAX_FILE_BYTES, Answer, Upstream, retry_after

CONFIG_BYTES: Final = 8 * 2**20
"""Maximum bytes of an app's description: it lists every component."""
UPLOAD_SECONDS: Final = 60.0
DOWNLOAD_SECONDS: Final = 60.0
DOWNLOAD_TRIES: Final = 6
"""A lost connection, or an app that is away for 9 s, must not cost a run that has ended
well: Gradio cannot resume.

An answer may also be empty or broken off, when another call returns the same picture:
the app writes the file, whose name is a hash of its content, once more.
"""
DOWNLOAD_PAUSE_SECONDS: Final = 0.3
"""Pause after the first try; each after it is twice as long."""
IDLE_SECONDS: Final = 45.0
"""Longest silence in a stream; the app sends a heartbeat every 15 s."""
MESSAGE_BYTES: Final = 4 * 2**20
"""Maximum bytes of one message of a stream."""

_NOT_THERE: Final = 404
_COLD: Final = frozenset((502, 503, 504))
_BUSY_TEXT: Final = "Queue is full"
_SUFFIXES: Final = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}


@dataclass(frozen=True, slots=True)
class Config:
    """What an app says of itself."""

    prefix: str
    """Of the paths below; ``gradio_api`` since Gradio 5."""
    protocol: str
    functions: Mapping[str, int]
    """The number of each function that has a name."""

    def path(self, path: str) -> str:
        """Return the path of a request."""
        return f"{self.prefix}/{path}"

    def function(self, api: str) -> int:
        """Return a function's number. Raises ValueError: there is no such function."""
        if (number := self.functions.get(api)) is None:
            raise ValueError(f"the app has no function {api!r}; it has {', '.join(sorted(self.functions)) or 'none'}")
        return number

    @classmethod
    def parse(cls, value: Json) -> Config:
        """Return the config of ``/config``. Raises ValueError: it is no such thing."""
        if not isinstance(value, Mapping) or not isinstance(value.get("dependencies"), list):
            raise ValueError("the address is not that of a Gradio app")
        if (protocol := value.get("protocol")) not in PROTOCOLS:
            raise ValueError(f"the app speaks {str(protocol)[:20]!r}, not one of {', '.join(PROTOCOLS)}")
        functions = {}
        for place, each in enumerate(value["dependencies"]):
            if isinstance(each, Mapping) and isinstance(name := each.get("api_name"), str):
                number = each.get("id", place)
                functions[name.strip("/")] = number if isinstance(number, int) else place
        prefix = value.get("api_prefix")
        return cls(prefix.strip("/") if isinstance(prefix, str) else "", str(protocol), functions)


class GradioApp:
    """An app at one address."""

    def __init__(self, upstream: Upstream, rules: Sequence[Rule] = ()) -> None:
        self._upstream = upstream
        self._rules = rules

    def __repr__(self) -> str:
        return f"<GradioApp {self._upstream!r}>"

    async def visit(self, trace: str | None = None) -> Visit:
        """Return a new session with the app, as a browser's page has one.

        Raises ProcessorError, ValueError: it is no app, or cannot be reached.
        """
        headers = {"traceparent": trace} if trace else {}
        answer = await self._upstream.call("GET", "config", headers=headers, max_bytes=CONFIG_BYTES)
        if answer.status == _NOT_THERE:  # of a private space, too, without its token
            raise ProcessorError("backend_unreachable", retryable=False)
        return Visit(self._upstream, self._rules, Config.parse(self._checked(answer).json()), headers)

    async def cancel(self, checkpoint: Checkpoint) -> None:
        """Stop the call that a checkpoint names, whether it waits, runs or has ended.

        A function that runs in a thread goes on to its own end there.
        """
        call = {
            "session_hash": str(checkpoint["session"]),
            "fn_index": int(checkpoint["function"]),
            "event_id": str(checkpoint["event"]),
        }
        answer = await self._upstream.call("POST", f"{checkpoint['prefix']}/cancel", json=call)
        if answer.status != _NOT_THERE:
            self._checked(answer)

    def _checked(self, answer: Answer) -> Answer:
        return checked(answer, self._rules)


class Visit:
    """One session with an app: its files, and the calls that it waits for."""

    def __init__(self, upstream: Upstream, rules: Sequence[Rule], config: Config, headers: Mapping[str, str]) -> None:
        self._upstream = upstream
        self._rules = rules
        self._config = config
        self._headers = headers
        # Of its own: the app need not learn the session's id.
        self._session = secrets.token_hex(16)

    def __repr__(self) -> str:
        return f"<Visit {self._session}>"

    def check(self, api: str) -> None:
        """Return if the app has this function. Raises ValueError."""
        self._config.function(api)

    async def upload(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[FileData]]:
        """Send the images to the app; return them by role, as its JSON has files."""
        if not inputs:
            return {}
        names = [f"{each.role}-{each.index}.{_SUFFIXES.get(each.type, 'png')}" for each in inputs]
        files = [
            ("files", (name, await asyncio.to_thread(each.read), each.type))
            for name, each in zip(names, inputs, strict=True)
        ]
        path = self._config.path("upload")
        answer = await self._upstream.call("POST", path, headers=self._headers, files=files, seconds=UPLOAD_SECONDS)
        paths = checked(answer, self._rules).json()
        if not isinstance(paths, list) or len(paths) != len(names) or not all(isinstance(each, str) for each in paths):
            raise ValueError("the app answered an upload without the paths of the files")
        found: dict[str, list[FileData]] = {}
        for each, name, stored in zip(inputs, names, paths, strict=True):
            file = {"path": stored, "orig_name": name, "mime_type": each.type, "size": each.bytes}
            found.setdefault(each.role, []).append({**file, "meta": {"_type": "gradio.FileData"}})
        return found

    async def join(self, api: str, data: Json) -> Checkpoint:
        """Put a call into the app's queue; return what names it.

        Raises ProcessorError: the queue is full, or the app refuses the values;
        ValueError: it has no such function.
        """
        function = self._config.function(api)
        body = {"data": data, "fn_index": function, "session_hash": self._session, "trigger_id": None}
        answer = await self._upstream.call("POST", self._config.path("queue/join"), headers=self._headers, json=body)
        joined = checked(answer, self._rules).json()
        if not isinstance(joined, Mapping) or not isinstance(event := joined.get("event_id"), str):
            raise ValueError("the app put a call into its queue without an id")
        return {"prefix": self._config.prefix, "session": self._session, "function": function, "event": event}

    async def words(self, call: Checkpoint) -> AsyncGenerator[Word, None]:
        """Yield what the app says of a call; close it when no more is wanted.

        The app drops a call that waits when its stream is closed.
        """
        conversation = Conversation(str(call["event"]), self._config.protocol)
        path = self._config.path(f"queue/data?session_hash={self._session}")
        async with self._upstream.events(
            "GET", path, headers=self._headers, idle_seconds=IDLE_SECONDS, max_event_bytes=MESSAGE_BYTES
        ) as events:
            async for event in events:
                if (word := conversation.read(event.json())) is not None:
                    yield word
        yield Lost("the stream ended before the call")

    async def fetch(self, file: FileData, *, max_bytes: int = MAX_FILE_BYTES) -> Output:
        """Return a file that the app returned.

        Raises ValueError: it is of no type that may be returned.
        """
        path = self._config.path(f"file={urllib.parse.quote(str(file['path']))}")
        answer = await self._download(path, max_bytes)
        if (found := type_of(answer.body)) is None:
            raise ValueError("the app returned a file that is neither an image nor a video")
        return Output(answer.body, found)

    async def _download(self, path: str, max_bytes: int) -> Answer:
        for tried in range(DOWNLOAD_TRIES - 1):
            try:
                answer = await self._upstream.download(path, seconds=DOWNLOAD_SECONDS, max_bytes=max_bytes)
                if answer.body:
                    return answer
            except ProcessorError as error:
                if error.code != "backend_unreachable" or not error.requeue:
                    raise
            await asyncio.sleep(DOWNLOAD_PAUSE_SECONDS * 2**tried)
        return await self._upstream.download(path, seconds=DOWNLOAD_SECONDS, max_bytes=max_bytes)


def checked(answer: Answer, rules: Sequence[Rule]) -> Answer:
    """Return the answer. Raises ProcessorError unless it is a success."""
    if answer.ok:
        return answer
    text = _detail(answer)
    if answer.status in _COLD:
        seconds = retry_after(answer.headers)
        if _BUSY_TEXT in text:
            raise ProcessorError("backend_busy", retry_after=BUSY_SECONDS if seconds is None else seconds)
        raise ProcessorError("backend_cold", retry_after=COLD_SECONDS if seconds is None else seconds)
    if text and answer.status in (400, 422):  # the app's own check of the values
        raise failure_of(text, rules)
    return answer.checked()


def _detail(answer: Answer) -> str:
    """Return the texts of FastAPI's ``detail``, or nothing."""
    try:
        value = answer.json()
    except ProcessorError:
        return ""
    detail = value.get("detail") if isinstance(value, Mapping) else None
    parts = detail if isinstance(detail, list) else [detail]
    texts = (each.get("message") if isinstance(each, Mapping) else each for each in parts)
    return "; ".join(text for text in texts if isinstance(text, str))


def type_of(data: bytes) -> str | None:
    """Return the type that a file's first bytes say; None: it may not be returned."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return "video/mp4"
    return "video/webm" if data.startswith(b"\x1a\x45\xdf\xa3") else None
