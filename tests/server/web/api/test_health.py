"""Health, liveness, readiness and metrics."""

from __future__ import annotations

import pytest

from server.system import landlock
from testkit.fixtures import StartValkey
from testkit.running import StartWeb, Web, until
from testkit.uploads import unavailable_database
from tryon.protocol.paths import SESSIONS


async def test_health_is_ok_when_all_checks_pass(web: Web) -> None:
    """Database, storage, Redis, workers and queue are all checked."""
    await web.services.queue.note_worker("worker-1")
    await until(lambda: web.hub.delivers)
    answer = await web.client.get("/api/health")
    assert answer.status_code == 200
    health = answer.json()
    assert health["status"] == "ok", health
    assert set(health["checks"]) == {"database", "storage", "redis", "workers", "queue", "processor", "sandbox"}
    assert health["checks"]["workers"]["count"] == 1
    assert (await web.client.get("/api/health/ready")).json()["status"] == "ok"
    assert (await web.client.get("/api/health/live")).json() == {"status": "ok", "checks": {}}


async def test_health_names_missing_layers_of_sandbox(start_web: StartWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that can't isolate decoders says so, and stays in service."""
    monkeypatch.setattr(landlock, "version", lambda: 0)
    web = await start_web()
    answer = await web.client.get("/api/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    check = answer.json()["checks"]["sandbox"]
    assert check["status"] == "degraded"
    assert check["detail"].startswith("This machine lacks Landlock, Linux 5.13 (files)")


async def test_health_is_degraded_without_worker(web: Web) -> None:
    """Uploads are accepted, so the service is not down."""
    await until(lambda: web.hub.delivers)
    answer = await web.client.get("/api/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["checks"]["workers"]["status"] == "degraded"


async def test_readiness_survives_redis_outage(start_web: StartWeb, start_valkey: StartValkey) -> None:
    """Without Redis the service is degraded, and ready for requests."""
    valkey = start_valkey()
    web = await start_web(redis_url=valkey.url)
    await until(lambda: web.hub.delivers)
    valkey.kill()
    await until(lambda: not web.hub.delivers)
    health = await web.client.get("/api/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert health.json()["checks"]["redis"]["status"] == "degraded"
    assert health.json()["checks"]["database"]["status"] == "ok"
    ready = await web.client.get("/api/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    valkey.start()
    await until(lambda: web.hub.delivers)
    assert (await web.client.get("/api/health/ready")).json()["status"] == "ok"


async def test_health_is_down_without_database(start_web: StartWeb, postgres_url: str) -> None:
    """A process without a database is alive, but not ready."""
    web = await start_web(database_url=postgres_url)
    async with unavailable_database(postgres_url):
        for path in ("/api/health", "/api/health/ready"):
            answer = await web.client.get(path)
            assert (answer.status_code, answer.json()["status"]) == (503, "down"), path
            assert answer.json()["checks"]["database"]["status"] == "down"
        assert (await web.client.get("/api/health/live")).status_code == 200
    assert (await web.client.get("/api/health/ready")).status_code == 200


async def test_health_is_down_without_storage(web: Web) -> None:
    """A missing folder is found."""
    folder = web.config.uploads_dir / "outputs"
    folder.rmdir()
    answer = await web.client.get("/api/health")
    folder.mkdir()
    assert (answer.status_code, answer.json()["checks"]["storage"]["status"]) == (503, "down")


async def test_metrics_have_few_labels(web: Web) -> None:
    """Routes are labelled by their template: no id, no unknown path."""
    session, token = await web.submit()
    await web.client.get(f"{SESSIONS}/{session.id}", headers={"X-Client-Token": token})
    await web.client.get("/nothing/at/all")
    answer = await web.client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    names = {line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")}
    assert all(name.startswith(("tryon_", "python_", "process_")) for name in names)
    assert (
        'tryon_http_requests_total{method="GET",route="/api/tryon/sessions/{session_id}",status="200"}' in answer.text
    )
    assert session.id not in answer.text and "/nothing" not in answer.text
