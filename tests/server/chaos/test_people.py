"""A person notices what is wrong, and strangers find every door closed."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable

import pytest

from server.chaos.checker import check
from server.chaos.http import Network
from server.chaos.people import DOORS, Person, World
from server.chaos.plans import photos, plans
from server.chaos.records import Recorder, Refused, Result, Stranger
from server.chaos.verdict import Kind
from server.config.parsing import UploadRate
from server.config.settings import Config
from server.config.storage_url import parse_storage_url
from server.domain.tokens import new_token
from server.system.clock import SystemClock
from testkit.object_store import S3Server
from testkit.running import Web, running_web, until

MakeConfig = Callable[..., Config]


@pytest.fixture
async def web(config: MakeConfig) -> AsyncIterator[Web]:
    async with running_web(config()) as running:
        yield running


async def test_person_notices_a_foreign_picture(web: Web) -> None:
    """Find a picture that was made of another photo."""
    record = Recorder()
    world = World(Network(f"http://127.0.0.1:{web.port}"), record, photos(1), patience=5, clock=SystemClock())
    one, other = itertools.islice(plans(1, everybody_looks_back=True), 2)
    mine, their = Person(world, one), Person(world, other)
    session = await mine._upload()
    theirs = await their._upload()
    assert session
    assert theirs
    for photo, found in ((mine._photo, set()), (their._photo, {Kind.FOREIGN})):
        (web.config.data_dir / "uploads" / "inputs" / f"{session['session_id']}-person-0.jpg").write_bytes(photo)
        record.records.clear()
        await mine._look_at_pictures(session["session_id"])
        assert any(isinstance(each, Result) and each.role == "input" for each in record.records)
        kinds = {finding.kind for finding in check(record.records).findings}
        assert kinds - {Kind.UNSERVED, Kind.LOST} == found


@pytest.mark.xdist_group("s3")
async def test_person_sees_a_result_in_the_bucket(
    config: MakeConfig, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Follow a presigned link to the picture, and notice a foreign one there too."""
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    prefix = f"test-{secrets.token_hex(6)}"
    async with running_web(config(storage_url=parse_storage_url(s3.storage_url(prefix)), presigned=True)) as web:
        record = Recorder()
        world = World(Network(f"http://127.0.0.1:{web.port}"), record, photos(2), patience=5, clock=SystemClock())
        person = Person(world, next(plans(1)))
        made = await person._upload()
        assert made
        claim = await web.services.sessions.claims.begin(made["session_id"], worker="test")
        assert claim
        await web.complete(claim)
        for shown, expected in ((person._photo, set()), (world.photos[1], {Kind.FOREIGN})):
            key = next(each for each in s3.keys(prefix) if each.startswith("outputs/"))
            await web.services.files.put(key, shown)
            record.records.clear()
            await person._look_at_pictures(made["session_id"])
            (result,) = [each for each in record.records if isinstance(each, Result) and each.role == "output"]
            assert result.status == 200
            kinds = {finding.kind for finding in check(record.records).findings}
            assert kinds - {Kind.UNSERVED, Kind.LOST} == expected


async def test_strangers_learn_nothing_by_any_door(web: Web) -> None:
    """Get the answer of an unknown session at every door."""
    session, _ = await web.submit()
    record = Recorder()
    world = World(Network(f"http://127.0.0.1:{web.port}"), record, photos(1), patience=5, clock=SystemClock())
    person = Person(world, next(plans(1)))
    for call in DOORS:
        knock = person._stranger_by_socket if call == "ws" else person._stranger_by_http
        answer, saw = await knock(session.id, call, new_token())
        assert (answer, saw) == (4504 if call == "ws" else 404, False), call


async def test_admitted_stranger_is_a_finding(web: Web) -> None:
    """Report what was seen where a door is open."""
    session, token = await web.submit()
    person = Person(
        World(Network(f"http://127.0.0.1:{web.port}"), Recorder(), photos(1), patience=5, clock=SystemClock()),
        next(plans(1)),
    )
    for call in ("get", "history", "events"):
        assert await person._stranger_by_http(session.id, call, token) == (200, True), call
    knocking = asyncio.create_task(person._stranger_by_socket(session.id, "ws", token))
    await until(lambda: web.hub.followers_of(session.id))
    await web.complete(await web.begin(session))
    assert await knocking == (1000, True)
    answer = Stranger(t=1, owner="x", session=session.id, call="ws", answer=1000, saw=True)
    assert Kind.FOREIGN in {finding.kind for finding in check([answer]).findings}


@pytest.mark.usefixtures("patient_limits")
async def test_person_waits_for_the_rate_limit(config: MakeConfig) -> None:
    """Upload all photos in the end, however often a 429 is answered."""
    async with running_web(config(upload_rate=UploadRate(1, 2))) as web:
        record = Recorder()
        world = World(Network(f"http://127.0.0.1:{web.port}"), record, photos(1), patience=30, clock=SystemClock())
        people = plans(1)
        sessions = await asyncio.gather(*(Person(world, next(people))._upload() for _ in range(3)))
    assert all(sessions)
    refused = [each for each in record.records if isinstance(each, Refused)]
    assert {each.status for each in refused} == {429}
    assert len(refused) >= 2
