"""What ``TRYON_PROCESSOR`` may name, and the one line that refuses anything else."""

from __future__ import annotations

import contextlib
import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from server.config.settings import Config, ConfigError
from tryon.processor import Info, Job, Output, Processor, Role
from tryon.processor.params import ParamsSchema
from worker.isolation.fork_server_link import _environment
from worker.processors.mock import MockProcessor
from worker.processors.registry import ENTRY_POINTS, check_options, find, info_of, make, options_of, secrets_of_others


class Empty:
    """A class without an info and a ``run``."""


class Upside:
    """A processor of a project's own."""

    info = Info(name="upside")

    def __init__(self, *, strength: float = 1.0) -> None:
        self.strength = strength

    async def run(self, job: Job, report: Any) -> Output:
        return Output(job.inputs[0].read()[::-1])


class Broken:
    def __init__(self) -> None:
        raise OSError("no GPU\nhere")


class Vague(Upside):
    reads = "/models"


class FromTheFuture(Upside):
    info = Info(name="upside", interface=3)


class Misnamed(Upside):
    info = Info(name="upside", roles=(Role(name="The person"),))


class Twofold(Upside):
    info = Info(name="upside", roles=(Role(name="person"), Role(name="person")))


def load(name: str, **options: float) -> Processor:
    return make(find(name), name, options)


def test_mock_is_built_in() -> None:
    """The name ``mock`` needs no path."""
    assert isinstance(load("mock"), MockProcessor)


def test_mock_options_come_from_settings() -> None:
    """The settings ``TRYON_MOCK_*`` are the options of the mock alone."""
    config = Config(mock_seconds=1.5, mock_failure_rate=0.25, mock_seed=7)
    assert options_of(config, "mock") == {"seconds": 1.5, "failure_rate": 0.25, "seed": 7}
    assert repr(load("mock", **options_of(config, "mock"))) == "<MockProcessor 1.5s failure_rate=0.25 seed=7>"
    own = f"{__name__}:Upside"
    assert options_of(Config(processor=own), own) == {}


def test_own_class_is_found_by_path() -> None:
    """``package.module:Class`` plugs in a processor, which gets its own options."""
    processor = load(f"{__name__}:Upside", strength=0.5)
    assert info_of(processor, "upside").name == "upside"
    assert processor.strength == 0.5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("magic", "no processor 'magic'; it is mock"),
        ("no.such.module:Thing", "ModuleNotFoundError"),
        (f"{__name__}:Missing", "AttributeError"),
        (f"{__name__}:Broken", "no GPU here"),
        (f"{__name__}:Vague", "reads is '/models', not a tuple of paths"),
        (f"{__name__}:Empty", "needs an info and an async run"),
        (f"{__name__}:FromTheFuture", "written for version 3 of the interface"),
        (f"{__name__}:Misnamed", "'The person' in its roles is not of the form"),
        (f"{__name__}:Twofold", "its roles have a name twice"),
    ],
)
def test_unusable_processor_is_refused_in_one_line(name: str, reason: str) -> None:
    """The line names the setting and the reason."""
    with pytest.raises(ConfigError) as error:
        load(name)
    assert "TRYON_PROCESSOR" in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_option_is_refused_in_one_line() -> None:
    """An option that the constructor does not take is a wrong setting."""
    with pytest.raises(ConfigError, match=r"TRYON_PROCESSOR.*unexpected keyword argument"):
        load(f"{__name__}:Upside", speed=2)


# -- options ---------------------------------------------------------------------------


class Strict(Upside):
    """A processor that says which options it takes."""

    options_schema: ClassVar = {
        "type": "object",
        "properties": {"strength": {"type": "number", "minimum": 0, "default": 0.25}},
        "additionalProperties": False,
    }


