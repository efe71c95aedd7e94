"""How many uploads an address may have at once, and how many bytes they may hold.

Like the limits on sockets they count in each web process for itself. A slot is held
from the head of an upload to its answer: until then its photos are in memory or in an
anonymous file.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

from server.config.settings import Config
from tryon.protocol.errors import RateLimited

RETRY_SECONDS: Final = 5
"""``Retry-After`` of a refusal."""


class UploadSlots:
    """The uploads in progress and their bytes, by client address."""

    def __init__(self, config: Config) -> None:
        self._per_address = config.uploads_per_address
        self._bytes_per_address = config.spooled_bytes_per_address
        self._bytes_per_process = config.spooled_bytes_per_process
        self._uploads: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._all_bytes = 0

    def __repr__(self) -> str:
        return f"<UploadSlots {self._uploads.total()} uploads, {self._all_bytes} bytes>"

    @contextlib.contextmanager
    def taken(self, address: str) -> Iterator[UploadSlot]:
        """Count one upload for as long as this is open. Raises RateLimited."""
        if self._uploads[address] >= self._per_address:
            raise RateLimited(limit="uploads_per_address", retry_after=RETRY_SECONDS)
        self._uploads[address] += 1
        slot = UploadSlot(self, address)
        try:
            yield slot
        finally:
            self.add(address, -slot.held)
            self._uploads[address] -= 1
            if not self._uploads[address]:
                del self._uploads[address], self._bytes[address]

    def add(self, address: str, count: int) -> None:
        """Count ``count`` more bytes. Raises RateLimited, and then counts none."""
        if count > 0 and self._bytes[address] + count > self._bytes_per_address:
            raise RateLimited(limit="spooled_bytes_per_address", retry_after=RETRY_SECONDS)
        if count > 0 and self._all_bytes + count > self._bytes_per_process:
            raise RateLimited(limit="spooled_bytes_per_process", retry_after=RETRY_SECONDS)
        self._bytes[address] += count
        self._all_bytes += count


class UploadSlot:
    """The place of one upload among those of its address."""

    __slots__ = ("_slots", "address", "held")

    def __init__(self, slots: UploadSlots, address: str) -> None:
        self._slots = slots
        self.address = address
        self.held = 0
        """Bytes that the upload holds."""

    def __repr__(self) -> str:
        return f"<UploadSlot held={self.held}>"

    def hold(self, count: int) -> None:
        """Count the bytes that the upload holds now. Raises RateLimited."""
        self._slots.add(self.address, count - self.held)
        self.held = count
