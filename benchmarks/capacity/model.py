"""The model: from waiting clients to cores, memory, loads, storage, network and money.

Little's law ties clients to uploads: those that wait are the uploads a second times the
seconds of a wait. Everything else is a product of a rate and a cost.

Web processes, image processes, workers and GPUs are multiplied at will. An installation
has the other parts once (:class:`Single`). When one of them cannot bear the load, the
owners are split over several whole installations (cells); only the Redis of the news
and the bucket can be split by themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from benchmarks.capacity.inputs import Assumptions, Costs, Prices

DAY_SECONDS: Final = 86_400
MONTH_DAYS: Final = 30
RENEWAL_SECONDS: Final = 4
"""Time between two renewals of a lease of 12 s."""


@dataclass(frozen=True, slots=True)
class Load:
    """Clients that wait at the peak, for ``wait_seconds`` from upload to picture."""

    name: str
    waiting: float
    wait_seconds: float

    @property
    def uploads(self) -> float:
        """Return the uploads a second."""
        return self.waiting / self.wait_seconds


@dataclass(frozen=True, slots=True)
class Single:
    """A part that an installation has once, and what to split when it is full."""

    name: str
    share: float
    """The load as a share of the most that one part bears; above 1 it is full."""
    split: str
    alone: bool = False
    """Whether it is split without splitting the rest of the installation."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The resources that a load takes at its peak; money by the month."""

    load: Load
    cells: int
    frames: float
    """Pushed a second."""
    transactions: float
    """Transactions of PostgreSQL a second."""
    web_processes: int
    web_cores: float
    image_cores: float
    worker_cores: float
    expiry_cores: float
    news_cores: float
    queue_cores: float
    database_cores: float
    gpus: float
    memory_gb: float
    """Memory of web processes and their sockets, the kernel's included."""
    rows_gb: float
    stored_gb: float
    in_mbit: float
    """Mbit a second from clients."""
    out_mbit: float
    dollars: dict[str, float]
    """By what they are paid for."""
    singles: tuple[Single, ...]
    """The fullest first."""


def of_day(name: str, sessions: float, wait_seconds: float, assumed: Assumptions) -> Load:
    """Return the load of the busiest hour of a day with this many sessions."""
    return Load(name, sessions / DAY_SECONDS * assumed.peak * wait_seconds, wait_seconds)


def demand(load: Load, costs: Costs, assumed: Assumptions, prices: Prices) -> Demand:
    """Return what a load takes, in as many cells as it needs."""
    uploads, frames = load.uploads, frames_of(load, assumed)
    found = sorted(singles(load, costs, assumed), key=lambda each: -each.share)
    cells = max(1, *(math.ceil(each.share) for each in found if not each.alone))
    processes, web_cores = _web(load, costs, assumed, cells)
    per_second = {
        "image_cores": uploads * assumed.photos * costs.photo_us / 1e6,
        "worker_cores": uploads * costs.run_us / 1e6,
        "expiry_cores": uploads
        / costs.expired_a_second,  # a session expires a day after its hour, the busiest included
        "news_cores": frames * costs.news_us / 1e6,
        "queue_cores": uploads * costs.queue_us / 1e6,
        "database_cores": uploads * costs.database_us / 1e6,
        "gpus": uploads * assumed.model_seconds / assumed.busy,
        "transactions": uploads * (assumed.transitions + assumed.model_seconds / RENEWAL_SECONDS + 2),
    }
    kept = uploads / assumed.peak * DAY_SECONDS * assumed.retention_days
    parts = Demand(
        load=load,
        cells=cells,
        frames=frames,
        web_processes=processes,
        web_cores=web_cores,
        memory_gb=load.waiting * (costs.socket_kb + assumed.kernel_kb) / 1e6 + processes * costs.process_mb / 1e3,
        rows_gb=kept * costs.row_bytes / 1e9,
        stored_gb=kept * assumed.stored_mb / 1e3,
        in_mbit=uploads * assumed.upload_mb * 8,
        out_mbit=(frames * assumed.frame_bytes / 1e6 + uploads * assumed.result_mb) * 8,
        dollars={},
        singles=tuple(found),
        **per_second,
    )
    parts.dollars.update(_dollars(parts, assumed, prices))
    return parts


