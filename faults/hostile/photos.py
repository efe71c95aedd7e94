"""Damaged photos in real image processes: what a decoder can do to its parent."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec
import psutil

from faults.hostile.image_child import Batch, Report
from faults.hostile.verdict import Verdict
from server.adapters.imaging.pool import Imaging
from server.domain.images import Limits
from tryon.protocol.errors import TryOnError

PROGRAM: Final = ("-m", "faults.hostile.image_child")
BATCH: Final = 100
"""Photos of one order: 0.03 s."""
PROCESSES: Final = 2
MAX_PIXELS: Final = 1_000_000
"""Larger pictures are refused by their size here: the time goes to small ones."""
WARM_BATCHES: Final = 3
"""Orders after which a process has all the memory and descriptors that it needs."""
LEAK_BYTES: Final = 64 * 2**20
SETTLE_SECONDS: Final = 5.0
"""Longest time for a process to give memory back; it does half a second after its last
photo.
"""
PROGRESS_SECONDS: Final = 10.0


@dataclass
class Usage:
    """The resources of an image process: after its first orders, and now."""

    orders: int = 0
    descriptors: int = 0
    resident: int = 0


@dataclass
class Photos:
    """One run over ``inputs`` damaged photos of a seed, from number ``first`` on."""

    inputs: int
    seed: int
    planted: str = ""
    first: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    done: int = 0
    usage: dict[int, Usage] = field(default_factory=dict)
    loud: bool = False

    async def run(self) -> None:
        """Hand all of them to two processes, and look for what they leave."""
        own = psutil.Process()
        others = set(own.children(recursive=True))
        end = self.first + self.inputs
        orders = iter(range(self.first, end, BATCH))
        limits = Limits(max_pixels=MAX_PIXELS)
        async with Imaging(limits, workers=PROCESSES, idle_seconds=3600, program=PROGRAM) as pool:
            await self._batch(pool, self.first, min(BATCH, self.inputs))  # and what is loaded late is loaded
            descriptors, resident = own.num_fds(), own.memory_info().rss
            next(orders, None)
            began = time.monotonic()
            progress = asyncio.create_task(self._progress(began))
            await asyncio.gather(*(self._orders(pool, orders, end) for _ in range(PROCESSES)))
            progress.cancel()
            for pid, usage in self.usage.items():
                await self._settled(psutil.Process(pid), usage)
        for each in set(own.children(recursive=True)) - others:
            self.verdict.leaks.append(f"photos: process left: {each}")
        if (more := own.num_fds() - descriptors) > 0:
            self.verdict.leaks.append(f"photos: {more} descriptors more in the parent")
        if (more := own.memory_info().rss - resident) > LEAK_BYTES:
            self.verdict.leaks.append(f"photos: the parent has grown by {more / 2**20:.0f} MiB")
        if self.loud:
            print(f"{self.done:,} photos in {time.monotonic() - began:.0f} s", flush=True)

    async def _orders(self, pool: Imaging, orders: Iterator[int], end: int) -> None:
        for first in orders:
            await self._batch(pool, first, min(BATCH, end - first))

    async def _batch(self, pool: Imaging, first: int, count: int) -> None:
        """Have one batch cleaned; find the photo that ended the process, if one did."""
        order = msgspec.json.encode(Batch(self.seed, first, count, self.planted))
        try:
            picture = await pool.clean(io.BytesIO(order))
        except TryOnError as error:
            if count == 1:
                self.done += 1
                self.verdict.crashes.append(f"photo {self.seed}/{first} ended the image process: {error.detail}")
                return
            for part in (first, first + count // 2):
                await self._batch(pool, part, count // 2 if part == first else count - count // 2)
            return
        report = msgspec.json.decode(picture.data, type=Report)
        self.done += count
        self.verdict.outcomes.update(report.outcomes)
        self.verdict.crashes += report.crashes
        if report.grown_bytes > LEAK_BYTES:
            self.verdict.leaks.append(f"photos: {count} took {report.grown_bytes / 2**20:.0f} MiB together")
        if report.descriptors:
            self.verdict.leaks.append(f"photos: {count} left {report.descriptors} descriptors open")
        self._look(pool)

    def _look(self, pool: Imaging) -> None:
        """Note what each process uses once it is warm, and forget those that ended."""
        pids = set(pool.pids)
        self.usage = {pid: usage for pid, usage in self.usage.items() if pid in pids}
        for pid in pids:
            usage = self.usage.setdefault(pid, Usage())
            usage.orders += 1
            if usage.orders <= WARM_BATCHES:
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    usage.descriptors = process.num_fds()
                    usage.resident = process.memory_info().rss

    async def _settled(self, process: psutil.Process, usage: Usage) -> None:
        """Note a leak of a process that stays larger than it was when it was warm."""
        end = time.monotonic() + SETTLE_SECONDS
        while (grown := process.memory_info().rss - usage.resident) > LEAK_BYTES and time.monotonic() < end:
            await asyncio.sleep(0.1)
        if grown > LEAK_BYTES:
            self.verdict.leaks.append(f"photos: an image process has grown by {grown / 2**20:.0f} MiB")
        if (more := process.num_fds() - usage.descriptors) > 0:
            self.verdict.leaks.append(f"photos: {more} descriptors more in an image process")

    async def _progress(self, began: float) -> None:
        while self.loud:
            await asyncio.sleep(PROGRESS_SECONDS)
            rate = self.done / (time.monotonic() - began)
            left = (self.inputs - self.done) / max(rate, 1e-9)
            print(f"{self.done:>9,} photos, {rate:,.0f} a second, {left:.0f} s left, {self.verdict.line}", flush=True)
