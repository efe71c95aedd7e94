"""The form of the installation in which rows run: the smallest one, or production's.

A row says only what it needs. Everything else comes from the form that was chosen for
the run: ``python -m faults matrix --production nginx`` runs the same rows with
PostgreSQL and two web processes behind a proxy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

from testkit.production import FORM

SMALLEST: Final[Mapping[str, Any]] = {}
_chosen: ContextVar[Mapping[str, Any]] = ContextVar("form", default=SMALLEST)


def chosen() -> dict[str, Any]:
    """Return what :func:`testkit.cluster.running_cluster` takes for this form."""
    return dict(_chosen.get())


@contextlib.contextmanager
def production(balancer: str) -> Iterator[None]:
    """Run the rows of the block in the production form behind this proxy."""
    token = _chosen.set(FORM | {"balancer": balancer})
    try:
        yield
    finally:
        _chosen.reset(token)
