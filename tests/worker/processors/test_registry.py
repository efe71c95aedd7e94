"""What ``TRYON_PROCESSOR`` may name, and the one line that refuses anything else."""

from __future__ import annotations

from typing import Any

import pytest

from server.config.settings import Config, ConfigError
from tryon.processor import Info, Job, Output, Processor, Role
from worker.processors.mock import MockProcessor
from worker.processors.registry import find, info_of, make, options_of


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
    assert options_of(config) == {"seconds": 1.5, "failure_rate": 0.25, "seed": 7}
    assert repr(load("mock", **options_of(config))) == "<MockProcessor 1.5s failure_rate=0.25 seed=7>"
    assert options_of(Config(processor=f"{__name__}:Upside")) == {}


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
