"""The order of waiting photos: addresses take turns, each with one photo at a time.

Without that, ten tiny files that take seconds each would keep all other clients
waiting for a minute: any client may make ten uploads a minute.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from typing import Final

from server.adapters.imaging.photo_job import PhotoJob

_NONE: Final[deque[PhotoJob]] = deque()


class Turns:
    """The photos that wait, and how many of each address are being worked on.

    Addresses take turns. While another address waits, an address begins no second
    photo. An address that is alone may have ``workers`` of them at once; one that comes
    then does not wait for these, but begins its first beside them. So there are at most
    ``2 * workers - 1`` photos at work, of at most ``workers`` addresses.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._waiting: OrderedDict[str, deque[PhotoJob]] = OrderedDict()
        """By address; the address whose turn is next comes first."""
        self._working: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Turns waiting={len(self)} addresses={len(self._waiting)} working={self._working.total()}>"

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[PhotoJob]:
        return (job for jobs in self._waiting.values() for job in jobs)

    def add(self, job: PhotoJob) -> None:
        """Let a photo wait behind the others of its address."""
        self._waiting.setdefault(job.address, deque()).append(job)

    def take(self) -> PhotoJob | None:
        """Return the photo whose turn it is, now at work; None if none may begin."""
        address = self._next()
        if address is None:
            return None
        jobs = self._waiting[address]
        job = jobs.popleft()
        if not jobs:
            del self._waiting[address]
        self._working[address] += 1
        return job

    def put_back(self, job: PhotoJob) -> None:
        """Let a photo that :meth:`take` returned wait once more, before the others."""
        self.end(job)
        self._waiting.setdefault(job.address, deque()).appendleft(job)
        self._waiting.move_to_end(job.address, last=False)

    def end(self, job: PhotoJob) -> None:
        """Count a photo that :meth:`take` returned as no longer at work.

        Its address has had its turn.
        """
        self._working[job.address] -= 1
        if not self._working[job.address]:
            del self._working[job.address]
        if job.address in self._waiting:
            self._waiting.move_to_end(job.address)

    def discard(self, job: PhotoJob) -> None:
        """Forget a photo if it waits."""
        jobs = self._waiting.get(job.address, _NONE)
        if job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._waiting[job.address]

    def clear(self) -> list[PhotoJob]:
        """Forget every photo that waits, and return them."""
        jobs = list(self)
        self._waiting.clear()
        return jobs

    def startable(self) -> int:
        """Return how many photos could begin now if there were processes."""
        first = sum(address not in self._working for address in self._waiting)
        count = min(first, self._workers - len(self._working))
        if len(self._waiting) == 1:
            (jobs,) = self._waiting.values()
            count = max(count, min(len(jobs), self._workers - self._working.total()))
        return max(0, count)

    def newest_of_most(self, address: str) -> PhotoJob | None:
        """Return a photo that should give way to one of ``address``; None if none.

        It is the newest of the address with the most photos waiting, if those are more
        than ``address`` has.
        """
        most = max(self._waiting.values(), key=len, default=_NONE)
        return most[-1] if len(most) > len(self._waiting.get(address, _NONE)) else None

    def _next(self) -> str | None:
        if len(self._working) < self._workers:
            for address in self._waiting:
                if address not in self._working:
                    return address
        if len(self._waiting) == 1 and self._working.total() < self._workers:
            return next(iter(self._waiting))
        return None
