"""A client of the simulation, which checks what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from server.web.push.follower import Follower
from tryon.protocol.states import GoneReason, Status

if TYPE_CHECKING:
    from tests.server.web.push.simulation import World


class Client(Follower):
    """One connection of a client; what it was given is checked as it comes."""

    def __init__(self, world: World, session_id: str) -> None:
        super().__init__(session_id)
        self.world = world
        self.number = len(world.clients)
        self.last = 0
        self.over = False

    def leave(self) -> None:
        if not self.over:
            self.over = True
            self.world.hub.leave(self, transport="test")

    def shown(self, session: Any) -> None:
        """Take a snapshot."""
        if session.seq < self.last:
            self.world.violated(f"a snapshot steps back from {self.last} to {session.seq}")
        self.last = session.seq
        self.world.given(self, f"snapshot {session.seq}")
        if session.status.terminal:
            self.world.given_end.add(session.id)
            self.world.hub.deliveries.note_shown(session)
            self.leave()
        else:
            self.world.hub.release(self, session)
            self.world.expect_prompt(self)

    def event(self, frame: bytes) -> None:
        if self.over:
            return
        if self.world.faulty(self.world.scenario.slow):
            self.seq = None
            self.leave()
            return
        seq = msgspec.json.decode(frame)["seq"]
        if seq != self.last + 1:
            self.world.violated(f"after {self.last} came {seq}")
        self.last = seq
        self.world.given(self, f"event {seq}")

    def progress(self, frame: bytes) -> None:
        seq = msgspec.json.decode(frame)["seq"]
        if self.over:
            return
        self.world.given(self, f"place {seq}")
        if self.world.stories[self.session_id][seq - 1].status is not Status.CREATED:
            self.world.violated(f"a place was announced to a running session at {seq}")

    def ping(self, frame: bytes) -> None:
        """Take no notice."""

    def end(self, status: str) -> None:
        if not self.over:
            self.world.given_end.add(self.session_id)
            self.world.given(self, "end")
            self.leave()

    def gone(self, reason: GoneReason) -> None:
        if self.session_id not in self.world.erased:
            self.world.violated("a living session was gone")
        self.world.given(self, "gone")
        self.leave()

    def too_old(self, retry_after_ms: int) -> None:
        self.leave()

    drain = too_old
