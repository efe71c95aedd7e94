"""The followers of one web process, by the channel of their session."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Final

from server.domain.tokens import Signer
from server.system.randomness import Randomness
from server.web.push.follower import Follower

log = logging.getLogger("tryon.hub")

RETURN_MS: Final = (100, 5000)
"""Bounds of the delay after which one disconnected client is asked to reconnect."""


class Followers:
    """The registry of the followers, in the order in which they joined."""

    __slots__ = ("_channel", "_erasable", "_randomness", "_signer", "by_channel")

    def __init__(self, *, channel: Callable[[str], str], signer: Signer, randomness: Randomness) -> None:
        self._channel = channel
        self._signer = signer
        self._randomness = randomness
        self.by_channel: dict[bytes, dict[Follower, None]] = {}
        """The hub reads it for every message; only this class changes it."""
        self._erasable: dict[int, str] = {}
        """Session ids by the beginnings of the tombstones they would leave, one for
        each signing key.
        """

    def __repr__(self) -> str:
        return f"<Followers sessions={len(self.by_channel)} followers={len(self)}>"

    def __len__(self) -> int:
        return sum(len(followers) for followers in self.by_channel.values())

    def channel(self, session_id: str) -> bytes:
        """Return the channel of a session."""
        return self._channel(session_id).encode()

    def add(self, follower: Follower) -> bytes:
        """Register a follower; return the channel of its session."""
        channel = self.channel(follower.session_id)
        followers = self.by_channel.get(channel)
        if followers is None:
            followers = self.by_channel[channel] = {}
            for id_hash in self._signer.tombstone_hashes(follower.session_id):
                self._erasable[_beginning(id_hash)] = follower.session_id
        followers[follower] = None
        return channel

    def remove(self, follower: Follower) -> int | None:
        """Forget a follower; return how many others its session has.

        None: it was not registered.
        """
        channel = self.channel(follower.session_id)
        followers = self.by_channel.get(channel)
        if followers is None or follower not in followers:
            return None
        del followers[follower]
        if not followers:
            del self.by_channel[channel]
            for id_hash in self._signer.tombstone_hashes(follower.session_id):
                self._erasable.pop(_beginning(id_hash), None)
        return len(followers)

    def __contains__(self, follower: Follower) -> bool:
        return follower in self.by_channel.get(self.channel(follower.session_id), ())

    def follows(self, session_id: str) -> bool:
        """Return whether the session has a follower."""
        return self.channel(session_id) in self.by_channel

    def of(self, session_id: str) -> tuple[Follower, ...]:
        """Return the followers of one session."""
        return tuple(self.by_channel.get(self.channel(session_id), ()))

    def all(self) -> list[Follower]:
        """Return the followers of all sessions."""
        return [follower for followers in self.by_channel.values() for follower in followers]

    def session_ids(self) -> list[str]:
        """Return the ids of the followed sessions."""
        return [next(iter(followers)).session_id for followers in self.by_channel.values()]

    def with_tombstone(self, id_hash: str) -> str | None:
        """Return the id of the followed session that left this tombstone, or None."""
        session_id = self._erasable.get(_beginning(id_hash))
        if session_id is not None and id_hash in self._signer.tombstone_hashes(session_id):
            return session_id
        return None

    def notify(self, followers: Iterable[Follower], call: Callable[[Follower], object]) -> None:
        """Call for each follower; one that fails keeps nothing from the others."""
        for follower in followers:
            try:
                call(follower)
            except Exception:
                self.failed(follower)

    def failed(self, follower: Follower) -> None:
        """Log the exception being handled and ask the client to reconnect."""
        log.exception("Notifying %r failed, its client has to reconnect", follower)
        with contextlib.suppress(Exception):
            follower.broken(self.return_ms())

    def return_ms(self) -> int:
        """Return a random delay for one client that has to reconnect."""
        return self._randomness.randint(*RETURN_MS)


def _beginning(id_hash: str) -> int:
    """Return the first 64 bits as a number: 36 bytes of memory instead of 113."""
    return int(id_hash[:16], 16)
