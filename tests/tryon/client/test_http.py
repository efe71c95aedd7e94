"""The network for users keeps the port's contract."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from websockets.asyncio.server import ServerConnection, serve

from tests.tryon.client.network_contract import NetworkContract, OpenNetwork
from tryon.client.http import HttpNetwork
from tryon.client.network import Network, NoAnswer


class TestHttpNetwork(NetworkContract):
    """The contract, by httpx and websockets."""

    @pytest.fixture
    def open_network(self) -> OpenNetwork:
        @asynccontextmanager
        async def opened(url: str) -> AsyncIterator[Network]:
            network = HttpNetwork(url, trust_env=False)
            try:
                yield network
            finally:
                await network.close()

        return opened


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a certificate for 127.0.0.1 that signs itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "authority.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
    return file


async def test_certificates_are_checked_on_every_way(authority: Path) -> None:
    """Speak TLS over requests and sockets, and trust the given authority alone."""

    async def talk(connection: ServerConnection) -> None:
        await connection.send("hello")

    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(authority)
    protocols: list[Any] = ["tryon.v1"]
    async with serve(talk, "127.0.0.1", 0, ssl=server_side, subprotocols=protocols, compression=None) as server:
        url = f"https://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        trusting = HttpNetwork(url, trust_env=False, ssl_context=ssl.create_default_context(cafile=authority))
        doubting = HttpNetwork(url, trust_env=False)
        async with trusting.socket("/", subprotocols=["tryon.v1"], seconds=5) as socket:
            assert await socket.receive() == "hello"
        assert (await trusting.request("GET", "/", headers={}, seconds=5)).status == 426
        with pytest.raises(NoAnswer, match="certificate"):
            await doubting.request("GET", "/", headers={}, seconds=5)
        with pytest.raises(NoAnswer, match="SSLCertVerificationError"):
            async with doubting.socket("/", subprotocols=["tryon.v1"], seconds=5):
                pass
        await trusting.close()
        await doubting.close()


@pytest.mark.parametrize("url", ["", "tryon.example", "ftp://tryon.example", "http://"])
def test_url_of_another_kind_is_refused(url: str) -> None:
    """Name the address that cannot be right."""
    with pytest.raises(ValueError, match="is not an address like"):
        HttpNetwork(url)
