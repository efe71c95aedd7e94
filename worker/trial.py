"""One run of a processor outside any session: ``python -m worker.trial``.

It takes the steps of a worker, in its order and with its limits: the processor starts
in its sandbox, photos are cleaned, ``params`` are checked, the job runs, and its
outputs are verified. Each step is a line of JSON on standard output; ``tryon processor
check`` shows them. What the processor prints goes to standard error: it may print part
of a line, and a step behind that would be no line of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import io
import json
import os
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from server.adapters.imaging.pool import Imaging
from server.config.settings import Config, ConfigError
from server.domain.images import CleanImage, Limits
from server.domain.outputs import VerifiedOutput, output_limits
from server.system.memory_files import memory_file, path_of
from tryon.processor import Checkpoint, Info, Input, Job, Options, Output, ProcessorError
from tryon.processor.params import BadParams, BadSchema, ParamsSchema
from tryon.processor.validation import outputs_of
from tryon.protocol.errors import FAILURES, TryOnError
from worker.isolation.errors import NotStarted, RaisedInChild
from worker.isolation.pool import ProcessPool
from worker.processors import registry

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit statuses: the processor has failed; the arguments or settings of its run cannot
be used, its photos and params among them; Ctrl-C.
"""

SANDBOX: Final = (
    "After start() a processor has no network and reads its code alone. What it needs more it declares: "
    "needs_network, needs_gpu, reads."
)


class Step(msgspec.Struct, frozen=True, tag=True):
    """A step that was taken, or failed; ``mend``: how a failure is mended."""

    name: str
    ok: bool
    text: str
    mend: str = ""
    trace: str = ""


class Moved(msgspec.Struct, frozen=True, tag=True):
    """Progress of the run."""

    progress: float | None
    stage: str | None


class Failed(Exception):
    """A step that failed; the trial ends with ``status``."""

    def __init__(self, step: Step, *, status: int = FAILED) -> None:
        super().__init__(step.text)
        self.step = step
        self.status = status


def misused(name: str, text: str, mend: str = "") -> Failed:
    """Return the failure of a step that the arguments of the trial have caused."""
    return Failed(Step(name, False, text, mend=mend), status=USAGE)


def claim_stdout() -> None:
    """Keep standard output for this process; its children write to standard error."""
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)


def say(line: Step | Moved) -> None:
    """Print a line of JSON."""
    print(msgspec.json.encode(line).decode(), flush=True)


class Words:
    """The run's report: its progress is printed, everything else is dropped."""

    async def __call__(
        self,
        progress: float | None = None,
        stage: str | None = None,
        eta_seconds: float | None = None,
        *,
        step: int | None = None,
        steps: int | None = None,
        upstream_position: int | None = None,
    ) -> None:
        say(Moved(progress, stage))

    async def preview(self, data: bytes, type: str = "image/jpeg") -> None: ...
    async def log(self, text: str) -> None: ...
    async def usage(
        self, *, credits: float | None = None, cost_usd: float | None = None, gpu_seconds: float | None = None
    ) -> None: ...
    async def checkpoint(self, checkpoint: Checkpoint) -> None: ...


async def trial(
    config: Config,
    *,
    options: Options | None,
    photos: Sequence[tuple[str, Path]],
    params: Mapping[str, Any],
    output: Path | None,
) -> None:
    """Take every step. Raises Failed at the first that fails."""
    async with _started(config, options) as (pool, info):
        roles = [(role or info.roles[0].name, path) for role, path in photos]
        _check_roles(info, roles)
        checked = _check_params(info, params)
        limits = Limits(
            max_bytes=config.image_max_bytes,
            min_side=config.image_min_side,
            max_side=config.image_max_side,
            max_pixels=config.image_max_pixels,
        )
        async with Imaging(limits) as imaging:
            images = [(role, await _cleaned(imaging, path)) for role, path in roles]
        outputs = await _run(pool, info, images, checked)
        async with Imaging(output_limits(config.image_max_pixels)) as imaging:
            for number, each in enumerate(outputs, 1):
                _save(await _verified(imaging, each, info), output, number)


