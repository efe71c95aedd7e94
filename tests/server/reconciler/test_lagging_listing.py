"""The cleanup on a storage whose listing lags behind what was stored and deleted."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from server.adapters.files.port import Entry, Files, MissingFile, Page
from server.config.storage_url import parse_storage_url
from server.reconciler import timing
from server.reconciler.cleanup import Cleanup
from server.services import Services, open_services
from testkit.object_store import S3Server
from testkit.plugin import note
from testkit.values import new_session_id
from tests.server.reconciler.conftest import MakeConfig, submitted


class LaggingFiles:
    """A storage whose listing is what it was at the last :meth:`catch_up`.

    Everything else is as consistent as the storage behind it.
    """

    def __init__(self, files: Files, older_seconds: float) -> None:
        self._files = files
        self._older_seconds = older_seconds
        self._listed: list[Entry] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    async def catch_up(self) -> None:
        """Take the storage as it is now for the listing; its objects look older."""
        page = await self._files.list_page()
        self._listed = [Entry(each.key, each.age_seconds + self._older_seconds) for each in page.entries]

    async def list_page(self, *, after: str | None = None, limit: int = 10_000) -> Page:
        return Page([each for each in self._listed if after is None or each.key > after], None)


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.xdist_group("s3"))])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the settings of a storage: the folder of the data, or a bucket."""
    if request.param == "folder":
        return {}
    note(request, "S3")
    s3: S3Server = request.getfixturevalue("s3")
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    return {"storage_url": parse_storage_url(s3.storage_url(f"test-{secrets.token_hex(6)}"))}


def cleanup_on(services: Services, files: LaggingFiles) -> Cleanup:
    """Return the cleanup of these services on another storage."""
    return Cleanup(
        reader=services.database.reader,
        upkeep=services.database.upkeep,
        quotas=services.database.quotas,
        operator_actions=services.database.operator_actions,
        files=files,
        bus=services.bus,
        queue=services.queue,
        erasure=services.sessions.erasure,
        erased_bytes=services.sessions.erased_bytes,
    )


async def test_orphan_is_found_once_it_is_listed(config: MakeConfig, storage: dict[str, Any]) -> None:
    """An orphan that no listing shows stays, and goes with the first that does."""
    async with open_services(config(**storage)) as services:
        files = LaggingFiles(services.files, timing.ORPHAN_SECONDS + 60)
        orphan = f"inputs/{new_session_id()}-person-0.jpg"
        await services.files.put(orphan, b"of a web process that was killed")
        await cleanup_on(services, files).clean_up()
        assert await services.files.get(orphan)
        await files.catch_up()
        await cleanup_on(services, files).clean_up()
        with pytest.raises(MissingFile):
            await services.files.get(orphan)


async def test_stale_listing_deletes_nothing_that_lives(config: MakeConfig, storage: dict[str, Any]) -> None:
    """A photo that was just written, and a session's own files, survive it.

    Nor is an object that was deleted meanwhile an error.
    """
    async with open_services(config(**storage)) as services:
        session = await submitted(services)
        fresh, gone = f"inputs/{new_session_id()}-person-0.jpg", f"inputs/{new_session_id()}-person-0.jpg"
        await services.files.put(gone, b"deleted after it was listed")
        files = LaggingFiles(services.files, timing.ORPHAN_SECONDS + 60)
        await files.catch_up()
        await services.files.delete([gone])
        await services.files.put(fresh, b"an upload in flight, not listed yet")
        await cleanup_on(services, files).clean_up()
        for key in (fresh, *session.file_keys):
            assert await services.files.get(key)
