"""Sharing the result of a session with others."""

from __future__ import annotations

from testkit.running import Web
from testkit.uploads import assert_problem
from tests.server.web.api.calls import do


async def test_share_opens_result_until_session_is_erased(web: Web) -> None:
    """The link needs no credential, holds no input, and dies with the session."""
    session, token = await web.submit()
    await web.complete(await web.begin(session))
    answer = await do(web, "share", session.id, token)
    assert (answer.status_code, set(answer.json())) == (201, {"link", "expires_at"})
    assert answer.headers["Cache-Control"] == "no-store"
    link = answer.json()["link"]
    assert "/outputs/" in link and "/inputs/" not in link
    shown = await web.client.get(link)
    assert (shown.status_code, shown.content) == (200, b"\xff\xd8\xff\xe0 result")
    photo = (await do(web, "get", session.id, token)).json()["links"]["input"]
    assert (await web.client.get(photo)).status_code == 200
    forged = f"{photo.partition('?')[0]}?{link.partition('?')[2]}"  # the signature is of one file
    assert (await web.client.get(forged)).status_code == 404
    assert (await do(web, "delete", session.id, token)).status_code == 200
    assert (await web.client.get(link)).status_code == 404
    assert (await do(web, "share", session.id, token)).status_code == 404


async def test_share_is_refused_while_session_runs(web: Web) -> None:
    """A session without a result is a conflict, for its owner alone."""
    session, token = await web.submit()
    assert_problem(await do(web, "share", session.id, token), 409, "not_completed")
    ticket = web.services.signer.ticket(session.id, expires=int(web.database.clock.now()) + 60)
    answer = await web.client.post(f"/api/tryon/sessions/{session.id}/share?ticket={ticket}")
    assert_problem(answer, 404, "not_found")
