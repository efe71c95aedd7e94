"""httpjob passes the checks for any processor, in this process and in its sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from testkit.model_host import ModelHost, serving_aside
from tryon.processor.conformance import ProcessorConformance
from worker.isolation.confined import Confined
from worker.processors.httpjob import HttpJob


class WithHost(ProcessorConformance):
    """A host for each test."""

    __test__ = False

    @pytest.fixture(autouse=True)
    def serve(self) -> Iterator[None]:
        with serving_aside() as self.host:
            yield

    host: ModelHost

    def options(self) -> dict[str, Any]:
        roles = {"person": {"required": True}, "garment": {"count": 3}}
        return self.host.options(roles=roles)


class TestConformance(WithHost):
    """In this process, where a run can be watched."""

    __test__ = True

    def make(self) -> HttpJob:
        return HttpJob(**self.options())

    def make_slow(self) -> HttpJob:
        self.host.polls = None
        return HttpJob(**self.options())


class TestConfined(WithHost):
    """In the sandbox of a child: the network and nothing else is needed."""

    __test__ = True
    stop_seconds = 10.0

    def make(self) -> Confined:
        return Confined("httpjob", **self.options())
