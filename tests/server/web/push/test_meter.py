"""Metrics of the push, counted without a cost per frame."""

from __future__ import annotations

from prometheus_client import REGISTRY

from server.domain.bus_message import EVENT, TERMINAL, WAITING, event_message
from server.services import Services
from server.web.push.hub import Hub
from server.web.push.meter import MEASURE_SECONDS
from testkit.running import new_session
from tests.server.web.push.kit import move
from tryon.protocol.states import Event


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_flush_moves_counts_into_the_metrics(hub: Hub) -> None:
    """All kinds of transitions are ``event`` frames; a flush counts each once."""
    before = value("tryon_frames_total", kind="event")
    for kind in (EVENT, WAITING, TERMINAL):
        hub.meter.handed[kind] += 2
    hub.meter.flush()
    hub.meter.flush()
    assert value("tryon_frames_total", kind="event") == before + 6


async def test_delay_is_measured_from_the_commit(hub: Hub, services: Services) -> None:
    """The next event is measured MEASURE_SECONDS later at the earliest."""
    session = await services.database.writer.insert(new_session())
    moved = await move(services, session, Event.PROCESSING)
    frame = event_message(moved.event, services.sessions.access.issue().file)[18:]
    count, total = value("tryon_push_seconds_count"), value("tryon_push_seconds_sum")
    hub.meter.measure(frame, 100.0)
    assert value("tryon_push_seconds_count") == count + 1
    assert 0 <= value("tryon_push_seconds_sum") - total < 30
    assert hub.meter.measure_at == 100.0 + MEASURE_SECONDS
