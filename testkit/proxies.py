"""Real proxies in front of the product, configured as docs/deploying.md says."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

from testkit.installed import running_program
from testkit.nginx import running_nginx
from testkit.processes import ROOT, free_port


def documented(language: str) -> str:
    """Return the block of docs/deploying.md in this language."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / "deploying.md").read_text(), re.M | re.S)
    return str(block)


@contextlib.asynccontextmanager
async def running_proxy(kind: str, target: int, folder: Path) -> AsyncIterator[int]:
    """Pass a free port on to ``target`` as the documents say; yield that port.

    ``kind``: nginx, caddy or haproxy.
    """
    if kind == "nginx":
        locations = documented("nginx").replace("127.0.0.1:8000", f"127.0.0.1:{target}")
        async with running_nginx(target, folder, locations=locations) as nginx:
            yield nginx.port
        return
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "caddy":
        text = "{\n    admin off\n}\n" + documented("caddyfile").replace("http://:8080", f"http://:{port}")
        arguments = ["run", "--adapter", "caddyfile", "--config"]
    else:
        text = documented("haproxy").replace(":8080", f"127.0.0.1:{port}")
        arguments = ["-db", "-f"]
    configuration = folder / f"{kind}.conf"
    configuration.write_text(text.replace("127.0.0.1:8000", f"127.0.0.1:{target}"))
    async with running_program(kind, *arguments, str(configuration), port=port, folder=folder):
        yield port
