"""The Helm chart, linted and rendered by Helm's own library."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest
import yaml

from server.config.settings import Config
from testkit.documents import text_of
from testkit.processes import ROOT
from tests.deploy.tools import CHART, check
from tryon.protocol.paths import LIVE

TOKEN: Final = "t" * 32
LEAST: Final[dict[str, Any]] = {"image": {"repository": "registry.example/tryon-push"}, "existingSecret": "tryon"}
MOST: Final[dict[str, Any]] = {
    "image": {"repository": "registry.example/tryon-push", "tag": "1.2.3"},
    "secrets": {
        "TRYON_SECRET_KEY": "k" * 40,
        "TRYON_DATABASE_URL": "postgresql://tryon:secret@postgres/tryon",
        "TRYON_REDIS_URL": "redis://redis:6379/0",
        "TRYON_PRIVATE_PATHS": TOKEN,
    },
    "settings": {"TRYON_HOSTS": "shop.example", "TRYON_WORKER_JOBS": 1},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/photos"}},
    "web": {"autoscaling": {"enabled": True}, "nodeSelector": {"pool": "web"}},
    "worker": {"autoscaling": {"enabled": True}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
    "ingress": {"enabled": True, "host": "shop.example", "tlsSecret": "tls"},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
}
OPERATORS_OWN: Final = {"PodMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator, which Kubernetes itself has no schema of."""


