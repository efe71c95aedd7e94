"""The photos of the stories, and an installation for each processor."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

import pytest

from testkit.contact_sheet import encoded, photo_of
from testkit.garments import draw_garment
from tests.processors.backends import BACKENDS, Backend, Opened
from tests.processors.product import Product, running_product


@pytest.fixture(scope="session")
def outfit() -> Mapping[str, bytes]:
    """Return one photo of a person and one of a garment, for every processor."""
    return {"person": photo_of("ada"), "garment": encoded(draw_garment("striped-tee"))}


def marks(backend: Backend) -> list[pytest.MarkDecorator]:
    """Return the marks of a row: its tests share a process, and most rows are slow."""
    group = pytest.mark.xdist_group(f"processor-{backend.name}")
    return [group] if backend.sampled else [group, pytest.mark.slow]


class Stage:
    """A backend that runs, and an installation that uses it."""

    def __init__(self, backend: Backend, opened: Opened, product: Product) -> None:
        self.backend = backend
        self.opened = opened
        self.product = product

    def __repr__(self) -> str:
        return f"<Stage {self.backend.name}>"


@pytest.fixture(
    scope="module",
    params=[pytest.param(each, id=each.name, marks=marks(each)) for each in BACKENDS],
)
async def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, outfit: Mapping[str, bytes]
) -> AsyncIterator[Stage]:
    """Run each backend with an installation of its own."""
    backend: Backend = request.param
    folder = tmp_path_factory.mktemp(backend.name)
    async with contextlib.AsyncExitStack() as stack:
        opened = await stack.enter_async_context(backend.open(folder / "backend"))
        product = await stack.enter_async_context(running_product(folder / "product", outfit, opened.settings))
        yield Stage(backend, opened, product)
