"""Every processor with what stands behind it: the rows of the stories in this folder.

A new processor gets a row in :data:`BACKENDS`; all stories of
``test_stories.py`` and ``test_same_photo.py`` then run with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from testkit.environments import EnvironmentMissing
from testkit.gradio_app import GradioServer
from testkit.model_host import ModelHost
from testkit.plugin import missing
from tests.processors.cog.serving import running_cog
from worker.processors.overlay import weights

Params = Mapping[str, Any]


async def _nothing() -> None:
    """Return at once: nothing runs outside the worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A backend that runs, and what a product that uses it needs to know."""

    settings: Mapping[str, str]
    """TRYON_* of the product."""
    params: Callable[[float], Params] = lambda seconds: {}
    """Parameters of an upload that takes about this many seconds.

    Where it returns nothing, each upload takes :attr:`Backend.seconds`.
    """
    runs: Callable[[], int] | None = None
    """How many runs the backend has begun; None: it is not counted."""
    idle: Callable[[], Awaitable[None]] = _nothing
    """Wait until the backend runs nothing."""
    release: Callable[[], Awaitable[None]] | None = None
    """Let a run end now, once it is under way; None: it ends by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A row: a processor, and how to open what stands behind it."""

    name: str
    """Of the row; ``processor`` is the name that sessions show."""
    processor: str
    open: Callable[[Path], AbstractAsyncContextManager[Opened]] = field(repr=False)
    seconds: float = 3.0
    sampled: bool = False
    """Whether ``./test`` runs its stories; ``./test --all`` runs those of every row."""
    previews: bool = False
    """Whether a run shows a preview."""
    outputs: int = 1
    stoppable: bool = True
    """Whether a run lasts long enough to be cancelled, and to lose its worker."""
    resumes: bool = False
    """Whether a run outlives its worker, so that it is not begun twice."""
    upstream: str = "pending"
    """Words of an erased session's receipt, if its photo was given away."""


# -- mock ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _open_mock(folder: Path) -> AsyncIterator[Opened]:
    yield Opened(settings={"TRYON_PROCESSOR": "mock", "TRYON_MOCK_SECONDS": "3", "TRYON_MOCK_FAILURE_RATE": "0"})


# -- overlay ---------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _open_overlay(folder: Path) -> AsyncIterator[Opened]:
    if find_spec("cv2") is None:
        missing("the extra overlay (pip install -r requirements-overlay.lock)")
    try:
        await asyncio.to_thread(weights.install, weights.default_folder())
    except weights.WeightsError as error:
        missing(f"the weights of the overlay: {error}")
    yield Opened(settings={"TRYON_PROCESSOR": "overlay"})


# -- cog -------------------------------------------------------------------------------

_SECONDS: Final = {
    "type": "object",
    "properties": {"seconds": {"type": "number", "default": 0.5}},
    "additionalProperties": False,
}


def _open_cog(streams: bool) -> Callable[[Path], AbstractAsyncContextManager[Opened]]:
    @contextlib.asynccontextmanager
    async def opened(folder: Path) -> AsyncIterator[Opened]:
        async with running_cog(folder, streams=streams) as server:
            options = {
                "url": server.url,
                "params_schema": _SECONDS,
                "seed": "seed",
                "busy_seconds": 0.5,
                "generated": False,
                **({"result": "last"} if streams else {"outputs": {"image": "result", "mask": "mask"}}),
            }
            yield Opened(
                settings={"TRYON_PROCESSOR": "cog", "TRYON_PROCESSOR_OPTIONS": json.dumps(options)},
                params=lambda seconds: {"seconds": seconds},
                runs=lambda: server.runs.count("began"),
                idle=lambda: server.reaches("READY"),
                release=server.release,
            )

    return opened


# -- gradio ----------------------------------------------------------------------------

_STEP_SECONDS: Final = 0.05
"""What a step of the app's function takes."""

_STEPS: Final = {
    "type": "object",
    "properties": {"steps": {"type": "integer", "default": 10}},
    "additionalProperties": False,
}


@contextlib.asynccontextmanager
async def _open_gradio(folder: Path) -> AsyncIterator[Opened]:
    server = GradioServer()
    try:
        await server.start()
    except EnvironmentMissing as error:
        missing(f"Gradio ({error})")
    options = {
        "url": server.url,
        "calls": [{"api": "/grow", "data": ["$input.person", "$input.garment", "", "$params.steps"]}],
        "outputs": {"result": "$result.grow.1"},
        "previews": True,
        "params_schema": _STEPS,
    }
    try:
        yield Opened(
            settings={"TRYON_PROCESSOR": "gradio", "TRYON_PROCESSOR_OPTIONS": json.dumps(options)},
            params=lambda seconds: {"steps": round(seconds / _STEP_SECONDS)},
            runs=lambda: server.runs.count("began"),
            idle=server.idle,
        )
    finally:
        await server.close()


# -- httpjob ---------------------------------------------------------------------------

_POLL_SECONDS: Final = 0.1


@contextlib.asynccontextmanager
async def _open_httpjob(folder: Path) -> AsyncIterator[Opened]:
    async with ModelHost() as host:
        options = host.options()
        options["poll"] |= {"every": _POLL_SECONDS}

        def params(seconds: float) -> Params:
            host.polls = round(seconds / _POLL_SECONDS)
            return {}

        async def release() -> None:
            host.polls = 0

        async def idle() -> None:
            async with asyncio.timeout(30):
                while any(work.state == "working" for work in host.works.values()):
                    await asyncio.sleep(0.02)

        yield Opened(
            settings={"TRYON_PROCESSOR": "httpjob", "TRYON_PROCESSOR_OPTIONS": json.dumps(options)},
            params=params,
            runs=lambda: len(host.works),
            idle=idle,
            release=release,
        )


BACKENDS: Final = (
    Backend(name="mock", processor="mock", open=_open_mock),
    Backend(name="overlay", processor="overlay", open=_open_overlay, stoppable=False),
    Backend(name="cog", processor="cog", open=_open_cog(streams=True), sampled=True, previews=True, resumes=True),
    Backend(name="cog-waiting", processor="cog", open=_open_cog(streams=False), outputs=2),
    Backend(name="gradio", processor="gradio", open=_open_gradio, previews=True, upstream="kept"),
    Backend(name="httpjob", processor="httpjob", open=_open_httpjob, resumes=True),
)
