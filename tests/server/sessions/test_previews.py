"""Intermediate pictures of a running session."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import pytest

from server.domain.bus_message import PROGRESS, parse_prefix
from server.domain.stored_files import NewFile
from server.services import Services
from server.sessions.claims import Claim
from testkit.running import until
from tests.server.sessions.conftest import MINE, begin, files, published_about, row, submit
from tryon.protocol.errors import Unavailable
from tryon.protocol.states import GoneReason

FIRST, SECOND = NewFile(b"noise", width=8, height=9), NewFile(b"less noise", "image/png")


async def stored_bytes(services: Services, session_id: str) -> int:
    """Return the bytes that a session counts for its owner."""
    async with services.database.connections.read() as connection:
        found = await connection.exec_driver_sql("SELECT stored_bytes FROM tryon_sessions")
        return int(found.scalar_one())


async def show(services: Services, claim: Claim, picture: NewFile) -> bool:
    """Show a preview, and wait until its word is out: then nothing is in flight."""
    shown = await services.sessions.claims.preview(claim, picture)
    await until(lambda: claim.reports.timer is None)
    return shown


async def test_preview_replaces_the_one_before(services: Services) -> None:
    """One row and one file at a time; its bytes count, those of the last do not."""
    session = await submit(services)
    claim = await begin(services, session)
    before = await stored_bytes(services, session.id)
    for picture in (FIRST, SECOND):
        assert await show(services, claim, picture)
    assert [key for key in files(services) if "previews" in key] == [f"previews/{session.id}-1-2.png"]
    assert await stored_bytes(services, session.id) == before + len(SECOND.data)
    shown = (await services.sessions.reads.read(session.id, MINE)).view.preview
    assert shown is not None and f"previews/{session.id}-1-2.png?" in shown.link
    assert (shown.type, shown.width, shown.height) == ("image/png", None, None)


async def test_preview_is_linked_in_progress(services: Services) -> None:
    """From the preview on each progress frame has its link, beside the last values."""
    session = await submit(services)
    claim = await begin(services, session)
    async with published_about(services, session.id) as published:
        await services.sessions.claims.report(claim, 0.4, "rendering", step=12, steps=30)
        await show(services, claim, FIRST)
        await services.sessions.claims.report(claim, 0.5, "rendering")
        await until(lambda: published.progress[-1:] == [0.5])
    frames = [json.loads(m[18:]) for m in published.messages if parse_prefix(m)[0] == PROGRESS]
    assert f"previews/{session.id}-1-1.jpg?" in frames[-1]["preview"]
    assert [frame["progress"] for frame in frames] == sorted(frame["progress"] for frame in frames)


async def test_preview_of_lost_claim_leaves_nothing(services: Services) -> None:
    """Another worker has the session, or it is erased: the picture is deleted again."""
    session = await submit(services)
    lost = await begin(services, session, "lost")
    assert await services.sessions.claims.requeue(lost, burnt=True, reason="lease_lost")
    await begin(services, session, "held")
    assert not await show(services, lost, FIRST)
    assert not any("previews" in key for key in files(services))
    assert (await row(services, session)).preview is None


async def test_preview_stays_until_its_session_is_erased(services: Services) -> None:
    """A completed session keeps the last one; its receipt lists it."""
    session = await submit(services)
    claim = await begin(services, session)
    await show(services, claim, FIRST)
    assert await services.sessions.claims.complete(claim, [NewFile(b"result")])
    receipt = await services.sessions.erasure.delete(session.id, session.owner)
    assert [file.role for file in receipt.files] == ["person", "result", "preview"]
    assert files(services) == []


async def test_replaced_preview_goes_with_its_session(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage could not delete it when it was replaced."""
    session = await submit(services)
    claim = await begin(services, session)
    await show(services, claim, FIRST)

    async def failing(keys: Iterable[str]) -> list[str]:
        raise Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(services.files, "delete", failing)
        assert await show(services, claim, SECOND)
    assert await services.sessions.claims.complete(claim, [NewFile(b"result")])
    assert sum("previews" in key for key in files(services)) == 2
    await services.sessions.erasure.remove(await row(services, session), GoneReason.EXPIRED)
    assert files(services) == []


async def test_preview_beside_erasure_leaves_nothing(services: Services) -> None:
    """Erase a session while its worker stores a preview, ten times."""
    for _ in range(10):
        session = await submit(services)
        claim = await begin(services, session)
        found = await row(services, session)
        await asyncio.gather(
            show(services, claim, FIRST),
            services.sessions.erasure.remove(found, GoneReason.DELETED),
            return_exceptions=True,
        )
        await show(services, claim, SECOND)
        assert files(services) == []


async def test_cancelled_preview_leaves_nothing(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session is erased, and its run cancelled, while a preview is being named."""
    session = await submit(services)
    claim = await begin(services, session)
    naming = asyncio.Event()

    async def stalled(*args: object, **options: object) -> None:
        naming.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(services.database.attempts, "replace_preview", stalled)
    showing = asyncio.create_task(services.sessions.claims.preview(claim, FIRST))
    await naming.wait()
    # the erasure listed the results before this one was stored
    monkeypatch.setattr(services.files, "outputs_of", _no_outputs)
    await services.sessions.erasure.delete(session.id, session.owner)
    assert [key.partition("/")[0] for key in files(services)] == ["previews"]
    showing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await showing
    assert files(services) == []


async def _no_outputs(session_ids: Iterable[str]) -> list[str]:
    """Return the listing of a storage without results."""
    return []
