"""The alerts, the dashboard and the runbooks, against what the product exports."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from server.domain.tokens import new_token
from testkit.cluster import Cluster, running_cluster
from testkit.documents import text_of
from testkit.following import follow
from testkit.installed import PLACES, running_program
from testkit.photos import photo
from testkit.plugin import missing
from testkit.processes import ROOT, free_port

PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
DASHBOARD: Final[dict[str, Any]] = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
RULES: Final = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
PANELS: Final = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES: Final = [target["expr"] for panel in PANELS for target in panel["targets"]]
COMPLETED: Final = 3
"""Sessions that complete in the scripted run."""
FAILED: Final = ("moderated_input", "code-of-its-own")
"""Codes of those that fail."""
METERED: Final = "tests.docs.metered:Metered"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Prometheus's own checker; the test is skipped aloud where it is missing."""
    found = shutil.which("promtool", path=PLACES)
    if found is None:
        missing("promtool (Debian: apt-get install prometheus)")
    return subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=PROMETHEUS)


# -- the rules -------------------------------------------------------------------------


def test_rules_and_configuration_are_valid() -> None:
    """Prometheus itself reads them."""
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


def test_rules_pass_their_tests() -> None:
    """What fires when, and what does not: alerts_test.yml."""
    done = promtool("test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_fail_their_tests_when_one_is_changed(tmp_path: Path) -> None:
    """The tests of the rules can fail."""
    text = (PROMETHEUS / "alerts.yml").read_text()
    assert text.count("(tryon_queue_oldest_seconds) > 120") == 1
    (tmp_path / "alerts.yml").write_text(text.replace("(tryon_queue_oldest_seconds) > 120", "(tryon_workers) > 120"))
    shutil.copy(PROMETHEUS / "alerts_test.yml", tmp_path)
    assert promtool("test", "rules", tmp_path / "alerts_test.yml").returncode != 0


def test_alerts_have_runbooks_and_runbooks_alerts() -> None:
    """In the order of the rules, with severity and time; each alert has its link."""
    assert len(RULES) >= 20
    runbooks = text_of("docs/operations.md").partition("\n## Alerts\n")[2].partition("\n## ")[0]
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", runbooks, re.MULTILINE | re.DOTALL))
    assert list(sections) == [rule["alert"] for rule in RULES]
    for rule in RULES:
        name, section, notes = rule["alert"], sections[rule["alert"]], rule["annotations"]
        assert notes["runbook_url"] == f"docs/operations.md#{name.lower()}"
        assert section.strip().startswith(f"{notes['summary']} ({rule['labels']['severity']}, for {rule['for']}). "), (
            name
        )
        assert "\n- **See:** " in section, name
        assert "\n- **Do:** " in section, name


# -- the dashboard ---------------------------------------------------------------------


def test_dashboard_has_panels_by_row() -> None:
    """Five rows; panels have titles, queries and places that do not overlap."""
    titles = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert titles == ["Traffic", "Push", "Queue", "Engines", "Faults"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells
    assert all(
        panel["title"] and panel["targets"] and all(each["expr"] for each in panel["targets"]) for panel in PANELS
    )


def test_dashboard_queries_are_valid(tmp_path: Path) -> None:
    """As rules of Prometheus, which parses them."""
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(QUERIES)
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = promtool("check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr


# -- against a run of the product ------------------------------------------------------


@dataclass(frozen=True)
class Scripted:
    """The pages of a web process and a worker, and values that no label may have."""

    web: str
    worker: str
    secrets: tuple[str, ...]

    @property
    def samples(self) -> list[Sample]:
        """Return the samples of both, of the product's own metrics."""
        found = [family for page in (self.web, self.worker) for family in text_string_to_metric_families(page)]
        return [sample for family in found for sample in family.samples if sample.name.startswith("tryon_")]


class Visitor:
    """A client of the scripted run; it keeps its sessions' ids and tokens."""

    def __init__(self, cluster: Cluster, client: httpx.AsyncClient) -> None:
        self.url, self.client = cluster.url, client
        self.kept: list[str] = []

    async def upload(self, token: str | None = None, key: str | None = None, **params: str) -> tuple[str, str]:
        """Upload a photo, follow the session over a socket to its end, return it."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        headers |= {} if key is None else {"Idempotency-Key": key}
        files = {"image": ("me.jpg", photo(), "image/jpeg")}
        form = {"params": json.dumps(params)}
        answer = await self.client.post("/api/tryon/sessions", files=files, data=form, headers=headers)
        assert answer.status_code == 201, answer.text
        session = answer.json()
        token = token or session["client_token"]
        self.kept += [session["session_id"], token]
        async for _ in follow("ws", self.url, session["session_id"], token):
            pass
        return session["session_id"], token


async def play(cluster: Cluster, client: httpx.AsyncClient) -> tuple[str, ...]:
    """Upload, repeat, follow, fail, be refused, come with a wrong token, delete."""
    visitor = Visitor(cluster, client)
    session, token = await visitor.upload()
    for _ in range(2):
        await visitor.upload(token, key="the-same")  # the second one is a replay
    async for _ in follow("sse", cluster.url, session, token):
        pass
    await visitor.upload(token)
    for code in FAILED:
        await visitor.upload(token, fail=code)
    refused = await client.post("/api/tryon/sessions", files={"image": ("x.jpg", b"no picture", "image/jpeg")})
    assert refused.status_code == 415
    stranger = [step async for step in follow("ws", cluster.url, session, new_token())]
    assert [step.event for step in stranger] == ["not found"]
    await ends_noted(client)  # what is erased before counts as not delivered
    mine = {"Authorization": f"Bearer {token}"}
    assert (await client.delete(f"/api/tryon/sessions/{session}", headers=mine)).status_code == 200
    assert (await client.get(f"/api/{uuid.uuid4()}")).status_code == 404
    return (*visitor.kept, "127.0.0.1", "the-same", "code-of-its-own")


async def ends_noted(client: httpx.AsyncClient) -> None:
    """Wait until the delivery of each end was noted: half a second later, or more."""
    wanted, found = f"tryon_delivered_seconds_count {COMPLETED + len(FAILED)}.0", ""
    try:
        async with asyncio.timeout(60):
            while wanted not in found:
                await asyncio.sleep(0.1)
                found = (await client.get("/metrics")).text
    except TimeoutError:
        delivered = re.findall(r"^tryon_delivered_seconds_count .*$", found, re.MULTILINE)
        pytest.fail(f"not every end was noted as delivered: {delivered}")


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[tuple[Cluster, int, tuple[str, ...]]]:
    """Run a web process and a worker that were started alone, and the script."""
    port = free_port()
    settings: dict[str, Any] = {"worker_metrics_port": port, "processor": METERED, "usage_prices": "gpu_seconds=0.5"}
    async with (
        running_cluster(**settings, upload_rate="off") as cluster,
        httpx.AsyncClient(base_url=cluster.url, timeout=60) as client,
    ):
        yield cluster, port, await play(cluster, client)


@pytest.fixture(scope="module")
async def scripted(cluster: tuple[Cluster, int, tuple[str, ...]]) -> Scripted:
    """Return both pages, as they are after the script."""
    running, port, secrets = cluster
    async with httpx.AsyncClient(timeout=60) as client:
        web, worker = [(await client.get(f"{url}/metrics")).text for url in (running.url, f"http://127.0.0.1:{port}")]
        return Scripted(web, worker, secrets)


async def test_dashboard_and_alerts_name_exported_metrics(scripted: Scripted) -> None:
    """Each name has a sample of the run, with the labels that are asked for."""
    labels: dict[str, set[str]] = {}
    for sample in scripted.samples:
        labels.setdefault(sample.name, set()).update(sample.labels)
    for query in [*QUERIES, *(rule["expr"] for rule in RULES)]:
        for name, selector in re.findall(r"\b(tryon_\w+)(?:\{([^}]*)\})?", query):
            assert name in labels, f"{name}, in {query}"
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
            assert asked <= labels[name], f"{asked - labels[name]} of {name}, in {query}"
        for grouped in re.findall(r"\bby \(([^)]*)\)", query):
            asked = {each.strip() for each in grouped.split(",")} - {"le", "instance"}
            named = set(re.findall(r"\btryon_\w+", query))
            assert asked <= set().union(*(labels[name] for name in named)), query


async def test_every_exported_metric_is_documented(scripted: Scripted) -> None:
    """By its name; and the run has samples of all but what needs a fault."""
    table = set(
        re.findall(r"^\| `(tryon_\w+)` \| (?:counter|gauge|histogram)", text_of("docs/operations.md"), re.MULTILINE)
    )
    exported = {re.sub(r"_(bucket|sum|count|created)$", "", sample.name) for sample in scripted.samples}
    exported -= {name for name in exported if f"{name}_total" in table}  # *_created of a counter
    assert exported - table == set()
    assert table - exported == set()
    assert len(exported) >= 40


async def test_worker_and_web_count_what_they_commit(scripted: Scripted) -> None:
    """Each transition once, in the page of the process that committed it."""

    def total(page: str, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(page)
        found = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(each.value for each in found if labels.items() <= each.labels.items())

    sessions = COMPLETED + len(FAILED)
    both = scripted.web, scripted.worker
    assert [total(page, "tryon_transitions_total", event="created") for page in both] == [sessions, 0]
    assert [total(page, "tryon_transitions_total", event="completed") for page in both] == [0, COMPLETED]
    assert [total(page, "tryon_uploads_total", outcome="replayed") for page in both] == [1, 0]
    assert total(scripted.worker, "tryon_pickup_seconds_count", processor=METERED) == sessions
    assert total(scripted.worker, "tryon_run_seconds_count", outcome="completed") == COMPLETED
    assert total(scripted.worker, "tryon_failures_total", code="moderated_input") == 1
    assert total(scripted.worker, "tryon_failures_total", code="other") == 1
    assert total(scripted.worker, "tryon_usage_total", unit="gpu_seconds") == 2.0 * sessions
    assert total(scripted.worker, "tryon_cost_usd_total") == 1.0 * sessions
    assert total(scripted.web, "tryon_files_total", folder="inputs", operation="stored") == sessions
    assert total(scripted.worker, "tryon_files_total", folder="outputs", operation="stored") == COMPLETED
    assert total(scripted.web, "tryon_uploads_refused_total", code="unsupported_image") == 1
    assert total(scripted.web, "tryon_erased_total", reason="deleted") == 1
    assert total(scripted.web, "tryon_push_seconds_count") > 0
    assert [total(page, "tryon_processes") for page in both] == [1, 1]


async def test_labels_name_no_session_client_or_text(scripted: Scripted) -> None:
    """Few values, and none that came from a client."""
    for sample in scripted.samples:
        for value in sample.labels.values():
            assert not any(secret in value for secret in scripted.secrets), sample
    assert len({(each.name, *each.labels.items()) for each in scripted.samples if "le" not in each.labels}) < 500


# -- a real Prometheus -----------------------------------------------------------------


@pytest.mark.slow
async def test_prometheus_scrapes_web_and_worker(
    cluster: tuple[Cluster, int, tuple[str, ...]], scripted: Scripted, tmp_path: Path
) -> None:
    """With the configuration of deploy/ it adds both up and sees a killed worker."""
    running, page_port, _ = cluster
    port = free_port()
    config = (PROMETHEUS / "prometheus.yml").read_text()
    for old, new in (
        ("127.0.0.1:8000", f"127.0.0.1:{running.port}"),
        ("127.0.0.1:9101", f"127.0.0.1:{page_port}"),
        ("15s", "1s"),
    ):
        assert old in config
        config = config.replace(old, new)
    (tmp_path / "prometheus.yml").write_text(config)
    shutil.copy(PROMETHEUS / "alerts.yml", tmp_path)
    arguments = (f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data")
    listen = f"--web.listen-address=127.0.0.1:{port}"
    async with (
        running_program("prometheus", *arguments, listen, port=port, folder=tmp_path),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
        asyncio.timeout(120),
    ):

        async def value(query: str) -> float | None:
            answer = (await client.get("/api/v1/query", params={"query": query})).json()
            assert answer["status"] == "success", (query, answer)
            result = answer["data"]["result"]
            return float(result[0]["value"][1]) if result else None

        async def until(query: str, wanted: float) -> None:
            while await value(query) != wanted:
                await asyncio.sleep(0.2)

        while (await client.get("/-/ready")).status_code != 200:
            await asyncio.sleep(0.1)
        await until('count(up{job=~"tryon.*"} == 1)', 2)
        await until('sum(tryon_transitions_total{event="completed"})', COMPLETED)
        await until("sum(tryon_transitions_total)", 3 * (COMPLETED + len(FAILED)))  # created, claimed, ended
        assert await value("sum(tryon_processes)") == 2
        assert await value("max(tryon_workers)") == 1
        assert await value("sum(tryon_cost_usd_total)") == COMPLETED + len(FAILED)
        for rule in RULES:
            await value(rule["expr"])
        for query in QUERIES:
            await value(query.replace("$__rate_interval", "5m"))
        await running.worker.kill()
        await until('count(ALERTS{alertname="TryOnTargetDown",alertstate="pending"})', 1)
        assert await value('up{job="tryon-web"}') == 1
