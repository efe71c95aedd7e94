"""One table of stories that the Python and the JavaScript client both live through.

Each story runs against a real server, behind a proxy that breaks connections; the test
plays the worker. The server is the one of the test's process
(``tests/clients/test_conformance.py``), or the production form
(``tests/production/test_contract.py``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest

from server.domain.tokens import new_token
from testkit.photos import small
from testkit.proxy import Proxy, upgrades
from testkit.running import Web, until
from tests.clients.drivers import Driver, Followed, Refused
from tryon.protocol.backoff import TRANSPORTS

PUSHED: Final = ("ws", "sse")
HELD: Final = ("ws", "sse", "long-poll")


@dataclass
class Scene:
    """A client behind a proxy, and the server that the test may replace."""

    web: Web
    proxy: Proxy
    client: Driver
    make_client: Callable[[str | None], Driver]
    replace_web: Callable[[], Awaitable[None]]
    followed: Callable[[str], Awaitable[None]]
    """Waits until the server has a follower of this session."""

    async def upload(self, **options: Any) -> str:
        session = await self.client.call("upload", **{"image": small()} | options)
        return str(session["session_id"])

    async def begin(self, id: str) -> Any:
        claim = await self.web.services.sessions.claims.begin(id, worker="test")
        assert claim is not None
        return claim

    async def complete(self, id: str) -> None:
        await self.web.complete(await self.begin(id))

    async def cut(self) -> None:
        """Cut every connection, once there is one."""
        await until(lambda: self.proxy.cut() > 0)


Play = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Story:
    """A script for client and server, its transport, and the server's settings."""

    play: Play
    given: tuple[str, ...]
    settings: dict[str, Any]
    slow: bool = False


STORIES: Final[dict[str, Story]] = {}
"""Every story by its name."""


def story(*transports: str, slow: bool = False, **settings: Any) -> Callable[[Play], Play]:
    """Add a story to the table, for each of the transports or once without any."""

    def add(play: Play) -> Play:
        for transport in transports or ("",):
            given = (transport,) if transport else ()
            STORIES["-".join((play.__name__, *given))] = Story(play, given, settings, slow)
        return play

    return add


def never_back(followed: Followed) -> bool:
    """Return whether no session was older than the one before it."""
    seqs = [session["seq"] for session in followed.sessions]
    return seqs == sorted(seqs)


# -- following -------------------------------------------------------------------------


@story(*TRANSPORTS)
async def each_transition_comes_once(scene: Scene, transport: str) -> None:
    """Show created, processing and completed, in order, over one transport alone."""
    id = await scene.upload()
    followed = scene.client.follow(id, transports=[transport])
    await followed.connected()
    claim = await scene.begin(id)
    await followed.reaches(2)
    await scene.web.complete(claim)
    ended = await followed.ended()
    assert (followed.seqs, ended["status"], never_back(followed)) == ([1, 2, 3], "completed", True)
    assert set(followed.transports) == {transport}
    assert ended["links"]["output"]


@story(*TRANSPORTS)
async def late_client_learns_what_it_missed(scene: Scene, transport: str) -> None:
    """Show the transitions after ``since``, and none before."""
    id = await scene.upload()
    await scene.complete(id)
    followed = scene.client.follow(id, transports=[transport], since=1)
    assert (await followed.ended())["status"] == "completed"
    assert followed.seqs == [2, 3]


@story(*HELD)
async def cut_connections_leave_no_gap(scene: Scene, transport: str) -> None:
    """Show after each cut the transitions of the time without a connection."""
    id = await scene.upload()
    followed = scene.client.follow(id, transports=[transport])
    await followed.reaches(1)
    await scene.cut()
    claim = await scene.begin(id)
    await followed.reaches(2)
    await scene.cut()
    await scene.web.complete(claim)
    await followed.ended()
    assert (followed.seqs, never_back(followed)) == ([1, 2, 3], True)


@story()
async def refused_upgrades_lead_to_the_next_transport(scene: Scene) -> None:
    """Use Server-Sent Events at once on a network without WebSockets."""
    scene.proxy.forbid(upgrades)
    id = await scene.upload()
    followed = scene.client.follow(id)
    await followed.connected()
    await scene.complete(id)
    assert (await followed.ended())["status"] == "completed"
    assert followed.seqs == [1, 2, 3]
    assert set(followed.transports) == {"sse"}


@story(*TRANSPORTS)
async def restarted_server_is_found_again(scene: Scene, transport: str) -> None:
    """Go on with the server that takes the place of one that has stopped."""
    id = await scene.upload()
    followed = scene.client.follow(id, transports=[transport])
    await followed.reaches(1)
    await scene.proxy.refuse()
    await scene.replace_web()
    claim = await scene.begin(id)
    await scene.proxy.start()
    await followed.reaches(2)
    await scene.web.complete(claim)
    assert (await followed.ended())["status"] == "completed"
    assert (followed.seqs, never_back(followed)) == ([1, 2, 3], True)


