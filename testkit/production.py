"""``python -m testkit.production``: the whole production form as processes of loopback.

PostgreSQL, Valkey, an S3 server, two web processes and two workers behind nginx,
HAProxy or Caddy with the very configuration of deploy/. One command starts it and
prints its address; Ctrl-C stops it. Suites run against the same form by
:func:`running_production`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import click
import uvloop

from testkit.balancers import KINDS
from testkit.cluster import Cluster, running_cluster

FORM: Final[dict[str, Any]] = {"webs": 2, "workers": 2, "postgres": True, "s3": True, "balancer": "nginx"}
"""What makes an installation the production form."""


@contextlib.asynccontextmanager
async def running_production(balancer: str, **settings: Any) -> AsyncIterator[Cluster]:
    """Run the production form behind this proxy until the end of the block.

    ``settings``: of the product, or of :func:`testkit.cluster.running_cluster`.
    """
    async with running_cluster(**(FORM | {"balancer": balancer} | settings)) as cluster:
        yield cluster


def described(cluster: Cluster) -> str:
    """Return the parts of the form with their addresses, a line for each."""
    assert cluster.balancer is not None and cluster.postgres is not None and cluster.s3 is not None
    lines = [
        ("clients", f"{cluster.url}/ (documentation: {cluster.url}/api/docs)"),
        (cluster.balancer.kind, str(cluster.balancer.configuration)),
        *((web.name, f"http://127.0.0.1:{web.port}, pid {web.pid}") for web in cluster.webs),
        *((worker.name, f"pid {worker.pid}") for worker in cluster.workers),
        ("PostgreSQL", cluster.postgres.url("tryon", "postgresql")),
        ("Valkey", cluster.valkey.tcp_url),
        ("S3", cluster.s3.storage_url("cluster")),
        ("logs", str(cluster.logs)),
    ]
    return "\n".join(f"{name:11} {value}" for name, value in lines)


async def serve(balancer: str, port: int, settings: Mapping[str, str]) -> None:
    """Run the form until SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with running_production(balancer, balancer_port=port, **settings) as cluster:
        print(described(cluster), f"TryOn Push is ready at {cluster.url}", sep="\n", flush=True)
        await stopped.wait()
        print("Stopping", flush=True)


def _settings(given: tuple[str, ...]) -> dict[str, str]:
    """Return TRYON_NAME=value as the settings of a cluster. Raises UsageError."""
    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name.startswith("TRYON_"):
            raise click.UsageError(f"{each!r} is not TRYON_NAME=value")
        found[name.removeprefix("TRYON_").lower()] = value
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--proxy", type=click.Choice(KINDS), default="nginx", help="The proxy in front, as in deploy/.")
@click.option("--port", default=8080, help="Port of the proxy; 0: a free one.")
@click.argument("settings", nargs=-1, metavar="[TRYON_NAME=value]...")
def main(proxy: str, port: int, settings: tuple[str, ...]) -> None:
    """Run the production form on this machine until Ctrl-C."""
    uvloop.run(serve(proxy, port, _settings(settings)))


if __name__ == "__main__":
    main(prog_name="python -m testkit.production")
