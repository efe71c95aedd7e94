"""`GET /api/tryon/processor`: what the processor says of itself."""

from __future__ import annotations

from sqlalchemy import text

from testkit.running import StartWeb, Web
from tests.server.sessions.conftest import submit
from tryon.processor import Info, Role
from tryon.processor.description import describe
from tryon.protocol.paths import HEALTH, PROCESSOR


async def test_processor_answers_with_the_limits_of_this_server(start_web: StartWeb) -> None:
    """Where the processor sets no limit, or a larger one, the server's holds."""
    web = await start_web(processor="acme", image_max_bytes=5_000_000, image_max_pixels=10_000_000)
    roles = (
        Role(name="person", required=True, formats=("image/png",), max_bytes=2**30, max_pixels=4_000_000, hint="You"),
        Role(name="garment", count=3),
    )
    await web.services.sessions.processors.publish("worker", describe(Info(name="fit", roles=roles)))
    answer = await web.client.get(PROCESSOR)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    processor = answer.json()
    assert (processor["name"], processor["available"], processor["params_schema"]) == ("acme", True, {"type": "object"})
    assert processor["roles"][0] == {
        "name": "person",
        "required": True,
        "count": 1,
        "formats": ["image/png"],
        "max_bytes": 5_000_000,
        "max_pixels": 4_000_000,
        "hint": "You",
    }
    assert processor["roles"][1]["count"] == 3
    assert processor["roles"][1]["formats"][:3] == ["image/jpeg", "image/png", "image/webp"]


async def test_processor_is_unavailable_when_no_worker_has_published(start_web: StartWeb) -> None:
    """A 503 that says when to come back; health is down: no upload is accepted."""
    web = await start_web(processor="acme")
    answer = await web.client.get(PROCESSOR)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    health = await web.client.get(HEALTH)
    assert (health.status_code, health.json()["checks"]["processor"]["status"]) == (503, "down")


async def test_health_shows_sessions_of_a_processor_that_was_removed(web: Web) -> None:
    """They wait until their deadline, and the operator can read for what."""
    directory = web.services.sessions.processors
    await submit(web.services)
    async with web.services.database.connections.write() as connection:
        await connection.execute(text("UPDATE tryon_sessions SET processor = 'cog'"))
    await directory.publish("ours", describe(Info(name="mock")))
    check = (await web.client.get(HEALTH)).json()["checks"]["processor"]
    detail = "No worker has the processor cog; sessions that wait for it, until their deadline: 1."
    assert check == {"status": "degraded", "detail": detail}


async def test_health_shows_workers_with_another_processor(web: Web) -> None:
    """Web and worker that disagree are shown to the operator, never silent."""
    directory = web.services.sessions.processors
    await directory.publish("ours", describe(Info(name="mock")))
    assert (await web.client.get(HEALTH)).json()["checks"]["processor"] == {"status": "ok"}
    said = (await web.services.database.processors.all())[0].description
    await web.services.database.processors.publish("theirs", setting="overlay", description=said, seconds=60)
    web.services.sessions.processors._read_at = float("-inf")
    check = (await web.client.get(HEALTH)).json()["checks"]["processor"]
    assert check["status"] == "degraded" and "overlay" in check["detail"]