def test_options_are_json_or_toml_file(tmp_path: Path) -> None:
    """The options stand in the setting, or in a file that it names."""
    (tmp_path / "own.toml").write_text("strength = 2.5\n[retry]\nafter = 3")
    for text in ('{"strength": 2.5, "retry": {"after": 3}}', str(tmp_path / "own.toml")):
        assert options_of(Config(processor="own:Model", processor_options=text), "own:Model") == {
            "strength": 2.5,
            "retry": {"after": 3},
        }


def test_options_win_over_settings_of_mock() -> None:
    """The mock takes options as any processor does."""
    config = Config(mock_seconds=1.5, processor_options='{"seconds": 0.5}')
    assert options_of(config, "mock") == {"seconds": 0.5, "failure_rate": 0.1, "seed": None}


def test_each_processor_of_several_has_its_table() -> None:
    """With fall-over the options are tables by name; a table of another is refused."""
    config = Config(processor="cog,own:Model", processor_options='{"own:Model": {"strength": 1}}')
    assert (options_of(config, "cog"), options_of(config, "own:Model")) == ({}, {"strength": 1})
    with pytest.raises(ConfigError, match=r"'cgo' is none of cog, own:Model"):
        options_of(replace(config, processor_options='{"cgo": {}}'), "cog")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"key": "hush", }', r"no JSON object and no TOML file \(line 1 column \d+\)"),
        ("/no/such/file.toml", "cannot read '/no/such/file.toml'"),
    ],
)
def test_malformed_options_are_refused_in_one_line(text: str, reason: str) -> None:
    """The line names the setting and shows none of the options."""
    with pytest.raises(ConfigError, match=reason) as error:
        options_of(Config(processor="own:Model", processor_options=text), "own:Model")
    assert str(error.value).startswith("TRYON_PROCESSOR_OPTIONS: ")
    assert "hush" not in str(error.value)
    assert "\n" not in str(error.value)


def test_schema_checks_options_and_fills_defaults() -> None:
    """A class says by a schema which options it takes."""
    assert load(f"{__name__}:Strict").strength == 0.25  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"TRYON_PROCESSOR_OPTIONS: .*Strict: /strength: "):
        load(f"{__name__}:Strict", strength=-1)


@pytest.mark.parametrize("name", ["httpjob", "gradio"])
def test_schemas_of_built_in_processors_are_sound(name: str) -> None:
    """Every built-in processor that has a schema of its options has a usable one."""
    with contextlib.suppress(ConfigError):  # options that are missing
        check_options(find(name), name, {})
    ParamsSchema(find(name).options_schema)  # type: ignore[attr-defined]


def test_entry_point_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is installed names its processor in ``tryon.processors``."""
    point = importlib.metadata.EntryPoint("upside", f"{__name__}:Upside", ENTRY_POINTS)

    def entry_points(*, group: str, name: str) -> list[importlib.metadata.EntryPoint]:
        return [point] if (group, name) == (point.group, point.name) else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert isinstance(load("upside"), Upside)


def test_secrets_of_other_processors_are_known() -> None:
    """The fork server of a processor withholds what only another one's options name."""
    options = '{"httpjob": {"key_env": "FAL_KEY"}, "acme:One": {"key_env": "ONE_KEY", "token_env": "SHARED"}, '
    options += '"acme:Two": {"key_env": "SHARED"}}'
    config = Config(processor="mock,httpjob,acme:One,acme:Two", processor_options=options)
    assert secrets_of_others(config, "mock") == ["FAL_KEY", "ONE_KEY", "SHARED"]
    assert secrets_of_others(config, "httpjob") == ["ONE_KEY", "SHARED"]
    assert secrets_of_others(config, "acme:Two") == ["FAL_KEY", "ONE_KEY"]
    assert secrets_of_others(Config(processor="acme:One"), "acme:One") == []


def test_environment_lacks_what_is_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor's processes do not know the key of the one that it falls over to."""
    monkeypatch.setenv("FAL_KEY", "secret")
    monkeypatch.setenv("OWN_KEY", "own")
    environment = _environment(["FAL_KEY"])
    assert "FAL_KEY" not in environment and environment["OWN_KEY"] == "own"