@contextlib.asynccontextmanager
async def _started(config: Config, options: Options | None) -> AsyncIterator[tuple[ProcessPool, Info]]:
    begin = time.monotonic()
    try:
        pool = ProcessPool(config, options=options)
    except ConfigError as error:
        raise misused("loads", str(error)) from None
    try:
        pool.start()
        await pool.built()
        say(Step("loads", True, f"{config.processor} is made, within {time.monotonic() - begin:.1f} s"))
        begin = time.monotonic()
        info = await pool.described()
        roles = ", ".join(f"{role.name}{'' if role.required else ' (optional)'}" for role in info.roles)
        what = f"{info.label or info.name} {info.version}: takes {roles}"
        say(Step("starts", True, f"{what}; start() took {time.monotonic() - begin:.1f} s"))
        yield pool, info
    except ConfigError as error:
        raise _not_loaded(str(error)) from None
    except NotStarted as error:
        raise Failed(_step_of("starts", error, "start() has to return.")) from None
    finally:
        await pool.close()


def _not_loaded(text: str) -> Failed:
    """Return the failure of a processor that cannot be made."""
    if text.startswith(registry.OPTIONS):
        return misused("loads", text, mend="Give others: --options JSON|FILE.")
    missing = "No module named" in text or "has no attribute" in text or "there is no processor" in text
    mend = "Its name is package.module:Class, in this folder or on the PYTHONPATH." if missing else ""
    return Failed(Step("loads", False, text.removeprefix("TRYON_PROCESSOR: "), mend=mend))


def _check_roles(info: Info, photos: Sequence[tuple[str, Path]]) -> None:
    given = [role for role, _ in photos]
    known = {role.name: role for role in info.roles}
    unknown = next((role for role in given if role not in known), None)
    if unknown is not None:
        raise misused("photos", f"it has no role {unknown!r}", mend=f"Its roles: {', '.join(known)}.")
    for name, role in known.items():
        if role.required and name not in given:
            raise misused("photos", f"{name} is required", mend=f"Add --input {name}=FILE.")
        if given.count(name) > role.count:
            raise misused("photos", f"{name} may be given {role.count} times, not {given.count(name)}")


