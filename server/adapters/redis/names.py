"""Names of the keys and channels of one session.

In a cluster everything of a session shares a slot, so that one script may touch it: the
names then contain a tag in braces, which alone decides the slot. The tag is a hash, as
an erased session's id must not stay. Channels of other kinds need no tag: their own
name spreads them over the shards.
"""

from __future__ import annotations

import hashlib

TAG_DIGITS = 8
"""Hexadecimal digits of a tag; 16,384 slots need four."""


class Names:
    """The names with one prefix; ``sharded``: in a cluster."""

    def __init__(self, prefix: str, *, sharded: bool) -> None:
        self._prefix = prefix
        self._sharded = sharded

    def __repr__(self) -> str:
        return f"<Names {self._prefix} sharded={self._sharded}>"

    def channel(self, session_id: str) -> str:
        """Return the channel of a session."""
        return f"{self._prefix}session:{self._tag(session_id)}{session_id}"

    def owner(self, owner: str) -> str:
        """Return the channel of an owner, by the hash of its credential."""
        return f"{self._prefix}owner:{owner}"

    def progress(self, session_id: str) -> str:
        """Return the key of a session's last progress."""
        return f"{self._prefix}progress:{self._tag(session_id)}{session_id}"

    def erased(self, session_id: str) -> str:
        """Return the key that marks a session as erased, without its id."""
        return f"{self._prefix}erased:{self._tag(session_id)}{_hash(session_id)[:32]}"

    def progress_prefix(self) -> str:
        """Return how the keys of progress begin."""
        return f"{self._prefix}progress:"

    def session_of(self, progress_key: str) -> str:
        """Return the id in a key of progress."""
        return progress_key.removeprefix(self.progress_prefix()).rpartition("}")[2]

    def _tag(self, session_id: str) -> str:
        return f"{{{_hash(session_id)[:TAG_DIGITS]}}}" if self._sharded else ""


def _hash(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()