def render(values: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects by kind and name, each valid."""
    found = {}
    for each in check("render", CHART, values):
        made = each["object"]
        allowed = [] if made["kind"] not in OPERATORS_OWN else ["no schema", "no schema"]
        assert each["faults"] == allowed, made["metadata"]["name"]
        found[made["kind"], made["metadata"]["name"]] = made
    return found


def container(objects: dict[tuple[str, str], dict[str, Any]], kind: str, name: str) -> tuple[dict[str, Any], Any]:
    pod = objects[kind, name]["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_chart_passes_strict_lint(values: dict[str, Any]) -> None:
    """Nothing above the hint that a chart may have an icon."""
    found = check("lint", CHART, values)
    assert found["errors"] == []
    assert [each["error"] for each in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_pods_run_unprivileged_on_read_only_root(values: dict[str, Any]) -> None:
    """Every pod of the chart, the migration too."""
    objects = render(values)
    for kind, name in (
        ("Deployment", "demo-tryon-push-web"),
        ("Deployment", "demo-tryon-push-worker"),
        ("Job", "demo-tryon-push-migrate"),
    ):
        pod, each = container(objects, kind, name)
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["automountServiceAccountToken"] is False
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {mount["mountPath"] for mount in each["volumeMounts"]} == {"/data", "/tmp"}


def test_selectors_match_the_pods_of_one_part_alone() -> None:
    """Services, policies, budgets and monitors of web never take in a worker."""
    objects = render(MOST)
    labels = {
        part: objects["Deployment", f"demo-tryon-push-{part}"]["spec"]["template"]["metadata"]["labels"]
        for part in ("web", "worker")
    }
    for (kind, name), made in objects.items():
        if kind not in ("Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
            continue
        spec = made["spec"]
        selector = spec["podSelector"] if kind == "NetworkPolicy" else spec["selector"]
        wanted = selector if kind == "Service" else selector["matchLabels"]
        part = "web" if kind == "Service" else name.rpartition("-")[2]
        matched = [each for each in labels if wanted.items() <= labels[each].items()]
        assert matched == [part] * (part in labels), (kind, name)


def test_settings_of_chart_are_settings_of_the_product() -> None:
    """A misspelt one would stop the start of every pod."""
    objects = render(MOST)
    settings = {**objects["ConfigMap", "demo-tryon-push"]["data"], **objects["Secret", "demo-tryon-push"]["stringData"]}
    config = Config.load(settings, env_file=None)
    assert config.private_paths == TOKEN
    monitors = [made for (kind, _), made in objects.items() if kind == "PodMonitor"]
    for made in monitors:
        (endpoint,) = made["spec"]["podMetricsEndpoints"]
        assert endpoint["authorization"]["credentials"]["key"] in objects["Secret", "demo-tryon-push"]["stringData"]
    assert len(monitors) == 2
    assert config.hosts == ("shop.example",)
    assert config.worker_jobs == 1
    assert objects["ConfigMap", "demo-tryon-push-migrate"]["data"] == objects["ConfigMap", "demo-tryon-push"]["data"]
    offered = json.loads(json.dumps(check("render", CHART, LEAST)))
    defaults = next(each["object"]["data"] for each in offered if each["object"]["kind"] == "ConfigMap")
    Config.load(defaults, env_file=None)


def scaled_by(objects: dict[tuple[str, str], dict[str, Any]], part: str) -> dict[str, Any]:
    """Return the first metric of a part's autoscaler."""
    metrics = objects["HorizontalPodAutoscaler", f"demo-tryon-push-{part}"]["spec"]["metrics"]
    found: dict[str, Any] = metrics[0]
    return found


def test_autoscaler_of_workers_selects_labels_that_monitors_keep() -> None:
    """A label that Prometheus does not take from the pods selects no series."""
    objects = render(MOST)
    monitor = objects["PodMonitor", "demo-tryon-push-web"]["spec"]
    labels = objects["Deployment", "demo-tryon-push-web"]["spec"]["template"]["metadata"]["labels"]
    kept = {re.sub(r"\W", "_", name): labels[name] for name in monitor["podTargetLabels"]}
    assert scaled_by(objects, "worker")["external"]["metric"]["selector"]["matchLabels"] == kept


def test_adapter_has_the_metrics_of_the_autoscalers() -> None:
    """Each web pod reports the whole queue: a sum would double it."""
    (block,) = re.findall(r"```yaml\n(rules:.*?)```", text_of("docs/containers.md"), re.DOTALL)
    rules = yaml.safe_load(block)["rules"]
    objects = render(MOST)
    for kind, metric, how in (
        ("external", scaled_by(objects, "worker")["external"]["metric"], "max("),
        ("custom", scaled_by(objects, "web")["pods"]["metric"], "sum("),
    ):
        (rule,) = rules[kind]
        assert rule["seriesQuery"].partition("{")[0] == metric["name"]
        assert rule["metricsQuery"].startswith(how)


def test_alert_of_lost_targets_knows_the_jobs_of_the_monitors() -> None:
    """The operator calls a job ``namespace/name``."""
    names = [name for kind, name in render(MOST) if kind == "PodMonitor"]
    (pattern,) = re.findall(r'up\{job=~"([^"]+)"\}', (ROOT / CHART / "files/alerts.yml").read_text())
    assert [bool(re.fullmatch(pattern, f"shop/{name}")) for name in names] == [True, True]


def test_worker_probe_uses_own_metrics_port() -> None:
    """At the port that the settings open: no other worker's answer hides it."""
    objects = render(MOST)
    _, each = container(objects, "Deployment", "demo-tryon-push-worker")
    asked = each["livenessProbe"]["httpGet"]
    (port,) = [port["containerPort"] for port in each["ports"] if port["name"] == asked["port"]]
    config = Config.load(objects["ConfigMap", "demo-tryon-push"]["data"], env_file=None)
    assert (asked["path"], port) == (LIVE, config.worker_metrics_port)


def test_worker_outlives_its_drain() -> None:
    """The grace period is longer than the time for running sessions, whatever it is."""
    pod, _ = container(render(LEAST | {"worker": {"drainSeconds": 300}}), "Deployment", "demo-tryon-push-worker")
    assert pod["terminationGracePeriodSeconds"] == 310


def test_changed_settings_restart_the_pods() -> None:
    """A pod reads its settings once: their checksum is part of it."""
    first, second = (
        render(LEAST | {"settings": {"TRYON_HOSTS": host}})["Deployment", "demo-tryon-push-web"]["spec"]["template"]
        for host in ("shop.example", "shop.test")
    )
    assert first["metadata"]["annotations"] != second["metadata"]["annotations"]


def test_alerts_of_chart_are_the_ones_of_prometheus() -> None:
    """Helm reads only files inside the chart: it has a copy."""
    rules = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    assert (ROOT / CHART / "files/alerts.yml").read_text() == rules


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"existingSecret": "tryon"}, "repository"),
        ({"image": {"repository": "r"}}, "name existingSecret"),
        (LEAST | {"settings": {"tryon-hosts": "x"}}, "tryon-hosts"),
        (LEAST | {"ingress": {"enabled": True}}, "ingress.host"),
    ],
)
def test_missing_value_is_named(values: dict[str, Any], complaint: str) -> None:
    """An installation that cannot work ends before anything is made."""
    with pytest.raises(AssertionError, match=complaint):
        check("render", CHART, values)
