"""A real Redis behind TLS: Debian's, for the Valkey of other tests is built without."""

from __future__ import annotations

import shutil

from testkit.certificates import Authority
from testkit.plugin import missing
from testkit.processes import free_port
from testkit.servers import ValkeyServer


class TlsRedis(ValkeyServer):
    """A Redis that speaks TLS on ``port``, and asks clients for a certificate.

    ``sentinel_of``: it is a Sentinel that watches that one. ``options``: of the command
    line.
    """

    def __init__(
        self,
        authority: Authority,
        *hosts: str,
        sentinel_of: TlsRedis | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        super().__init__(options=options)
        self._binary = shutil.which("redis-server") or missing("redis-server (Debian: apt-get install redis-server)")
        certificate, key = authority.issue(f"server-{self.folder.name}", *hosts)
        self.port = free_port()
        lines = [
            "port 0",
            "bind 127.0.0.1",
            f"tls-port {self.port}",
            f"tls-cert-file {certificate}",
            f"tls-key-file {key}",
            f"tls-ca-cert-file {authority.ca}",
            "tls-auth-clients yes",
            "tls-replication yes",
            f"unixsocket {self.socket_path}",
            f"dir {self.folder}",
            'save ""' if sentinel_of is None else f"sentinel monitor tryon 127.0.0.1 {sentinel_of.port} 1",
        ]
        self._file = self.folder / "redis.conf"
        self._file.write_text("\n".join(lines) + "\n")
        self._more = ["--sentinel"] if sentinel_of is not None else list(options)

    def arguments(self) -> list[str]:
        """Return its file, and the options."""
        return [str(self._file), *self._more]
