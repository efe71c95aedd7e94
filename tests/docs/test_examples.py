"""Every command and example of every page runs in a test, or says here why it does not.

A block with a comment above it (``<!-- run -->``, ``<!-- file: … -->``) is read by the
test of its page. Each other block is listed here.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import jsonschema
import pytest

from server.config.settings import Config
from testkit.documents import PAGES, name_of, text_of
from testkit.processes import ROOT
from worker.processors.cog import CogProcessor
from worker.processors.cog.options import SCHEMA

BLOCK: Final = re.compile(r"(<!-- [^\n]+ -->\n)?^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHOWN: Final = frozenset({"text", "mermaid", "http"})
"""Languages of blocks that show something, and are not for typing."""

HELD: Final = {
    "CONTRIBUTING.md": {"./run": "this very run"},
    "docs/browser-client.md": {"import { TryOn }": "test_types_match_script_and_examples"},
    "docs/chaos.md": {
        "tryon chaos https://staging": "needs Kubernetes; test_run_finds_nothing_when_workers_die has its options",
        ".venv/bin/python -m faults soak": "test_soak_keeps_promises_while_everything_breaks",
    },
    "docs/cog.md": {"url = ": "test_cog_options_make_a_processor"},
    "docs/deploying.md": {
        "location ~ ": "test_every_transport_passes_the_proxy_at_once",
        "http://:8080": "test_every_transport_passes_the_proxy_at_once",
        "defaults": "test_every_transport_passes_the_proxy_at_once",
    },
    "docs/gradio.md": {"url = ": "test_examples_of_page_are_valid"},
    "docs/httpjob.md": {"url = ": "test_example_makes_a_processor", "preset = ": "test_example_makes_a_processor"},
    "docs/overlay.md": {".venv/bin/python -m pip": "`./test` and `./run` install the same, from the same lock file"},
    "docs/containers.md": {
        "docker build": "needs a container engine: test_image_runs_the_product follows the Dockerfile without one",
        "cp deploy/compose.env.example": "needs a container engine: test_compose.py parses the file",
        "rules:": "test_adapter_has_the_metrics_of_the_autoscalers",
        "helm install": "needs a cluster: test_kubernetes.py renders the chart",
        "sudo useradd": "needs systemd as process 1: test_systemd.py has its own tools judge the units",
    },
    "docs/ops.md": {"$ export TRYON_OPS_TOKEN": "test_top_shows_sessions_live_and_quits"},
    "docs/production.md": {".venv/bin/python -m testkit.production": "test_one_command_runs_the_whole_form"},
    "docs/storage.md": {
        ".venv/bin/pip install": "needs a bucket of your own: tests/test_object_storage.py runs the product on one",
        "{": "rights and rules of a bucket of Amazon's, which no test has",
    },
    "docs/performance.md": {'cd "$PUSH_BENCHMARK"': "needs the push benchmark, which is another project"},
    "docs/processors.md": {"TRYON_PROCESSOR=httpjob": "test_five_lines_reach_a_model"},
    "docs/python-client.md": {
        "from pathlib": "test_every_example_of_the_guide_runs",
        "import asyncio": "test_every_example_of_the_guide_runs",
        "pip install": "test_wheel_holds_the_public_package_alone",
    },
    "docs/quick-start.md": {"./run": "test_newcomer_sees_a_result"},
    "docs/quotas.md": {
        "[anonymous]": "test_plans_of_page_limit_an_upload",
        "{": "test_plans_of_page_limit_an_upload",
    },
    "docs/react.md": {"import { useTryOn }": "test_types_match_script_and_examples"},
    "docs/reliability.md": {".venv/bin/python -m faults matrix": "test_row_keeps_every_promise"},
    "docs/webhooks.md": {"TRYON_WEBHOOK_SECRET=": "test_webhook_settings_are_accepted"},
}
"""By page: how a block begins, and the test that holds it, or why there is none."""


def blocks() -> list[tuple[str, str]]:
    """Return page and first line of each block that is for typing and has no mark."""
    found = []
    for page in PAGES:
        for mark, language, text in BLOCK.findall(page.read_text()):
            if not mark and language not in SHOWN:
                found.append((name_of(page), text.partition("\n")[0]))
    return found


def test_every_example_is_held_by_a_test() -> None:
    """A new block gets a mark that a test reads, or a line above."""
    files = [path for folder in ("tests", "faults") for path in (ROOT / folder).rglob("test_*.py")]
    defined = set(re.findall(r"def (test_\w+)", "\n".join(path.read_text() for path in files)))
    used: set[tuple[str, str]] = set()
    for page, first in blocks():
        fitting = [start for start in HELD.get(page, {}) if first.startswith(start)]
        assert fitting, f"{page}: {first}"
        used |= {(page, start) for start in fitting}
    assert used == {(page, start) for page, starts in HELD.items() for start in starts}
    named = {why for starts in HELD.values() for why in starts.values() if why.startswith("test_")}
    assert named <= defined, named - defined


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", text_of("docs/cog.md"), re.DOTALL))
def test_cog_options_make_a_processor(example: str) -> None:
    """The page's options pass the schema, and name the roles."""
    options = tomllib.loads(example)
    jsonschema.Draft202012Validator(SCHEMA).validate(options)
    assert [role.name for role in CogProcessor(**options).info.roles] == ["person", "garment"]


def test_webhook_settings_are_accepted(tmp_path: Path) -> None:
    """The two lines of the page, with a secret that openssl makes."""
    (block,) = re.findall(r"```sh\n(.*?)```", text_of("docs/webhooks.md"), re.DOTALL)
    typed = subprocess.run(
        ["bash", "-euc", f"set -a; {block}\nenv"], env={"PATH": os.environ["PATH"]}, capture_output=True, check=True
    )
    environ = dict(line.partition("=")[::2] for line in typed.stdout.decode().splitlines())
    settings = {name: text for name, text in environ.items() if name.startswith("TRYON_")}
    config = Config.load(settings | {"TRYON_DATA_DIR": str(tmp_path)}, env_file=None)
    assert config.webhook_url == "https://shop.example/hooks/tryon"
    assert [len(secret) for secret in config.webhook_secrets] == [32]
