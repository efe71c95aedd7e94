"""The processor that uploads are judged by."""

from __future__ import annotations

import msgspec
import pytest

from server.adapters.database.processors import PublishedProcessor
from server.services import Services
from server.sessions.processors import ProcessorDirectory, disagreement
from testkit.clocks import ManualClock
from tryon.processor import Info
from tryon.processor.description import describe
from tryon.protocol.errors import Unavailable

MOCK = describe(Info(name="mock"))
OVERLAY = describe(Info(name="overlay", label="overlay, no generative AI"))


def directory(services: Services, setting: str, clock: ManualClock | None = None) -> ProcessorDirectory:
    """Return what a process with this setting sees; it reads anew each time."""
    return ProcessorDirectory(rows=services.database.processors, setting=setting, clock=clock or services.clock)


async def test_uploads_are_unavailable_when_no_worker_has_ever_published(services: Services) -> None:
    """A processor that nobody has described judges nothing."""
    with pytest.raises(Unavailable) as refused:
        await directory(services, "acme.fit:Model").current()
    assert refused.value.code == "unavailable" and refused.value.retry_after


async def test_newest_living_worker_judges_uploads(services: Services) -> None:
    """A worker of a new version takes over as soon as it has published."""
    newer = msgspec.structs.replace(MOCK, version="2")
    await directory(services, "acme").publish("a", MOCK)
    assert (await directory(services, "acme").current()).view == msgspec.structs.replace(MOCK, name="acme")
    await directory(services, "acme").publish("b", newer)
    await directory(services, "acme").publish("a", MOCK)  # a renewal
    found = await directory(services, "acme").current()
    assert found.view.version == "2"
    assert found.disagreement is not None


async def test_last_description_judges_uploads_when_no_worker_lives(services: Services) -> None:
    """It says that no worker is there."""
    await directory(services, "acme").publish("a", OVERLAY)
    await directory(services, "acme").withdraw("a")
    found = await directory(services, "acme").current()
    assert (found.view.name, found.view.available, found.disagreement) == ("acme", False, None)


async def test_uploads_are_refused_when_all_workers_run_another_processor(services: Services) -> None:
    """The last description does not judge what another processor would be given."""
    await directory(services, "acme").publish("a", MOCK)
    await directory(services, "acme").withdraw("a")
    await directory(services, "other").publish("b", OVERLAY)
    with pytest.raises(Unavailable, match="run the processor other; this server is set to acme"):
        await directory(services, "acme").current()


async def test_fall_over_names_the_processors_that_follow(services: Services) -> None:
    """The first processor judges; spaces in the setting mean nothing."""
    await directory(services, "cog, httpjob").publish("a", MOCK)
    found = await directory(services, "cog,httpjob").current()
    assert (found.view.name, found.view.fallbacks) == ("cog", ["httpjob"])


async def test_description_is_read_once_a_second(services: Services) -> None:
    """Uploads share a reading; a refusal is not kept."""
    clock = ManualClock()
    seen = directory(services, "acme", clock)
    with pytest.raises(Unavailable):
        await seen.current()
    await directory(services, "acme").publish("a", MOCK)
    assert (await seen.current()).view.label == MOCK.label
    await directory(services, "acme").publish("b", OVERLAY)
    assert (await seen.current()).view.label == MOCK.label
    clock.advance(1.1)
    assert (await seen.current()).view.label == OVERLAY.label


async def test_returning_worker_is_seen_at_once(services: Services) -> None:
    """A start with an old database is ready as soon as its worker has published."""
    seen = directory(services, "acme", ManualClock())
    await directory(services, "acme").publish("old", MOCK)
    await directory(services, "acme").withdraw("old")
    assert not (await seen.current()).view.available
    await directory(services, "acme").publish("new", MOCK)
    assert (await seen.current()).view.available


async def test_unreadable_description_is_unavailable(services: Services) -> None:
    """A row of another release is a 503, never a crash."""
    for text in ("{}", '{"name": 1}', "x"):
        await services.database.processors.publish("a", setting="acme", description=text, seconds=60)
        with pytest.raises(Unavailable):
            await directory(services, "acme").current()


def test_workers_that_differ_are_shown() -> None:
    """Other settings, and other descriptions, are told to the operator."""

    def row(setting: str, description: str) -> PublishedProcessor:
        from datetime import UTC, datetime

        now = datetime.now(UTC)
        return PublishedProcessor(
            setting=setting, description=description, published_at=now, expires_at=now, living=True
        )

    assert disagreement("mock", [row("mock", "a"), row("mock", "a")]) is None
    assert "different ways" in (disagreement("mock", [row("mock", "a"), row("mock", "b")]) or "")
    assert "overlay" in (disagreement("mock", [row("mock", "a"), row("overlay", "b")]) or "")
