"""The installation that is measured.

Valkey has its append-only file, as `tryon up` runs it; the database is SQLite; there is
one web process, and a worker where one is needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from testkit.cluster import Cluster, running_cluster


@contextlib.asynccontextmanager
async def running_installation(*, worker: bool = False, **settings: Any) -> AsyncIterator[Cluster]:
    """Run it until the end of the block. Settings in small letters, without TRYON_."""
    options = ("--appendonly", "yes", "--loglevel", "warning")
    async with running_cluster(workers=int(worker), valkey_options=options, **settings) as cluster:
        yield cluster
