"""Find the processor that ``TRYON_PROCESSOR`` names, and make one.

:mod:`~worker.isolation.forkserver` finds it once, each child makes its own.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from server.config.settings import Config, ConfigError
from tryon.processor import Info, Options, Processor, needs_of
from tryon.processor.params import BadParams, BadSchema, ParamsSchema
from tryon.processor.validation import check_info

BUILT_IN: Final[dict[str, str]] = {
    "mock": "worker.processors.mock:MockProcessor",
    "overlay": "worker.processors.overlay.processor:OverlayProcessor",
    "httpjob": "worker.processors.httpjob:HttpJob",
    "gradio": "worker.processors.gradio.processor:GradioProcessor",
    "cog": "worker.processors.cog:CogProcessor",
}
"""Path of the class, by the processor's name."""

ENTRY_POINTS: Final = "tryon.processors"
"""The group of entry points that name processors of other packages."""

OPTIONS: Final = "TRYON_PROCESSOR_OPTIONS"

Make = Callable[..., Processor]


def options_of(config: Config, name: str) -> Options:
    """Return the options of a configured processor.

    ``TRYON_PROCESSOR_OPTIONS`` holds those of one processor; with several, a table for
    each, by its name in ``TRYON_PROCESSOR``. They win over the mock's own settings.
    Raises :class:`ConfigError`.
    """
    given = _given_options(config.processor_options)
    names = config.processors
    if len(names) > 1:
        if unknown := set(given) - set(names):
            raise ConfigError(f"{OPTIONS}: {sorted(unknown)[0]!r} is none of {', '.join(names)}")
        given = given.get(name, {})
        if not isinstance(given, dict):
            raise ConfigError(f"{OPTIONS}: the options of {name!r} are no table")
    if name != "mock":
        return given
    mock = {"seconds": config.mock_seconds, "failure_rate": config.mock_failure_rate, "seed": config.mock_seed}
    return mock | given


def secrets_of_others(config: Config, name: str) -> list[str]:
    """Return the environment variables that only options of other processors name.

    Those are the options ``..._env``. Raises :class:`ConfigError`.
    """

    def named(processor: str) -> set[str]:
        return {str(value) for key, value in options_of(config, processor).items() if key.endswith("_env")}

    others = [named(each) for each in config.processors if each != name]
    return sorted(set().union(*others) - named(name)) if name in config.processors else []


def options_file(config: Config) -> Path | None:
    """Return the file that holds the options, if they are not the setting itself."""
    text = config.processor_options
    return None if text is None or text.startswith("{") else Path(text).expanduser()


def _given_options(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        options = json.loads(text) if text.startswith("{") else tomllib.loads(Path(text).expanduser().read_text())
    except OSError as error:
        raise ConfigError(f"{OPTIONS}: cannot read {text!r} ({error.strerror}); it is JSON or a TOML file") from None
    except ValueError as error:  # its text may show the options, which may be secret
        place = re.search(r"line \d+,? column \d+", str(error))
        where = f" ({place[0]})" if place else ""
        raise ConfigError(f"{OPTIONS}: it is no JSON object and no TOML file{where}") from None
    return dict(options)


def find(name: str) -> Make:
    """Return the class that ``TRYON_PROCESSOR`` names.

    Raises :class:`ConfigError`: one line that says what is wrong.
    """
    path = BUILT_IN.get(name) or _entry_point(name) or name
    if ":" not in path:
        known = ", ".join(BUILT_IN)
        raise ConfigError(
            f"TRYON_PROCESSOR: there is no processor {name!r}; it is {known}, "
            f"an entry point of {ENTRY_POINTS}, or package.module:Class"
        )
    module_name, _, class_name = path.partition(":")
    try:
        found: Make = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        raise unusable(name, f"{type(error).__name__}: {error}") from error
    info = getattr(found, "info", None)
    if isinstance(info, Info):  # an instance may have another, or know it later
        _checked(info, name)
    return found


def _entry_point(name: str) -> str | None:
    found = importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)
    return next((point.value for point in found), None)


def check_options(found: Make, name: str, options: Options) -> Options:
    """Return the options with the defaults of the class's ``options_schema``.

    Raises :class:`ConfigError`: they do not fit.
    """
    schema = getattr(found, "options_schema", None)
    if schema is None:
        return options
    try:
        return ParamsSchema(schema).check(dict(options))
    except BadSchema as error:
        raise unusable(name, f"its options_schema: {error}") from error
    except BadParams as error:
        raise ConfigError(f"{OPTIONS}: {name}: {' '.join(str(error).split())}") from error


def make(found: Make, name: str, options: Options) -> Processor:
    """Return a new processor. Raises :class:`ConfigError` as :func:`find` does."""
    options = check_options(found, name, options)
    try:
        processor = found(**options)
    except ConfigError:
        raise
    except Exception as error:
        raise unusable(name, f"{type(error).__name__}: {error}") from error
    if not callable(getattr(processor, "run", None)):
        raise ConfigError(f"TRYON_PROCESSOR: {name!r} is no processor: it needs an info and an async run(job, report)")
    try:
        needs_of(processor)
    except TypeError as error:
        raise unusable(name, error) from error
    return processor


def info_of(processor: Processor, name: str) -> Info:
    """Return the info of a started processor. Raises :class:`ConfigError`."""
    try:
        info = processor.info
    except Exception as error:
        raise unusable(name, f"info: {type(error).__name__}: {error}") from error
    return _checked(info, name)


def _checked(info: object, name: str) -> Info:
    try:
        return check_info(info)
    except (TypeError, ValueError) as error:
        raise unusable(name, error) from error


def unusable(name: str, reason: object) -> ConfigError:
    """Return the error of a processor that cannot be loaded, on one line."""
    return ConfigError(f"TRYON_PROCESSOR: {name!r} cannot be loaded ({' '.join(str(reason).split())})")
