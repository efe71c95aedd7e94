"""The inputs of the model: measured costs, assumptions, prices.

Each field has a default, its unit and its meaning. ``python -m benchmarks.capacity
model_seconds=30 core_month=18`` changes any of them by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, TypeVar

Values = TypeVar("Values", "Costs", "Assumptions", "Prices")

TEXT: Final = "text"


def known(value: float, text: str) -> Any:
    """Return a field with its default, and what it means."""
    return field(default=value, metadata={TEXT: text})


@dataclass(frozen=True, slots=True)
class Costs:
    """The measured costs, each with the command that measured it."""

    frame_us: float = known(43, "CPU us of a web process for a pushed frame: `scaling --part processes`")
    ping_us: float = known(40, "for a ping of a client, with all that recurs: `scaling --part sockets`")
    connect_us: float = known(1700, "for a connect with ticket and snapshot: `scaling --part sockets`")
    upload_us: float = known(4500, "for an upload, without its photo: `upload`")
    swept_us: float = known(22, "of each web process for a transition of any session: `scaling --part processes`")
    socket_kb: float = known(2.5, "kB of a web process for a socket: `idle --clients 10000`")
    process_mb: float = known(185, "MB of a web process, a worker and Valkey without clients: `start`")
    photo_us: float = known(234_000, "CPU us of an image process for a photo of 12 megapixels: `push --storm 2`")
    run_us: float = known(
        26_000, "CPU us of a worker for a session with the mock as its model: `scaling --part queued`"
    )
    news_us: float = known(74, "CPU us of Redis for a report of progress and its frame: `scaling`")
    queue_us: float = known(2000, "CPU us of Redis for a submit, a run and a deletion: `scaling --part queued`")
    place_us: float = known(
        2.0, "CPU us of a web process for each session when the queue is read: `scaling --part queued`"
    )
    database_us: float = known(8500, "CPU us of PostgreSQL for the same: `scaling --part queued`")
    row_bytes: float = known(1500, "bytes in PostgreSQL of a session with 3 events and 2 files: `rows`")
    expired_a_second: float = known(396, "sessions that one process ends and removes a second, with a core: `expiry`")


@dataclass(frozen=True, slots=True)
class Assumptions:
    """How clients behave, and how full a part may be; none of it is measured."""

    news_seconds: float = known(5, "between two frames of progress of a waiting client")
    ping_seconds: float = known(25, "between two pings, the default")
    transitions: float = known(3, "of a session: created, processing, completed")
    connects: float = known(1.2, "of a session, for some connections are lost")
    photos: float = known(1, "of an upload, 12 megapixels each")
    upload_mb: float = known(2.7, "MB that a client sends")
    stored_mb: float = known(1, "MB of photo and result")
    result_mb: float = known(0.3, "MB of a result, which is fetched once")
    frame_bytes: float = known(400, "bytes of a frame on the wire, TCP and IP included")
    retention_days: float = known(1, "days until a session expires, the default")
    model_seconds: float = known(10, "of a GPU for a session")
    peak: float = known(3, "times the mean of a day in its busiest hour")
    busy: float = known(0.7, "share of a core, a server or a GPU that is used at the peak")
    sockets_a_process: float = known(15_000, "sockets of a web process")
    pause_ms: float = known(100, "ms for which a web process may stop while it reads the queue")
    kernel_kb: float = known(8, "kB of the kernel for a socket")
    database_cores: float = known(32, "cores of the largest PostgreSQL that you want to run")
    puts_a_second: float = known(3500, "of a bucket's prefix, as Amazon says of S3")


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars, of the order of large clouds' list prices."""

    core_month: float = known(30, "a virtual core with 4 GB of memory")
    managed_core_month: float = known(75, "a core of a managed PostgreSQL or Redis, with its standby")
    disk_gb_month: float = known(0.12, "a GB of PostgreSQL's disk")
    stored_gb_month: float = known(0.023, "a GB in a bucket")
    million_puts: float = known(5, "a million objects written")
    million_gets: float = known(0.4, "a million objects read")
    egress_gb: float = known(0.08, "a GB sent to clients")
    gpu_hour: float = known(1.5, "a GPU")


def described(values: Costs | Assumptions | Prices) -> Iterator[tuple[str, float, str]]:
    """Yield name, value and meaning of each field."""
    for each in fields(values):
        yield each.name, getattr(values, each.name), each.metadata[TEXT]


def changed(values: Values, changes: dict[str, float]) -> Values:
    """Return the values with those of ``changes`` that are fields of theirs.

    They are taken out of ``changes``, so what remains is unknown.
    """
    own = {each.name: changes.pop(each.name) for each in fields(values) if each.name in changes}
    return replace(values, **own)
