"""Find the processor that ``TRYON_PROCESSOR`` names, and make one.

:mod:`~worker.isolation.forkserver` finds it once, each child makes its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final

from server.config.settings import Config, ConfigError
from tryon.processor import Info, Options, Processor, needs_of
from tryon.processor.validation import check_info

BUILT_IN: Final[dict[str, str]] = {
    "mock": "worker.processors.mock:MockProcessor",
    "httpjob": "worker.processors.httpjob:HttpJob",
    "gradio": "worker.processors.gradio.processor:GradioProcessor",
    "cog": "worker.processors.cog:CogProcessor",
}
"""Path of the class, by the processor's name."""

Make = Callable[..., Processor]


def options_of(config: Config) -> Options:
    """Return the options of the configured processor; only the mock has settings."""
    if config.processor != "mock":
        return {}
    return {
        "seconds": config.mock_seconds,
        "failure_rate": config.mock_failure_rate,
        "seed": config.mock_seed,
    }


def find(name: str) -> Make:
    """Return the class that ``TRYON_PROCESSOR`` names.

    Raises :class:`ConfigError`: one line that says what is wrong.
    """
    path = BUILT_IN.get(name, name)
    if ":" not in path:
        known = ", ".join(BUILT_IN)
        raise ConfigError(f"TRYON_PROCESSOR: there is no processor {name!r}; it is {known}, or package.module:Class")
    module_name, _, class_name = path.partition(":")
    try:
        found: Make = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        raise unusable(name, f"{type(error).__name__}: {error}") from error
    info = getattr(found, "info", None)
    if isinstance(info, Info):  # an instance may have another, or know it later
        _checked(info, name)
    return found


def make(found: Make, name: str, options: Options) -> Processor:
    """Return a new processor. Raises :class:`ConfigError` as :func:`find` does."""
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
