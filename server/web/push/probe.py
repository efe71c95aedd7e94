"""The delivery probe: a message that the hub publishes to itself.

A connection to Redis can be up and deaf, also because Redis has forgotten it: after a
failover behind one address, or when a firewall has dropped an idle connection. Only a
message that was published and did not come back proves it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from server.adapters.redis.bus import RedisBus
from server.adapters.redis.subscribing import Subscriber
from server.system.clock import Clock
from server.system.randomness import Randomness
from server.telemetry import metrics

log = logging.getLogger("tryon.hub")

PROBE_SECONDS: Final = 2.0
"""Time between two probes; a probe that is not back by then means a deaf connection."""

DEAF_PROBE_SECONDS: Final = 1.0
"""The same while none comes back, so that the end of an outage is noticed soon."""


class DeliveryProbe:
    """Whether the subscriber connection delivers, and how fast."""

    __slots__ = ("_bus", "_clock", "_last", "_randomness", "_subscriber", "channel", "delay_seconds")

    def __init__(
        self, *, bus: RedisBus, subscriber: Subscriber, key_prefix: str, clock: Clock, randomness: Randomness
    ) -> None:
        self._bus = bus
        self._subscriber = subscriber
        self._clock = clock
        self._randomness = randomness
        self.channel = f"{key_prefix}probe:{randomness.bytes(8).hex()}".encode()
        self._last = b""
        self.delay_seconds: float | None = None
        """Travel time of the last probe through Redis; None while the connection is
        deaf or down.
        """

    def __repr__(self) -> str:
        return f"<DeliveryProbe delay_seconds={self.delay_seconds} {self._subscriber!r}>"

    @property
    def delivers(self) -> bool:
        """Whether the last probe that had time to come back did."""
        return self._subscriber.up and self.delay_seconds is not None

    def receive(self, message: bytes) -> None:
        """Take a probe that came back."""
        self._last = message
        self.delay_seconds = self._clock.monotonic() - float(message.split()[1])
        metrics.probe_seconds.observe(self.delay_seconds)

    async def next_probe(self) -> None:
        """Publish a probe, wait, and replace the connection if it is deaf."""
        await asyncio.shield(self._subscriber.subscribe(self.channel))
        connection = self._subscriber.connections if self._subscriber.up else None
        probe = f"{self._randomness.bytes(4).hex()} {self._clock.monotonic()}".encode()
        sent = await self._bus.probe(self.channel.decode(), probe)
        await asyncio.sleep(PROBE_SECONDS if self.delivers else min(PROBE_SECONDS, DEAF_PROBE_SECONDS))
        if sent and self._last == probe:
            return
        self.delay_seconds = None
        metrics.probes_lost.inc()
        if sent is not None and self._subscriber.up and connection == self._subscriber.connections:
            log.warning("Redis subscriber receives nothing, reconnecting")
            self._subscriber.reconnect()
