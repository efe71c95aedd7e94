"""deploy/compose.yaml, parsed as the Compose specification says."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest
import yaml

from server.config.settings import Config
from testkit.processes import ROOT
from tests.deploy.tools import check

FILE: Final = "deploy/compose.yaml"
EXAMPLE: Final = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / "deploy/compose.env.example").read_text(), re.MULTILINE))
FILLED: Final = {name: text or "s" * 40 for name, text in EXAMPLE.items()}
OURS: Final = ("migrate", "web", "worker")


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """Return the file with the filled-in example of its variables."""
    parsed: dict[str, Any] = check("compose", FILE, FILLED)
    return parsed


def test_compose_file_names_a_forgotten_secret() -> None:
    """No secret has a default: none is the same in two installations."""
    for name, text in EXAMPLE.items():
        if not text:
            with pytest.raises(AssertionError, match=f"ValueError: {name}"):
                check("compose", FILE, FILLED | {name: ""})


def test_settings_of_compose_are_settings_of_the_product(composed: dict[str, Any]) -> None:
    """All three parts have the same."""
    environments = [composed["services"][name]["environment"] for name in OURS]
    assert environments[0] == environments[1] == environments[2]
    config = Config.load({name: str(text) for name, text in environments[0].items()}, env_file=None)
    assert config.private_paths == FILLED["METRICS_TOKEN"]
    assert [str(each) for each in config.trusted_proxies] == [
        each["subnet"] for each in composed["networks"]["inside"]["ipam"]["config"]
    ]


def test_product_runs_unprivileged_on_read_only_root(composed: dict[str, Any]) -> None:
    """Only /tmp and /data are written; both are in memory."""
    for name in OURS:
        service = composed["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert [each.partition(":")[0] for each in service["tmpfs"]] == ["/tmp", "/data"]


def test_only_nginx_is_published_to_others(composed: dict[str, Any]) -> None:
    """Databases have no port outside; monitoring has one on this machine alone."""
    published = {name: each["ports"] for name, each in composed["services"].items() if "ports" in each}
    assert set(published) == {"nginx", "prometheus", "grafana"}
    assert all(str(port).startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert composed["networks"]["inside"]["internal"] is True


def test_every_server_has_a_health_check(composed: dict[str, Any]) -> None:
    """What waits for another waits until it answers."""
    for name, service in composed["services"].items():
        if service.get("restart") == "no":
            continue
        assert "healthcheck" in service or name == "web", name  # web has the image's own
        for other, how in service.get("depends_on", {}).items():
            restarts = composed["services"][other].get("restart") != "no"
            assert how["condition"] == ("service_healthy" if restarts else "service_completed_successfully")


def test_worker_probe_uses_own_metrics_port(composed: dict[str, Any]) -> None:
    """At the port that its settings open."""
    worker = composed["services"]["worker"]
    assert worker["healthcheck"]["test"] == ["CMD", "tryon", "probe", "--worker"]
    assert worker["environment"]["TRYON_WORKER_METRICS_PORT"]


def test_mounted_files_exist(composed: dict[str, Any]) -> None:
    """A missing one would be made as an empty folder by the engine."""
    raw = yaml.safe_load((ROOT / FILE).read_text())
    mounts = [text.split(":")[0] for each in raw["services"].values() for text in each.get("volumes", ())]
    files = [each for each in mounts if each.startswith("./")]
    assert len(files) >= 5
    for each in files:
        assert (ROOT / "deploy" / each).is_file(), each
    assert {each for each in mounts if not each.startswith("./")} == set(raw["volumes"])


def test_nginx_has_the_web_service_as_its_upstream(composed: dict[str, Any]) -> None:
    """The edit in its command fits the file."""
    script = composed["services"]["nginx"]["command"][-1]
    edits = re.findall(r"-e '([^']+)'", script)
    text = (ROOT / "deploy/nginx.conf").read_text()
    kept = [line for line in text.splitlines() if edits[0].strip("/d") not in line]
    assert len(kept) == len(text.splitlines()) - 1
    before, after = edits[1].removeprefix("s/").removesuffix("/").split("/")
    assert sum(line.count(before) for line in kept) == 1
    assert after == "server web:8000"