@story("ws", "sse", slow=True, ping_seconds=1.0)
async def silent_connection_is_replaced(scene: Scene, transport: str) -> None:
    """Give a connection up that misses its pings, though it looks open."""
    id = await scene.upload()
    followed = scene.client.follow(id, transports=[transport])
    await followed.reaches(1)
    assert scene.proxy.black_hole(new=False)
    await scene.complete(id)
    assert (await followed.ended())["status"] == "completed"
    assert followed.seqs == [1, 2, 3]


@story()
async def slow_network_delays_and_changes_nothing(scene: Scene) -> None:
    """Bear that every piece is a tenth of a second late, both ways."""
    scene.proxy.delay_seconds = 0.1
    id = await scene.upload()
    followed = scene.client.follow(id)
    await followed.reaches(1)
    await scene.complete(id)
    assert (await followed.ended())["status"] == "completed"
    assert (followed.seqs, set(followed.transports)) == ([1, 2, 3], {"ws"})


@story(*PUSHED, "poll")
async def requeued_session_waits_again(scene: Scene, transport: str) -> None:
    """Show that a worker hands it back and the next one completes it."""
    id = await scene.upload()
    followed = scene.client.follow(id, transports=[transport])
    claim = await scene.begin(id)
    await followed.reaches(2)
    assert await scene.web.services.sessions.claims.requeue(claim, burnt=False, reason="drain")
    await followed.reaches(3)
    assert followed.sessions[-1]["status"] == "created"
    await scene.complete(id)
    assert (await followed.ended())["attempt"] == 2
    assert (followed.seqs, never_back(followed)) == ([1, 2, 3, 4, 5], True)


@story()
async def reported_progress_is_shown(scene: Scene) -> None:
    """Show share, stage and time to the end with the session."""
    id = await scene.upload()
    followed = scene.client.follow(id)
    claim = await scene.begin(id)
    await followed.reaches(2)
    await scene.web.services.sessions.claims.report(claim, 0.5, "toning", 2.0)
    await until(lambda: followed.sessions[-1]["stage"] == "toning")
    shown = followed.sessions[-1]
    assert (shown["status"], shown["progress"], shown["eta_seconds"]) == ("processing", 0.5, 2.0)
    await scene.web.complete(claim)
    assert (await followed.ended())["progress"] == 1.0


# -- ends ------------------------------------------------------------------------------


@story(*TRANSPORTS)
async def cancelled_session_ends(scene: Scene, transport: str) -> None:
    """Show the end both in the answer and to the follower."""
    id = await scene.upload()
    followed = scene.client.follow(id, transports=[transport])
    await followed.reaches(1)
    assert (await scene.client.call("cancel", session=id))["status"] == "cancelled"
    assert (await followed.ended())["status"] == "cancelled"
    assert followed.seqs == [1, 2]


@story(*TRANSPORTS)
async def deleted_session_is_gone(scene: Scene, transport: str) -> None:
    """End with a code when another client of the owner deletes it."""
    id = await scene.upload()
    followed = scene.client.follow(id, transports=[transport])
    await followed.reaches(1)
    if transport in PUSHED:
        await scene.followed(id)
    receipt = await scene.make_client(scene.client.token).call("remove", session=id)
    assert (receipt["session_id"], receipt["reason"]) == (id, "deleted")
    assert await followed.gone() == ("deleted" if transport in PUSHED else "erased")


@story("ws", "poll", retention_seconds=3.0)
async def expired_session_is_gone(scene: Scene, transport: str) -> None:
    """End with a code when the session expires while it is followed."""
    followed = scene.client.follow(await scene.upload(), transports=[transport])
    await followed.reaches(1)
    assert await followed.gone() == ("expired" if transport in PUSHED else "erased")


@story(*TRANSPORTS)
async def foreign_session_is_not_found(scene: Scene, transport: str) -> None:
    """Refuse a session that is there, and is another owner's."""
    id = await scene.upload()
    assert await scene.make_client(new_token()).follow(id, transports=[transport]).gone() == "not_found"


@story()
async def failed_session_says_why(scene: Scene) -> None:
    """Name the code and whether a retry may help; make a new session of it."""
    id = await scene.upload()
    followed = scene.client.follow(id)
    assert await scene.web.services.sessions.claims.fail(await scene.begin(id), "backend_busy")
    ended = await followed.ended()
    assert (ended["status"], ended["error"]["code"], ended["error"]["retryable"]) == ("failed", "backend_busy", True)
    again = await scene.client.call("retry", session=id)
    assert (again["status"], again["retry_of"]) == ("created", id)


# -- a run -----------------------------------------------------------------------------


