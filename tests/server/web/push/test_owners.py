"""The checks of owners' lists: few statements, each owner in its turn."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import pytest

from server.services import Services
from server.web.push import owners as owners_module
from server.web.push.hub import Hub
from testkit.running import new_session
from tests.server.web.push.kit import Page
from tryon.protocol.errors import Unavailable


class Watcher:
    """A connection of an owner that notes which sessions are named to it."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.line = Page("")
        self.named: list[str] = []

    def announce(self, session_id: str) -> None:
        self.named.append(session_id)


@contextlib.contextmanager
def watchers(hub: Hub, count: int) -> Iterator[list[Watcher]]:
    """Yield one watcher for each of some owners."""
    found = [Watcher(f"{number:064x}") for number in range(count)]
    for each in found:
        hub.owners.add(each, transport="test")
    try:
        yield found
    finally:
        for each in found:
            hub.owners.remove(each, transport="test")


async def test_many_owners_are_checked_by_one_statement(
    hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is named its own living sessions, the newest up to the bound."""
    reader, asked = services.database.reader, list[int]()
    read = reader.unfinished_of_owners

    async def counts(owners: Collection[str], **options: Any) -> Any:
        asked.append(len(owners))
        return await read(owners, **options)

    monkeypatch.setattr(reader, "unfinished_of_owners", counts)
    monkeypatch.setattr(owners_module, "MAX_SESSIONS", 2)
    with watchers(hub, 30) as found:
        made: dict[str, list[str]] = {}
        for owner in [found[0].owner] * 3 + [found[-1].owner]:
            session = await services.database.writer.insert(new_session(owner=owner))
            made.setdefault(owner, []).append(session.id)
        await hub.owners.check_all()
        assert asked == [30]
        assert len(found[0].named) == 2
        assert set(found[0].named) <= set(made[found[0].owner])
        assert found[-1].named == made[found[-1].owner]
        assert not any(each.named for each in found[1:-1])


async def test_failed_check_starves_no_owner(hub: Hub, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database fails for the first ones each time; the last are named."""
    reader = services.database.reader
    read = reader.unfinished_of_owners

    async def fails(owners: Collection[str], **options: Any) -> Any:
        if f"{0:064x}" in owners:
            raise Unavailable
        return await read(owners, **options)

    monkeypatch.setattr(reader, "unfinished_of_owners", fails)
    monkeypatch.setattr(owners_module, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(owners_module, "CHECK_BATCH", 2)
    with watchers(hub, 3) as found:
        session = await services.database.writer.insert(new_session(owner=found[-1].owner))
        with pytest.raises(Unavailable):
            await hub.owners.next_check()
        assert session.id in found[-1].named
