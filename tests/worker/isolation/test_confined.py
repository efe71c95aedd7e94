"""The conformance suite around a processor in its sandbox."""

from __future__ import annotations

import pytest

from server.system.sandbox import Policy, Sandbox
from tests.server.system.attempts import need_layers
from tests.tryon.processor.test_conformance import CHECKS
from tests.worker.isolation.sessions import LINUX
from tryon.processor.conformance import ProcessorConformance
from worker.isolation.confined import Confined
from worker.isolation.errors import RaisedInChild


class TestConfinedMock(ProcessorConformance):
    """The built-in processor needs nothing that its sandbox keeps away."""

    stop_seconds = 10.0

    def make(self) -> Confined:
        return Confined("mock", seconds=0.2, failure_rate=0.0)


@LINUX
def test_undeclared_need_fails_a_check() -> None:
    """A processor that reads a file it has not declared passes no run."""
    need_layers(Sandbox(Policy(programs=True, own_user=False)))

    class Suite(ProcessorConformance):
        stop_seconds = 10.0

        def make(self) -> Confined:
            return Confined("tests.worker.needy:Needy")

    assert "test_run_returns_outputs" in CHECKS
    with pytest.raises(RaisedInChild, match="PermissionError"):
        Suite().test_run_returns_outputs()
