"""HTTP and websockets over TLS on one port."""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from trio_websocket import open_websocket_url, wrap_client_stream

from actorchat.server.bootstrap import tls_context
from actorchat.server.serving import open_server
from actorchat.server.settings import InvalidSettings, Settings
from tests.server.server_under_test import SECRET, TIMEOUT, get_live


def certified(folder: Path, encryption: KeySerializationEncryption) -> Settings:
    """Settings with a self-signed certificate for 127.0.0.1."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "actorchat test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, None)
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return Settings(
        storage="memory://",
        port=0,
        secret=SECRET,
        tls_cert=folder / "cert.pem",
        tls_key=folder / "key.pem",
    )


async def test_http_and_sockets_share_the_port_over_tls(tmp_path: Path) -> None:
    settings = certified(tmp_path, NoEncryption())
    trust = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    with trio.fail_after(TIMEOUT):
        async with open_server(settings) as server:
            assert server.url.startswith("https://")
            async with httpx.AsyncClient(base_url=server.url, verify=trust) as http:
                answers = [await http.post("/api/visitors", json={"source": "lk"}) for _ in range(2)]
            visit = answers[-1].json()
            url = f"{server.url.replace('https', 'wss', 1)}/ws/chats/{visit['chat']['uuid']}"
            bearer = [(b"Authorization", f"Bearer {visit['token']}".encode())]
            async with open_websocket_url(url, ssl_context=trust, extra_headers=bearer) as member:
                assert "user_connected" in await member.get_message()
            async with trio.open_nursery() as nursery:
                stream = await trio.open_ssl_over_tcp_stream(
                    "127.0.0.1", server.port, ssl_context=trust, https_compatible=True
                )
                await get_live(stream)
                path = f"/ws/chats/{visit['chat']['uuid']}"
                async with await wrap_client_stream(nursery, stream, "x", path, extra_headers=bearer) as later:
                    assert "user_connected" in await later.get_message()
                await trio.aclose_forcefully(stream)


async def test_a_program_that_embeds_the_server_reloads_its_certificate(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        await trio.Path(folder).mkdir()
    old, new = (certified(folder, NoEncryption()) for folder in folders)
    trust = [ssl.create_default_context(cafile=folder / "cert.pem") for folder in folders]
    with trio.fail_after(TIMEOUT):
        async with open_server(old) as server:
            for context in trust:
                async with httpx.AsyncClient(base_url=server.url, verify=context) as http:
                    assert (await http.get("/health/live")).status_code == 200
                await server.reload_certificate(new.tls_cert, new.tls_key)
            await trio.Path(folders[1] / "key.pem").write_text("garbage")
            with pytest.raises(InvalidSettings, match="not a certificate and its key"):
                await server.reload_certificate()
            async with httpx.AsyncClient(base_url=server.url, verify=trust[1]) as http:
                assert (await http.get("/health/live")).status_code == 200
            assert server.settings.tls_cert == folders[1] / "cert.pem"


async def test_a_server_without_tls_has_no_certificate_to_reload() -> None:
    async with open_server(Settings(storage="memory://", port=0, secret=SECRET)) as server:
        with pytest.raises(RuntimeError, match="no TLS"):
            await server.reload_certificate()


def test_a_key_with_a_password_is_a_fault_and_no_question(tmp_path: Path) -> None:
    settings = certified(tmp_path, BestAvailableEncryption(b"secret"))
    with pytest.raises(InvalidSettings, match=r"tls_cert: .*not a certificate and its key"):
        tls_context(settings)


def test_a_file_that_is_not_there_is_a_fault_of_its_setting(tmp_path: Path) -> None:
    settings = certified(tmp_path, NoEncryption())
    (tmp_path / "key.pem").unlink()
    with pytest.raises(InvalidSettings, match=r"tls_key: the file .*key\.pem does not exist"):
        tls_context(settings)