@story()
async def run_goes_from_photo_to_picture(scene: Scene) -> None:
    """End with the ended session, over a cut connection too."""
    run = scene.client.run(inputs={"person": small(), "garment": [small()]}, params={"size": "M"})
    await run.reaches(1)
    id = run.sessions[0]["session_id"]
    await scene.cut()
    await scene.complete(id)
    ended = await run.ended()
    assert (ended["session_id"], ended["status"], ended["params"]) == (id, "completed", {"size": "M"})
    assert (never_back(run), run.sessions[-1]["status"]) == (True, "completed")
    assert [each["role"] for each in ended["inputs"]] == ["person", "garment"]
    assert len((await scene.client.call("list"))["sessions"]) == 1


@story()
async def run_is_refused_as_an_upload(scene: Scene) -> None:
    """Name code, status and part; leave nothing behind."""
    for call in (scene.client.run(image=b"no picture").ended(), scene.client.call("upload", image=b"no picture")):
        with pytest.raises(Refused) as refused:
            await call
        problem = refused.value
        assert (problem.code, problem.status, problem.part) == ("unsupported_image", 415, "image")
        assert not problem.retryable
    assert not (await scene.client.call("list"))["sessions"]


@story()
async def deleted_run_is_rejected(scene: Scene) -> None:
    """Reject a run whose session is deleted meanwhile."""
    await (run := scene.client.run(image=small())).reaches(1)
    id = run.sessions[0]["session_id"]
    await scene.followed(id)  # a run shows its upload before it follows
    await scene.client.call("remove", session=id)
    assert await run.gone() == "deleted"


# -- calls -----------------------------------------------------------------------------


@story()
async def same_key_makes_one_session(scene: Scene) -> None:
    """Refuse the same key for another upload."""
    first = await scene.upload(idempotencyKey="once")
    assert await scene.upload(idempotencyKey="once") == first
    with pytest.raises(Refused) as refused:
        await scene.upload(idempotencyKey="once", params={"another": 1})
    assert (refused.value.code, refused.value.status) == ("idempotency_mismatch", 422)


@story()
async def next_garment_needs_no_second_photo(scene: Scene) -> None:
    """Take the photos of an earlier session for an upload."""
    first = await scene.upload()
    again = await scene.client.call("upload", **{"image": None, "garment": small(), "from": first})
    assert (again["copy_of"], [each["role"] for each in again["inputs"]]) == (first, ["person", "garment"])


@story()
async def history_has_every_transition(scene: Scene) -> None:
    """Show by the same names a session as it is, and how it came to that."""
    id = await scene.upload()
    await scene.complete(id)
    assert (await scene.client.call("read", session=id))["status"] == "completed"
    events = (await scene.client.call("history", session=id))["events"]
    assert [(event["seq"], event["event"], event["from"]) for event in events] == [
        (1, "created", None),
        (2, "processing", "created"),
        (3, "completed", "processing"),
    ]


@story()
async def sessions_are_listed_page_by_page(scene: Scene) -> None:
    """List the newest first, with a cursor for the rest."""
    made = [await scene.upload() for _ in range(3)]
    page = await scene.client.call("list", limit=2)
    rest = await scene.client.call("list", limit=2, cursor=page["next_cursor"])
    assert [each["session_id"] for each in page["sessions"] + rest["sessions"]] == made[::-1]
    assert rest["next_cursor"] is None


@story()
async def shared_link_opens_the_result_alone(scene: Scene) -> None:
    """Open it without a credential, and not before there is a result."""
    id = await scene.upload()
    with pytest.raises(Refused) as refused:
        await scene.client.call("share", session=id)
    assert (refused.value.code, refused.value.status) == ("not_completed", 409)
    await scene.complete(id)
    shared = await scene.client.call("share", session=id)
    assert shared["expires_at"].endswith("Z")
    opened = await scene.web.client.get(httpx.URL(shared["link"]).raw_path.decode())
    assert (opened.status_code, opened.content[:2]) == (200, b"\xff\xd8")


@story()
async def limits_and_processor_need_no_token(scene: Scene) -> None:
    """Read the limits by which clients check photos."""
    limits = await scene.client.call("limits")
    assert limits["max_image_bytes"] == scene.web.config.image_max_bytes
    assert {"image/jpeg", "image/png", "image/webp"} <= set(limits["formats"])
    processor = await scene.client.call("processor")
    assert [role["name"] for role in processor["roles"]] == ["person", "garment"]


@story()
async def server_that_is_gone_is_a_network_problem(scene: Scene) -> None:
    """Raise a problem that may pass, without a status."""
    await scene.proxy.refuse()
    scene.proxy.cut()
    with pytest.raises(Refused) as refused:
        await scene.client.call("list")
    assert (refused.value.code, refused.value.status, refused.value.retryable) == ("network", 0, True)
