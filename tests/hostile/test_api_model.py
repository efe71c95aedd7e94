"""Two owners do anything in any order: the server does what the model says."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from testkit.running import StartWeb, Web
from tests.hostile.api_model import Api


@pytest.mark.parametrize(
    ("examples", "steps"), [(3, 20), pytest.param(60, 50, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
async def test_api_follows_its_model(start_web: StartWeb, examples: int, steps: int) -> None:
    """Statuses, visibility, histories and pushes are those of the model."""
    web = await start_web(sockets_per_address=10_000, lease_seconds=3600)  # no claim lapses on a slow machine
    await asyncio.to_thread(explore, web, asyncio.get_running_loop(), examples, steps)


def explore(web: Web, loop: asyncio.AbstractEventLoop, examples: int, steps: int) -> None:
    """Run the machine in a thread, beside the server's loop."""
    machine = type("Machine", (Api,), {"web": web, "loop": loop})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=examples < 100,
            suppress_health_check=list(HealthCheck),
        ),
    )
