"""`tryon doctor` finds faults, and says how to mend them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from server.cli.examination import CHECKS, Finding, examine
from server.config.plans import PlanSetting
from server.config.settings import Config
from testkit.disks import out_of_reach
from testkit.fixtures import StartStack, StartValkey
from testkit.processes import free_port
from testkit.proxy import running_proxy, subscribes
from testkit.valkey_cluster import ValkeyCluster

MakeConfig = Callable[..., Config]
NAMES = ["versions", "database", "clock", "redis", "storage", "limits", "quotas", "processor", "server"]


@pytest.mark.sqlite
async def test_doctor_finds_a_running_stack_well(stack: StartStack, tmp_path: Path) -> None:
    """Every check of a stack that serves passes, or warns of this machine."""
    up = await stack()
    settings = {"TRYON_DATA_DIR": str(up.data_dir), "TRYON_PORT": up.url.rpartition(":")[2]}
    doctor = await stack("doctor", ready=False, folder=tmp_path / "doctor", **settings)
    assert await doctor.wait() == 0, doctor.output
    states = {line.split()[1]: line.split()[0] for line in doctor.lines if not line.startswith(" ")}
    assert list(states) == NAMES
    well = ("versions", "database", "clock", "redis", "quotas", "processor")
    assert {states[name] for name in well} == {"ok"}, doctor.output
    assert "broken" not in states.values()
    assert any("delivers in" in line for line in doctor.lines)


@pytest.mark.sqlite
async def test_doctor_warns_before_the_first_start(stack: StartStack, tmp_path: Path) -> None:
    """Name the command that makes the missing files, and make nothing."""
    doctor = await stack("doctor", "--json", ready=False, folder=tmp_path / "new", TRYON_PORT=str(free_port()))
    assert await doctor.wait() == 0, doctor.output
    found = {each["name"]: each for each in map(json.loads, doctor.lines)}
    assert list(found) == NAMES
    assert {found[name]["state"] for name in ("database", "redis", "storage", "server")} == {"warning"}
    assert "tryon up" in found["redis"]["mend"]
    assert not doctor.data_dir.exists()


async def test_doctor_names_everything_that_is_broken(stack: StartStack, tmp_path: Path) -> None:
    """Each broken part has its reason and its mend; no trace is printed."""
    (tmp_path / "file").touch()
    doctor = await stack(
        *("doctor", "--json"),
        ready=False,
        TRYON_DATABASE_URL="postgresql+asyncpg://tryon:wrong@127.0.0.1:9/tryon",
        TRYON_REDIS_URL="redis://127.0.0.1:9",
        TRYON_DATA_DIR=str(tmp_path / "file"),
        TRYON_PROCESSOR="no.such.module:Class",
        TRYON_PORT=str(free_port()),
    )
    assert await doctor.wait() == 1, doctor.output
    found = {each["name"]: each for each in map(json.loads, doctor.lines)}
    broken = {name for name, each in found.items() if each["state"] == "broken"}
    assert broken == {"database", "redis", "storage", "processor"}, doctor.output
    assert all(found[name]["mend"] for name in broken)
    assert "no.such.module:Class" in found["processor"]["text"]
    assert doctor.errors == []


async def test_doctor_of_a_database_without_tables_asks_to_migrate(
    empty_postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check that reads tables leaves that to the check of the database."""
    assert await examine(Config(data_dir=tmp_path, database_url=empty_postgres_url), as_json=True) == 1
    found = {each["name"]: each for each in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(found) == NAMES
    assert found["database"]["state"] == "broken"
    assert "tryon migrate" in found["database"]["text"]
    assert found["processor"]["state"] == "ok"


async def test_doctor_of_another_user_names_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each check that meets a file of the server says so, without a trace."""
    folder = tmp_path / "server"
    folder.mkdir()
    with out_of_reach(folder):
        assert await examine(Config(data_dir=folder), as_json=True) == 1
    found = {each["name"]: each for each in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(found) == NAMES
    for name in ("database", "redis", "storage"):
        assert (found[name]["state"], "Permission denied" in found[name]["text"]) == ("broken", True), found[name]
        assert "the user of the server" in found[name]["mend"]


async def test_doctor_stops_at_a_wrong_setting(stack: StartStack) -> None:
    """The settings come first, as at the start of a server."""
    doctor = await stack("doctor", ready=False, TRYON_SWEEP_SECONDS="soon")
    assert await doctor.wait() == 2
    assert len(doctor.errors) == 1
    assert doctor.errors[0].startswith("tryon: TRYON_SWEEP_SECONDS: ")


async def finding(name: str, config: Config) -> Finding:
    """Return the finding of one check."""
    return await dict(CHECKS)[name](config)


async def test_doctor_finds_a_redis_that_delivers_nothing(start_valkey: StartValkey, config: MakeConfig) -> None:
    """It answers every command, and no published message comes back."""
    valkey = start_valkey(tcp=True)
    port = int(valkey.tcp_url.rpartition(":")[2].partition("/")[0])
    async with running_proxy(port) as proxy:
        behind = config(redis_url=f"redis://127.0.0.1:{proxy.port}/0")
        assert (await finding("redis", behind)).state == "ok"
        proxy.deafen(subscribes)
        found = await finding("redis", behind)
    assert (found.state, "delivers no published message" in found.text) == ("broken", True)


async def test_doctor_warns_of_callers_without_limit(config: MakeConfig) -> None:
    """Plans without `default` leave out callers, perhaps by mistake."""
    found = await finding("quotas", config(quotas=(PlanSetting(name="pro", scope="pro"),)))
    assert (found.state, "clients without a JWT" in found.text) == ("warning", True)
    found = await finding("quotas", config(quotas=(PlanSetting(name="default"),)))
    assert (found.state, found.text) == ("ok", "plans: default")


async def test_doctor_warns_of_a_redis_that_evicts(start_valkey: StartValkey, config: MakeConfig) -> None:
    """Its queue could lose jobs when its memory is full."""
    valkey = start_valkey(options=("--maxmemory-policy", "allkeys-lru"))
    found = await finding("redis", config(redis_url=valkey.url))
    assert (found.state, found.mend) == ("warning", "Set maxmemory-policy noeviction.")


async def test_doctor_sends_through_each_master_of_a_cluster(
    start_valkey: StartValkey, config: MakeConfig, steady_cluster: ValkeyCluster
) -> None:
    """By sharded pub/sub, as the news; an append-only file at one node is told."""
    behind = config(redis_url=steady_cluster.url, queue_redis_url=start_valkey(tcp=True).tcp_url)
    found = await finding("redis", behind)
    assert (found.state, "(a cluster) delivers in" in found.text) == ("ok", True), found
    node = steady_cluster.nodes[-1]
    await node.command("CONFIG", "SET", "appendonly", "yes")
    try:
        found = await finding("redis", behind)
    finally:
        await node.command("CONFIG", "SET", "appendonly", "no")
    assert (found.state, "keeps an append-only file" in found.text) == ("warning", True), found
    assert found.mend == "Set appendonly no at each node: the cluster holds news alone."


async def test_doctor_knows_postgresql(postgres_url: str, empty_postgres_url: str, config: MakeConfig) -> None:
    """A database that was not migrated is broken, a ready one is ok."""
    ready, empty = config(database_url=postgres_url), config(database_url=empty_postgres_url)
    assert (await finding("database", ready)).text.startswith("PostgreSQL ")
    assert (await finding("clock", ready)).state == "ok"
    found = await finding("database", empty)
    assert (found.state, "run `tryon migrate`" in found.text) == ("broken", True)
