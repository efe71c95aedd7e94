"""A stack of its own for a benchmark, and what every benchmark prints about the machine."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import platform
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from PIL import Image

READY_SECONDS = 30


@contextlib.asynccontextmanager
async def running_stack(**settings: Any) -> AsyncIterator[str]:
    """``tryon up`` in a temporary folder on a free port; yields its address. Settings in small letters, without TRYON_."""
    with tempfile.TemporaryDirectory(prefix="tryon-benchmark-") as folder:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TRYON_")}
        environ |= {f"TRYON_{name.upper()}": str(value) for name, value in settings.items()}
        environ |= {"TRYON_DATA_DIR": folder, "TRYON_PORT": "0", "TRYON_LOG_LEVEL": "error"}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server",
            "up",
            cwd=Path(__file__).resolve().parents[1],
            env=environ,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(READY_SECONDS):
                line = (await process.stdout.readline()).decode()
            address = re.search(r"http://\S+", line)
            if address is None:
                raise SystemExit(f"the stack did not start: {line!r}")
            yield address.group().rstrip("/")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.wait()


def photo(width: int = 480, height: int = 640, quality: int = 85) -> bytes:
    """A JPEG that compresses like a photo: smooth colours and some grain."""
    noise = Image.effect_noise((width, height), 24).convert("L")
    ramp = Image.linear_gradient("L").resize((width, height))
    picture = Image.merge("RGB", (ramp, Image.blend(ramp, noise, 0.3), ramp.transpose(Image.Transpose.ROTATE_180)))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def machine() -> str:
    """One line about where a figure was measured."""
    model = "unknown processor"
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        model = found[1] if found else model
    return (
        f"{os.cpu_count()} cores, {model}, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
