"""The live service against its own OpenAPI document.

schemathesis makes up the requests, and checks every answer.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Final

import httpx
import pytest

from testkit.fixtures import StartStack
from testkit.processes import ROOT, run_program

EXAMPLES: Final = 60
SECONDS: Final = 150

REACHED: Final = {
    "GET /api/tryon/sessions 200",
    "POST /api/tryon/sessions 201",
    "GET /api/tryon/sessions/{session_id} 200",
    "GET /api/tryon/sessions/{session_id}/events 200",
    "GET /api/tryon/sessions/{session_id}/history 200",
    "POST /api/tryon/sessions/{session_id}/cancel 200",
    "POST /api/tryon/sessions/{session_id}/retry 201",
    "DELETE /api/tryon/sessions/{session_id} 200",
}
"""Answers that must have come at least once: a run of nothing but 404 shows nothing."""


@pytest.mark.slow
async def test_answers_match_openapi_document(stack: StartStack, tmp_path: Path) -> None:
    """Each made-up request gets an answer that the document describes."""
    running = await stack(TRYON_MOCK_SECONDS="0.05", TRYON_MOCK_FAILURE_RATE="0.5", TRYON_MOCK_SEED="7")
    command = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert command, "schemathesis is not installed beside this Python"
    status, out, err = await run_program(
        command,
        *("--config-file", str(ROOT / "tests" / "schemathesis.toml")),
        *("run", f"{running.url}/api/openapi.json", "--no-color", "--workers", "2"),
        *("--checks", "all", "--exclude-checks", "ignored_auth"),  # why not: see schemathesis.toml
        *("--max-examples", str(EXAMPLES), "--generation-deterministic"),
        *("--header", "Authorization: Bearer schemathesis-schemathesis"),
        folder=tmp_path,  # it leaves its reports where it runs
        seconds=SECONDS,
    )
    print(out, err, sep="\n")
    assert status == 0
    async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
        metrics = (await client.get("/metrics")).text
    counted = re.findall(r'tryon_http_requests_total\{method="(\w+)",route="([^"]+)",status="(\d+)"\}', metrics)
    answered = {" ".join(row) for row in counted}
    assert answered >= REACHED, REACHED - answered
    assert not {row for row in answered if row.endswith(" 500")}
    assert "Traceback" not in running.output
