"""The client's calls, against the product."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import pytest

from server.config.parsing import UploadRate
from server.config.settings import Config
from testkit.photos import small
from testkit.running import Web, running_web
from tryon.client.api import AsyncTryOn
from tryon.client.network import Answer, NoAnswer
from tryon.client.problems import NotCompleted, Problem
from tryon.client.requests import SessionOrId
from tryon.client.state import Update
from tryon.protocol.backoff import TRANSPORTS
from tryon.protocol.codes import ErrorCode

MakeConfig = Callable[..., Config]


@pytest.fixture
async def web(config: MakeConfig) -> AsyncIterator[Web]:
    async with running_web(config()) as running:
        yield running


@pytest.fixture
async def tryon(web: Web) -> AsyncIterator[AsyncTryOn]:
    async with AsyncTryOn(f"http://127.0.0.1:{web.port}", trust_env=False) as client:
        yield client


async def test_upload_takes_paths_bytes_and_files(tryon: AsyncTryOn, tmp_path: Path) -> None:
    """Take a photo in whichever form the caller has it, with a garment and params."""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(small())
    for image in (photo, str(photo), small(), io.BytesIO(small())):
        session = await tryon.upload(image, garment=photo, params={"style": "ü"})
        assert (session.status, session.seq) == ("created", 1)
        assert session.links.garment


async def test_upload_names_photos_by_role(tryon: AsyncTryOn, tmp_path: Path) -> None:
    """One photo, or several in their order; a role that is unknown is named."""
    (tmp_path / "person.webp").write_bytes(small())
    person = tmp_path / "person.webp"
    for inputs in ({"person": person, "garment": [small()]}, {"person": [str(person)], "garment": io.BytesIO(small())}):
        session = await tryon.upload(inputs=inputs)  # type: ignore[arg-type]
        assert [(each.role, each.index) for each in session.inputs] == [("person", 0), ("garment", 0)]
    assert len((await tryon.upload(small(), inputs={"garment": small()})).inputs) == 2, "image stands for the first"
    with pytest.raises(Problem) as refused:
        await tryon.upload(small(), inputs={"hat": small()})
    assert (refused.value.code, refused.value.part) == ("unknown_input", "hat")
    with pytest.raises(Problem) as refused:
        await tryon.upload(inputs={"person": small(), "garment": [small(), small()]})
    assert (refused.value.code, refused.value.part) == ("unknown_input", "garment")


async def test_processor_tells_roles_and_limits(tryon: AsyncTryOn) -> None:
    """It needs no token: the page asks before the first photo."""
    processor = await tryon.processor()
    assert (processor.name, processor.available) == ("mock", False)
    assert [(role.name, role.required, role.count) for role in processor.roles] == [
        ("person", True, 1),
        ("garment", False, 1),
    ]
    assert all(role.max_bytes and role.max_pixels for role in processor.roles)


async def test_next_garment_needs_no_second_photo(tryon: AsyncTryOn) -> None:
    """The photo of an earlier session is copied; an unknown session is refused."""
    first = await tryon.upload(small(), garment=small())
    second = await tryon.upload(garment=small(), original=first)
    assert (second.copy_of, [each.role for each in second.inputs]) == (first.session_id, ["person", "garment"])
    assert (await tryon.upload(original=second.session_id)).copy_of == second.session_id
    await tryon.delete(first)
    with pytest.raises(Problem, match="not_found"):
        await tryon.upload(original=second)


async def test_missing_photo_fails_before_the_upload(tryon: AsyncTryOn) -> None:
    """Raise the error of the file, not of the server."""
    with pytest.raises(FileNotFoundError):
        await tryon.upload("nowhere.jpg")


async def test_upload_key_makes_one_session(tryon: AsyncTryOn) -> None:
    """Return the same session for the same key, another one without a key."""
    one = await tryon.upload(small(), idempotency_key="once")
    assert (await tryon.upload(small(), idempotency_key="once")).session_id == one.session_id
    assert (await tryon.upload(small())).session_id != one.session_id
    with pytest.raises(Problem) as problem:
        await tryon.upload(small(), params={"another": 1}, idempotency_key="once")
    assert (problem.value.status, problem.value.code) == (422, "idempotency_mismatch")


async def test_upload_is_repeated_when_its_answer_is_lost(tryon: AsyncTryOn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the same key again, so that a lost answer makes no second session."""
    request, lost = tryon._network.request, [True, True]

    async def losing(*args: object, **kwargs: object) -> Answer:
        answer = await request(*args, **kwargs)  # type: ignore[arg-type]  # passed through
        if lost:
            lost.pop()
            raise NoAnswer("lost")
        return answer

    monkeypatch.setattr("tryon.client.calls.FIRST_SECONDS", 0.01)
    monkeypatch.setattr(tryon._network, "request", losing)
    session = await tryon.upload(small())
    assert not lost
    assert [each.session_id for each in (await tryon.list()).sessions] == [session.session_id]


async def test_refused_upload_names_code_and_status(tryon: AsyncTryOn) -> None:
    """Raise the server's refusal with everything that it says, and repeat nothing."""
    with pytest.raises(Problem) as raised:
        await tryon.upload(b"no picture")
    problem = raised.value
    assert (problem.status, problem.code, problem.retryable) == (415, "unsupported_image", False)
    assert problem.detail
    assert problem.title
    assert problem.request_id
    assert not (await tryon.list()).sessions


