"""The HTTP API of a Cog server, as far as a processor needs it.

``PUT /predictions/{id}`` starts a prediction, or finds the one of this id that runs:
what it answers then depends on the headers, not on the body. There is no other way to
ask for a prediction, and the server forgets it when it ends. So a question about a
prediction that may have ended must not start it again: it carries an input that the
model's schema refuses (:attr:`Model.refused`), which the server reads only if no
prediction of this id runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from tryon.processor import ProcessorError
from worker.processors.upstream import MAX_FILE_BYTES, Answer, Event, Rejected, Upstream

ANSWER_BYTES: Final = 4 * MAX_FILE_BYTES
"""Most bytes of a prediction's answer, which holds its files in base64, and echoes its
inputs while it runs.
"""
SILENCE_SECONDS: Final = 45.0
"""Longest silence of a stream; the server writes a comment every 15 s."""
HEALTH_SECONDS: Final = 4.0

OVERTAKEN_SECONDS: Final = (0.25, 0.75, 2.0)
"""Pauses between cancels of a prediction that the server does not know: together longer
than a child goes on after its cancel, and its last request is under way.
"""

JsonObject: TypeAlias = Mapping[str, Any]

_ASYNC: Final = {"Prefer": "respond-async"}
_NOT_FOUND, _CONFLICT, _NOT_READY, _UNPROCESSABLE = 404, 409, 503, 422


class Health(StrEnum):
    """The states of a server, as it calls them."""

    UNKNOWN = "UNKNOWN"
    STARTING = "STARTING"
    READY = "READY"
    BUSY = "BUSY"
    UNHEALTHY = "UNHEALTHY"
    SETUP_FAILED = "SETUP_FAILED"
    DEFUNCT = "DEFUNCT"
    UNREACHABLE = "UNREACHABLE"
    """Ours, for one that does not answer."""


class Ended(Exception):
    """The server runs no prediction of this id."""


@dataclass(frozen=True, slots=True)
class Model:
    """What the model's schema says; a server without one takes any input."""

    streams: bool = False
    """Whether it sends events while it runs."""
    refused: JsonObject | None = None
    """A body whose input it refuses; None: there is none for sure."""

    @classmethod
    def of(cls, schema: object, name: str) -> Model:
        """Return the model of an OpenAPI document; ``name`` is an input of an image."""
        streams = _get(schema, "paths", "/predictions", "post", "x-cog-streaming") is True
        kind = _get(schema, "components", "schemas", "Input", "properties", name, "type")
        # The schema of an image is a string (a URL), that of several an array of them.
        refused: JsonObject | None = {"input": {name: {}}} if kind in ("string", "array") else None
        return cls(streams=streams and refused is not None, refused=refused)


class CogServer:
    """A Cog server.

    All methods raise ProcessorError: the server is not reached, or refuses the call.
    """

    def __init__(self, upstream: Upstream, *, image: str, busy_seconds: float) -> None:
        self._upstream = upstream
        self._image = image
        self._busy_seconds = busy_seconds

    def __repr__(self) -> str:
        return f"<CogServer {self._upstream!r}>"

    async def health(self) -> Health:
        """Return the state of the server."""
        answer = await self._upstream.call("GET", "health-check", seconds=HEALTH_SECONDS)
        if answer.status == _NOT_FOUND:  # a proxy that passes predictions alone
            return Health.READY
        try:
            return Health(str(_get(answer.checked().json(), "status")))
        except ValueError:
            return Health.UNKNOWN

    async def model(self) -> Model:
        """Return what the model's schema says."""
        answer = await self._upstream.call("GET", "openapi.json")
        return Model.of(answer.json(), self._image) if answer.ok else Model()

    async def submit(self, prediction_id: str, body: JsonObject, trace: str | None) -> None:
        """Start a prediction that runs on whoever is connected.

        Raises ProcessorError, ``backend_busy``: the server is at capacity.
        """
        headers = {**_ASYNC, **_traced(trace)}
        self._accepted(await self._upstream.call("PUT", _path(prediction_id), json=body, headers=headers))

    async def predict(self, prediction_id: str, body: JsonObject, trace: str | None, *, seconds: float) -> JsonObject:
        """Run a prediction and return it when it has ended.

        It is cancelled when this is. Raises ProcessorError as :meth:`submit`.
        """
        path, headers = _path(prediction_id), _traced(trace)
        call = self._upstream.call("PUT", path, json=body, headers=headers, seconds=seconds, max_bytes=ANSWER_BYTES)
        return _object(self._accepted(await call))

    @contextlib.asynccontextmanager
    async def stream(
        self, prediction_id: str, body: JsonObject, trace: str | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Open the events of a prediction, from its first one on.

        It is started if none of this id runs; one that was started so is cancelled
        when its last stream is closed. Raises :class:`Ended`: ``body`` is
        :attr:`Model.refused` and none runs.
        """
        opened = self._upstream.events(
            *("PUT", _path(prediction_id)),
            headers=_traced(trace),
            json=body,
            idle_seconds=SILENCE_SECONDS,
            max_event_bytes=ANSWER_BYTES,
        )
        async with contextlib.AsyncExitStack() as stack:
            try:
                events = await stack.enter_async_context(opened)
            except Rejected as error:
                if error.status == _UNPROCESSABLE:
                    raise Ended from None
                raise self._refused(error) from None
            yield events

    async def peek(self, prediction_id: str, refused: JsonObject) -> JsonObject:
        """Return a prediction that runs, as it is now. Raises :class:`Ended`."""
        path = _path(prediction_id)
        answer = await self._upstream.call("PUT", path, json=refused, headers=_ASYNC, max_bytes=ANSWER_BYTES)
        if answer.status == _UNPROCESSABLE:
            raise Ended
        return _object(answer.checked())

    async def cancel(self, prediction_id: str, *, overtakes: bool = False) -> None:
        """Cancel a prediction; return also if there is none any more.

        ``overtakes``: it may still be on its way. The server does not know it before it
        arrives, so it is asked again for a while.
        """
        for pause in (*(OVERTAKEN_SECONDS if overtakes else ()), 0.0):
            answer = await self._upstream.call("POST", f"{_path(prediction_id)}/cancel")
            if answer.status != _NOT_FOUND:
                answer.checked()
                return
            await asyncio.sleep(pause)

    async def download(self, url: str) -> bytes:
        """Return the file that a link names; it must be on an allowed host."""
        return (await self._upstream.download(url)).body

    def _accepted(self, answer: Answer) -> Answer:
        try:
            return answer.checked()
        except Rejected as error:
            raise self._refused(error) from None

    def _refused(self, error: Rejected) -> ProcessorError:
        """Return the error of a server that did not take a prediction."""
        if error.status == _CONFLICT:
            return ProcessorError("backend_busy", retry_after=self._busy_seconds)
        if error.status == _NOT_READY:
            return ProcessorError("backend_cold", retry_after=self._busy_seconds)
        return error


def _path(prediction_id: str) -> str:
    return f"predictions/{quote(prediction_id, safe='')}"


def _traced(trace: str | None) -> dict[str, str]:
    return {} if trace is None else {"traceparent": trace}


def _object(answer: Answer) -> JsonObject:
    found = answer.json()
    return found if isinstance(found, dict) else {}


def _get(value: object, *names: str) -> object:
    """Return what a path of names leads to in nested objects, or None."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
