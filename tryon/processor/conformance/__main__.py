"""Check a processor from the shell: ``python -m tryon.processor.conformance``.

::

    python -m tryon.processor.conformance package.module:Class
        [--options JSON or TOML file] [--params JSON] [--photo ROLE=FILE ...]

A line for each check; the exit status is 1 if one has failed, and 2 if the processor
cannot be found. Without photos the checks use small drawn ones.
"""

from __future__ import annotations

import argparse
import importlib
import json
import mimetypes
import sys
import tomllib
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tryon.processor.conformance import ProcessorConformance
from tryon.processor.interface import Processor

CANNOT_BE_FOUND: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every check; return the exit status."""
    asked = _parser().parse_args(arguments)
    try:
        found = _find(asked.processor)
        options = _options(asked.options)
        photos = {role: _photo(path) for role, path in (each.split("=", 1) for each in asked.photo)}
        params = json.loads(asked.params)
    except (ValueError, OSError, ImportError, AttributeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return CANNOT_BE_FOUND
    suite = _suite(found, options, params, photos, asked.stop_seconds)
    failed = 0
    for name in _checks():
        try:
            getattr(suite, name)()
        except Exception as error:
            failed += 1
            print(f"FAILED {name}\n{_reason(error)}", flush=True)
        else:
            print(f"ok     {name}", flush=True)
    print(f"{failed} of {len(_checks())} checks failed" if failed else f"{len(_checks())} checks passed")
    return int(failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tryon.processor.conformance", description="Check what a worker relies on in a processor."
    )
    parser.add_argument("processor", metavar="package.module:Class")
    parser.add_argument("--options", default="{}", help="of the constructor: JSON, or the path of a TOML file")
    parser.add_argument("--params", default="{}", help="of every job: JSON")
    parser.add_argument("--photo", action="append", default=[], metavar="ROLE=FILE", help="the input of a role")
    parser.add_argument(
        "--stop-seconds", type=float, default=ProcessorConformance.stop_seconds, help="for a cancelled run to end"
    )
    return parser


def _find(path: str) -> Any:
    module, colon, name = path.partition(":")
    if not colon:
        raise ValueError(f"{path!r} is not of the form package.module:Class")
    sys.path.insert(0, "")  # as python -m has it
    return getattr(importlib.import_module(module), name)


def _options(text: str) -> Mapping[str, Any]:
    options = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(Path(text).read_text())
    if not isinstance(options, dict):
        raise ValueError("the options are no JSON object")
    return options


def _photo(path: str) -> tuple[bytes, str]:
    return Path(path).read_bytes(), mimetypes.guess_type(path)[0] or "image/jpeg"


def _suite(
    found: Any,
    options: Mapping[str, Any],
    jobs: Mapping[str, Any],
    photos: Mapping[str, tuple[bytes, str]],
    stop: float,
) -> ProcessorConformance:
    class Suite(ProcessorConformance):
        params = jobs
        stop_seconds = stop

        def make(self) -> Processor:
            made: Processor = found(**options)
            return made

        def photo(self, role: str, index: int) -> tuple[bytes, str]:
            return photos.get(role) or super().photo(role, index)

    return Suite()


def _checks() -> list[str]:
    return [name for name in vars(ProcessorConformance) if name.startswith("test_")]


def _reason(error: Exception) -> str:
    lines = traceback.format_exception(error)
    return "".join(f"    {line}" for line in "".join(lines[-2:]).splitlines(keepends=True))


if __name__ == "__main__":
    raise SystemExit(main())