@pytest.mark.usefixtures("patient_limits")
async def test_rate_limited_upload_names_the_pause(config: MakeConfig) -> None:
    """Raise at once where the server names a longer pause than a call waits for."""
    async with (
        running_web(config(upload_rate=UploadRate(1, 60))) as web,
        AsyncTryOn(f"http://127.0.0.1:{web.port}", trust_env=False) as tryon,
    ):
        await tryon.upload(small())
        with pytest.raises(Problem) as raised:
            await tryon.upload(small())
    assert (raised.value.code, raised.value.status, raised.value.retryable) == ("rate_limited", 429, True)
    assert raised.value.limit == "upload_rate"
    assert 5 < (raised.value.retry_after or 0) <= 60


async def test_missing_server_is_a_network_problem() -> None:
    """Raise a problem that may pass, without a status."""
    async with AsyncTryOn("http://127.0.0.1:9", attempts=1, trust_env=False) as tryon:
        with pytest.raises(Problem) as raised:
            await tryon.list()
    assert (raised.value.code, raised.value.status, raised.value.retryable) == ("network", 0, True)


async def test_sessions_are_their_owners_alone(web: Web, tryon: AsyncTryOn) -> None:
    """Read a session with its owner's token, and with no other."""
    session = await tryon.upload(small())
    async with AsyncTryOn(f"http://127.0.0.1:{web.port}", token=tryon.token, trust_env=False) as again:
        assert (await again.get(session)).session_id == session.session_id
    async with AsyncTryOn(f"http://127.0.0.1:{web.port}", trust_env=False) as stranger:
        assert stranger.token != tryon.token
        with pytest.raises(Problem, match="not_found"):
            await stranger.get(session.session_id)
        assert not (await stranger.list()).sessions


async def test_list_is_read_page_by_page(tryon: AsyncTryOn) -> None:
    """Return the newest first, and a cursor for the rest."""
    made = [(await tryon.upload(small())).session_id for _ in range(3)]
    page = await tryon.list(limit=2)
    rest = await tryon.list(limit=2, cursor=page.next_cursor)
    assert [each.session_id for each in (*page.sessions, *rest.sessions)] == made[::-1]
    assert rest.next_cursor is None


async def test_cancelled_session_is_retried(tryon: AsyncTryOn) -> None:
    """Cancel a waiting session, and make a new one of its photo."""
    session = await tryon.upload(small())
    assert (await tryon.cancel(session)).status == "cancelled"
    assert [event.event for event in (await tryon.history(session)).events] == ["created", "cancelled"]
    with pytest.raises(NotCompleted) as ended:
        await tryon.result(session)
    assert (ended.value.code, ended.value.retryable) == ("cancelled", True)
    assert ended.value.session.session_id == session.session_id
    again = await tryon.retry(session)
    assert again.retry_of == session.session_id
    with pytest.raises(Problem, match="not_finished"):
        await tryon.retry(again)


async def test_wait_disconnects_when_it_returns(web: Web, tryon: AsyncTryOn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Close the follower before the session is returned."""
    session = await tryon.upload(small())
    await tryon.cancel(session)
    closed: list[bool] = []
    follow = tryon.follow

    async def followed(session: SessionOrId) -> AsyncGenerator[Update, None]:
        try:
            async for update in follow(session):
                yield update
        finally:
            closed.append(True)

    monkeypatch.setattr(tryon, "follow", followed)
    assert (await tryon.wait(session)).status == "cancelled"
    assert closed


async def test_deleted_session_leaves_a_receipt(tryon: AsyncTryOn) -> None:
    """Erase a session and return the signed receipt; afterwards nothing is there."""
    session = await tryon.upload(small())
    assert len(await tryon.download(session.links.input)) > 100
    receipt = await tryon.delete(session)
    assert (receipt.session_id, receipt.reason) == (session.session_id, "deleted")
    assert [file.role for file in receipt.files] == ["person"]
    assert receipt.signature
    for gone in (tryon.get(session), tryon.delete(session), tryon.download(session.links.input)):
        with pytest.raises(Problem) as raised:
            await gone
        assert raised.value.status == 404


async def test_ticket_opens_one_session_to_read(web: Web, tryon: AsyncTryOn) -> None:
    """Follow a session by its ticket, without its owner's token."""
    session = await tryon.upload(small())
    ticket = session.links.ws.partition("ticket=")[2]
    await tryon.cancel(session)
    async with AsyncTryOn(f"http://127.0.0.1:{web.port}", trust_env=False) as guest:
        for transport in TRANSPORTS:
            updates = guest.follow(session.session_id, since=1, ticket=ticket, transports=(transport,))
            assert [(update.seq, update.status) async for update in updates] == [(2, "cancelled")]


async def test_links_become_whole_urls(web: Web, tryon: AsyncTryOn) -> None:
    """Turn a link into a URL that any other program may open."""
    session = await tryon.upload(small())
    url = tryon.url(session.links.input)
    assert url.startswith(f"http://127.0.0.1:{web.port}/api/tryon/files/")
    assert (await web.client.get(url)).content == await tryon.download(url)
    assert tryon.url(url) == url


@pytest.mark.parametrize("link", ["https://elsewhere.example/a", "@elsewhere.example/a", ".elsewhere.example/a", ""])
async def test_link_to_another_server_is_refused(link: str) -> None:
    """A server cannot make its client ask another host."""
    async with AsyncTryOn("http://tryon.example") as tryon:
        with pytest.raises(Problem) as refused:
            await tryon.download(link)
    assert (refused.value.code, refused.value.detail) == ("unknown", "The link does not lead to http://tryon.example.")


@pytest.mark.parametrize("code", [*ErrorCode, "closed_4999"])
def test_problem_always_has_words(code: str) -> None:
    """Also one that no answer came with, such as a session erased while followed."""
    assert Problem(code).detail.endswith(".")


def test_token_stays_out_of_the_repr() -> None:
    """Keep the secret out of logs."""
    tryon = AsyncTryOn(token="a-token-that-stays-a-secret")
    assert "a-token" not in repr(tryon) + repr(tryon._calls)