def frames_of(load: Load, assumed: Assumptions) -> float:
    """Return the frames a second: progress of each client, and each transition."""
    return load.waiting / assumed.news_seconds + load.uploads * assumed.transitions


def singles(load: Load, costs: Costs, assumed: Assumptions) -> list[Single]:
    """Return how full each part is that an installation has once."""
    uploads, busy = load.uploads, assumed.busy
    return [
        Single(
            "each web process reads every transition (at most half of its core)",
            uploads * assumed.transitions * costs.swept_us / 1e6 / (busy / 2),
            "a feed for each shard of the sessions, read by the processes that follow some of it",
        ),
        Single(
            "expiry, which one process does at a time",
            uploads / costs.expired_a_second / busy,
            "partitions of the sessions by day, each with a lease of its own",
        ),
        Single(
            "the queue, which a web process reads as a whole",
            max(0.0, load.waiting - uploads * assumed.model_seconds) * costs.place_us / 1e3 / assumed.pause_ms,
            "places of the first thousands alone, and of the others by their share of the queue",
        ),
        Single(
            "PostgreSQL's primary",
            uploads * costs.database_us / 1e6 / (assumed.database_cores * busy),
            "read replicas for lists and feeds, partitions by day, then owners over several databases",
        ),
        Single(
            "Redis of the queue, one core",
            uploads * costs.queue_us / 1e6 / busy,
            "a queue with its own Redis and workers for each model",
        ),
        Single(
            "Redis of the news, one core",
            frames_of(load, assumed) * costs.news_us / 1e6 / busy,
            "sharded pub/sub, which exists: a cluster with this many masters",
            alone=True,
        ),
        Single(
            "one prefix of the bucket",
            2 * uploads / assumed.puts_a_second,
            "prefixes by the first digits of a session's id",
            alone=True,
        ),
    ]


def _web(load: Load, costs: Costs, assumed: Assumptions, cells: int) -> tuple[int, float]:
    """Return the web processes, and the cores that all of them use.

    Each reads every transition of its cell, so another process helps with the rest
    alone.
    """
    own = (
        frames_of(load, assumed) * costs.frame_us
        + load.waiting / assumed.ping_seconds * costs.ping_us
        + load.uploads * (assumed.connects * costs.connect_us + costs.upload_us)
    ) / 1e6
    swept = load.uploads / cells * assumed.transitions * costs.swept_us / 1e6
    by_cores = math.ceil(own / (assumed.busy - swept))
    processes = max(cells, by_cores, math.ceil(load.waiting / assumed.sockets_a_process))
    return processes, own + processes * swept


def _dollars(parts: Demand, assumed: Assumptions, prices: Prices) -> dict[str, float]:
    """Return the dollars of a month: machines for the peak, bytes for the mean."""
    mean_month = MONTH_DAYS * DAY_SECONDS / assumed.peak
    sessions = parts.load.uploads * mean_month
    machines = (parts.web_cores + parts.image_cores + parts.worker_cores + parts.expiry_cores) / assumed.busy
    managed = (parts.news_cores + parts.queue_cores + parts.database_cores) / assumed.busy
    return {
        "web, images, workers": machines * prices.core_month,
        "PostgreSQL and Redis": managed * prices.managed_core_month + parts.rows_gb * prices.disk_gb_month,
        "bucket": parts.stored_gb * prices.stored_gb_month
        + sessions * 2 / 1e6 * (prices.million_puts + prices.million_gets),
        "traffic": parts.out_mbit / 8 / 1e3 * mean_month * prices.egress_gb,
        "GPUs": sessions * assumed.model_seconds / assumed.busy / 3600 * prices.gpu_hour,
    }