def _check_params(info: Info, params: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        checked = ParamsSchema(info.params_schema).check(params)
    except BadSchema as error:
        raise Failed(Step("params", False, f"its params_schema: {error}")) from None
    except BadParams as error:
        raise misused("params", str(error), mend="Its params_schema says what fits.") from None
    say(Step("params", True, json.dumps(checked) if checked else "none"))
    return checked


async def _cleaned(imaging: Imaging, path: Path) -> CleanImage:
    try:
        with path.open("rb") as source:
            image = await imaging.clean(source)
    except OSError as error:
        raise misused("photos", f"{path}: {error.strerror}") from None
    except TryOnError as error:
        raise misused("photos", f"{path}: {error.detail}", mend="Use another photo.") from None
    say(Step("photos", True, f"{path}: {image.width} x {image.height} pixels"))
    return image


async def _run(
    pool: ProcessPool, info: Info, images: Sequence[tuple[str, CleanImage]], params: Mapping[str, Any]
) -> tuple[Output, ...]:
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        counts: dict[str, int] = {}
        inputs: list[Input] = []
        for role, image in images:
            counts[role] = counts.get(role, -1) + 1
            inputs.append(_in_memory(stack, role, counts[role], image))
        order = [role.name for role in info.roles]
        inputs.sort(key=lambda each: (order.index(each.role), each.index))
        try:
            outputs = outputs_of(
                await pool.run(Job(session_id="trial", inputs=tuple(inputs), params=params), Words()), info
            )
        except ProcessorError as error:
            known = FAILURES.get(error.code)
            message = error.message or (known.detail if known else "")
            raise Failed(Step("runs", False, f"{error.code}: {message}")) from None
        except (RaisedInChild, NotStarted) as error:
            raise Failed(_step_of("runs", error, SANDBOX)) from None
        except (TypeError, ValueError) as error:
            raise Failed(Step("runs", False, str(error), mend="A run returns an Output, or several.")) from None
    count = f"{len(outputs)} output{'' if len(outputs) == 1 else 's'}"
    say(Step("runs", True, f"{count} in {time.monotonic() - begin:.1f} s"))
    return outputs


def _in_memory(stack: contextlib.ExitStack, role: str, index: int, image: CleanImage) -> Input:
    file = memory_file(image.data)
    stack.callback(os.close, file)
    return Input(
        role=role,
        index=index,
        type=image.format.media_type,
        path=path_of(file),
        bytes=len(image.data),
        sha256=hashlib.sha256(image.data).hexdigest(),
        width=image.width,
        height=image.height,
    )


async def _verified(imaging: Imaging, output: Output, info: Info) -> VerifiedOutput:
    try:
        return await imaging.verify(io.BytesIO(output.data), output.type, generated=info.generated)
    except TryOnError as error:
        raise Failed(Step("result", False, f"{output.role} ({output.type}): {error.detail}")) from None


def _save(output: VerifiedOutput, path: Path | None, number: int) -> None:
    what = f"{output.type}, {output.width} x {output.height} pixels, {len(output.data)} bytes"
    if path is not None:
        path = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            path.write_bytes(output.data)
        except OSError as error:
            raise misused("result", f"cannot save {path}: {error.strerror}") from None
        what += f", saved as {path}"
    say(Step("result", True, what))


def _step_of(name: str, error: Exception, mend: str) -> Step:
    """Return the step that an exception of the processor has ended."""
    cause = error.__cause__ if isinstance(error, NotStarted) and error.__cause__ else error
    trace = str(cause).strip()
    last = trace.splitlines()[-1] if trace else type(cause).__name__
    return Step(name, False, last, mend=mend, trace=trace if "\n" in trace else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Take every step; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m worker.trial", description="Run a processor once.")
    parser.add_argument("processor")
    parser.add_argument("--photo", action="append", default=[], metavar="ROLE=FILE")
    parser.add_argument("--options", help="JSON, or the path of a TOML file")
    parser.add_argument("--params", default="{}", help="JSON")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--find", action="store_true", help="only find the class and check its options")
    asked = parser.parse_args(arguments)
    try:
        config = Config.load(processor=asked.processor)
        options = None if asked.options is None else _options(asked.options)
        params = _object("--params", asked.params)
        if asked.find:
            found = registry.find(asked.processor)
            registry.check_options(found, asked.processor, registry.options_of(Config.load(), asked.processor))
            return 0
    except ConfigError as error:
        print(f"tryon: {error}", file=sys.stderr)
        return USAGE
    claim_stdout()
    pairs = [each.partition("=") for each in asked.photo]
    photos = [(role, Path(name)) for role, _, name in pairs]
    try:
        asyncio.run(trial(config, options=options, photos=photos, params=params, output=asked.output))
    except Failed as failed:
        say(failed.step)
        return failed.status
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _options(text: str) -> Options:
    """Return the options in JSON, or in a TOML file. Raises ConfigError."""
    if text.lstrip().startswith("{"):
        return _object("--options", text)
    try:
        return tomllib.loads(Path(text).expanduser().read_text())
    except OSError as error:
        raise ConfigError(f"--options: cannot read {text!r}: {error.strerror}; it is JSON or a TOML file") from None
    except ValueError as error:
        raise ConfigError(f"--options: {text} is no TOML file: {error}") from None


def _object(name: str, text: str) -> dict[str, Any]:
    """Return the object that a text in JSON holds. Raises ConfigError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: it is not a JSON object")
    return value


if __name__ == "__main__":
    sys.exit(main())
