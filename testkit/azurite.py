"""A real Azure blob server for tests: Azurite, a process that dies with the test's."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import Final

import httpx

from server.system.processes import dying_with_parent
from testkit.environments import EnvironmentMissing
from testkit.node_packages import AZURITE, node_packages
from testkit.processes import START_SECONDS, environment, free_port

ACCOUNT: Final = "tryon"
CONTAINER: Final = "photos"
"""The container of the product's objects; tests keep apart by their prefix."""

_KEY: Final = base64.b64encode(secrets.token_bytes(32)).decode()
_MAIN: Final = "azurite/dist/src/blob/main.js"
_VERSION: Final = "2021-12-02"
"""Version of the service that the container is made with."""


class AzuriteServer:
    """A blob server with one account and one container, which keeps all in memory.

    ``environ`` are the variables with which the product signs its requests.
    """

    def __init__(self) -> None:
        """Find the program. Raises EnvironmentMissing."""
        node = shutil.which("node")
        if node is None:
            raise EnvironmentMissing("node")
        self.port = free_port()
        self._command = [node, str(node_packages(AZURITE) / _MAIN)]
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<AzuriteServer {self.endpoint} pid={self._process and self._process.pid}>"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def environ(self) -> Mapping[str, str]:
        """Return the variables with the product's credentials."""
        return {"AZURE_STORAGE_ACCOUNT_KEY": _KEY}

    def storage_url(self, prefix: str, *, container: str = CONTAINER) -> str:
        """Return TRYON_STORAGE_URL."""
        return f"az://{container}/{prefix}?account={ACCOUNT}&endpoint={self.endpoint}"

    def start(self) -> AzuriteServer:
        """Start it; return when it has its container."""
        options = ["--silent", "--disableTelemetry", "--inMemoryPersistence", "--skipApiVersionCheck"]
        self._process = subprocess.Popen(
            [*self._command, *options, "--blobHost", "127.0.0.1", "--blobPort", str(self.port)],
            env=environment({"AZURITE_ACCOUNTS": f"{ACCOUNT}:{_KEY}"}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=dying_with_parent(),
        )
        deadline = time.monotonic() + 2 * START_SECONDS
        while not self._has_container():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Azurite did not start: {self._process.poll()}")
            time.sleep(0.05)  # nothing announces that it listens
        return self

    def _has_container(self) -> bool:
        """Make the container, as obstore cannot; return whether it is there."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _VERSION}
        named = "".join(f"{name}:{value}\n" for name, value in headers.items())
        # The account stands twice: this kind of endpoint has it in its path, too.
        resource = f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
        signed = hmac.new(base64.b64decode(_KEY), f"PUT{chr(10) * 12}{named}{resource}".encode(), hashlib.sha256)
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signed.digest()).decode()}"
        url = f"{self.endpoint}/{CONTAINER}?restype=container"
        try:
            answer = httpx.put(url, headers=headers, trust_env=False, timeout=5)
        except httpx.HTTPError:
            return False
        if answer.status_code not in (201, 409):
            raise RuntimeError(f"Azurite makes no container: {answer.text}")
        return True

    def close(self) -> None:
        """End it at once (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
